"""Whose line of the log it is: the call, and its turn. And lines as JSON.

    2026-11-26 03:44:21 INFO     spoken_intents.session  - call=3f2a9c turn=3 {"event": "turn_over", ...}

Whoever logs knows nothing of it: what is written while a call is handled says so by itself, by ours, by Rasa or by an
assistant's component alike.
"""

import json
import logging
import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Dict, Iterator, Optional

PLAIN = re.compile(r"[\w.:+-]+", re.ASCII)  # of ids, which clients may choose


@dataclass
class LogContext:
    """The call that lines are about, and the latest turn of it; 0: before the first."""

    call: str
    turn: int = 0

    @property
    def prefix(self) -> str:
        """What text lines begin with."""
        call = self.call if PLAIN.fullmatch(self.call) else json.dumps(self.call)
        return f"call={call} turn={self.turn} "


_context: "ContextVar[Optional[LogContext]]" = ContextVar("spoken_intents_log", default=None)


@contextmanager
def in_call(context: LogContext) -> Iterator[None]:
    """What is logged inside, and by tasks that are begun inside, is about this call."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def turn_begins(number: int) -> None:
    """What is logged about the call of whoever asks is about this turn from now on."""
    context = _context.get()
    if context is not None:
        context.turn = number


def name_calls() -> None:
    """From now on lines that are about a call begin with its id, whoever writes them; asked again, does nothing.

    In the message, and not by a formatter: formatters are Rasa's, which also leaves out a line that repeats the one before.
    Of two calls whose turns fail in the same way both are worth a line.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "names_calls", False):
        return

    def named(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record, context = make(*args, **kwargs), _context.get()
        if context is not None:
            record.call, record.turn, record.prefix = context.call, context.turn, context.prefix
            record.msg = (context.prefix.replace("%", "%%") if record.args else context.prefix) + str(record.msg)
        return record

    named.names_calls = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(named)


class JsonLines(logging.Formatter):
    """Each line a JSON object: `time` (UTC), `level`, `logger`, `message`; `call` and `turn` of lines about a call; `exception`.

    A message that is an object itself, as of Rasa's events and ours, gives its fields in place of `message`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line (see parent class)."""
        line: Dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        line.update({name: getattr(record, name) for name in ("call", "turn") if hasattr(record, name)})
        for name, value in _fields(record.getMessage().removeprefix(getattr(record, "prefix", ""))).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _fields(message: str) -> Dict[str, Any]:
    if message.startswith("{"):
        try:
            fields = json.loads(message)
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            return fields
    return {"message": message}
