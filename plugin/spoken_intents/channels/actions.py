"""Whether an action of the assistant failed. Rasa writes that to its log, goes on without the action, and tells nobody else."""

from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Iterator, List, Optional

from rasa.core.actions.action import ActionExecutionRejection, RemoteAction

_failed: "ContextVar[Optional[List[str]]]" = ContextVar("failed_actions", default=None)


@contextmanager
def failures() -> Iterator[List[str]]:
    """The names of the actions on the action server that fail inside, as they do."""
    failed: List[str] = []
    token = _failed.set(failed)
    try:
        yield failed
    finally:
        _failed.reset(token)


def notice_failures() -> None:
    """Has Rasa's actions tell `failures`. What becomes of them is as before; once is enough."""
    run = RemoteAction.run
    if hasattr(run, "is_noticed"):
        return

    @wraps(run)
    async def noticed(self: RemoteAction, *arguments: Any, **options: Any) -> Any:
        try:
            return await run(self, *arguments, **options)
        except ActionExecutionRejection:  # on purpose: another one is to be taken
            raise
        except Exception:
            failed = _failed.get()
            if failed is not None:
                failed.append(self.name())
            raise

    noticed.is_noticed = True  # type: ignore[attr-defined]
    RemoteAction.run = noticed
