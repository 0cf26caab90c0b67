"""The server's log: one line of JSON for each event, whatever it holds.

Everything but ASCII is escaped, so no text can begin a line of its own or act on a terminal.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

ACCESS = "lexiscope.access"
"""The logger of requests; its messages are JSON objects."""


class JsonLines(logging.Formatter):
    """A record as one line: time, level, then a request's fields or a message."""

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
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"), ensure_ascii=True, default=str)


def begin() -> None:
    """Write the log of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("lexiscope").setLevel(logging.INFO)
    logging.captureWarnings(True)
