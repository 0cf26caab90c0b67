"""The server's log: one line of JSON for each event, whatever it holds.

Everything but ASCII is escaped, so no text can begin a line of its own or act on a terminal. A
traceback names types, files, lines and functions. What an exception says is left out, since it may
repeat what a person typed: a record says so where it cannot, and an operator may ask for all.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

ACCESS = "lexiscope.access"
"""The logger of requests; its messages are JSON objects."""
OWN_WORDS = {"own_words": True}
"""``extra`` of a record whose exception cannot hold what a person typed: its message is logged."""


class JsonLines(logging.Formatter):
    """A record as one line: time, level, then a request's fields or a message."""

    def __init__(self, *, messages: bool = False) -> None:
        """Make it.

        Args:
            messages: whether tracebacks hold the messages of all exceptions.
        """
        super().__init__()
        self._messages = messages

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": time, "level": record.levelname.lower()}
        message = record.getMessage()
        if record.name == ACCESS:
            line |= json.loads(message)
        else:
            line |= {"from": record.name, "message": message.strip()}
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            line["id"] = request_id
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (self._messages or getattr(record, "own_words", False)):
            line["traceback"] = "".join(traceback.format_exception(error)).rstrip()
        elif error is not None:
            line["traceback"] = without_messages(error)
        return json.dumps(line, separators=(",", ":"), ensure_ascii=True, default=str)


def without_messages(error: BaseException) -> str:
    """The traceback of an exception and of what led to it, each with its type alone."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and not any(one is known for known in chain):
        chain.append(one)
        hidden = one.__suppress_context__ or one.__cause__ is not None
        one = one.__cause__ if hidden else one.__context__
    return "\n".join(_frames(one) for one in reversed(chain))


def _frames(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    # The system's number says which of many things went wrong, and nothing of what was asked.
    number = error.errno if isinstance(error, OSError) else None
    kind = type(error).__qualname__ + ("" if number is None else f" [Errno {number}]")
    lines = [f"Traceback (most recent call last):\n{frames}{kind}"]
    if isinstance(error, BaseExceptionGroup):
        lines += [without_messages(part) for part in error.exceptions]
    return "\n".join(lines)


def begin(*, messages: bool = False) -> None:
    """Write the log of this process to stderr; `messages` as for `JsonLines`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(messages=messages))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("lexiscope").setLevel(logging.INFO)
    logging.captureWarnings(True)
