"""What is loaded for good is kept out of the garbage collector's sight, and let go when another model takes its place."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

from spoken_intents.channels.spoken import settle


class Agent:
    """A Rasa agent that holds itself up, as real ones do: no reference count ever lets it go."""

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.itself = self


@pytest.fixture
def frozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def app(agent: Any) -> Any:
    return SimpleNamespace(ctx=SimpleNamespace(agent=agent))


@pytest.mark.usefixtures("frozen")
def test_a_model_is_frozen_once_and_let_go_when_it_is_replaced() -> None:
    server = app(Agent("first"))
    first = weakref.ref(server.ctx.agent)
    settle(server)
    assert not any(thing is server.ctx.agent for thing in gc.get_objects())  # nothing that a collection would look at
    frozen = gc.get_freeze_count()
    kept = [[] for _ in range(100)]
    settle(server)
    assert gc.get_freeze_count() <= frozen < frozen + len(kept)
    server.ctx.agent = Agent("second")
    gc.collect()
    assert first() is not None  # frozen: nobody looks
    settle(server)
    assert first() is None
    assert gc.get_freeze_count() > 0


@pytest.mark.usefixtures("frozen")
def test_a_server_without_a_model_settles_too() -> None:
    server = app(None)
    settle(server)
    assert gc.get_freeze_count() > 0
