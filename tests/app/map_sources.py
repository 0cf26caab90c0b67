"""What a page tells the script about a map, and what it asks before it can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from parsed import Parsed
from starlette.testclient import TestClient


def source(got: Parsed, key: str = "a") -> dict[str, Any]:
    """What a picture's script is given."""
    for element in got.all("template"):
        if any(e.attrs.get("data-panel") == key for e in element.within):
            found: dict[str, Any] = json.loads(element.text)
            return found
    raise AssertionError(f"no picture {key}")


@contextmanager
def turns(client: TestClient) -> Iterator[list[str]]:
    """What is put into the queue meanwhile."""
    device: Any = client.app.state.explorer.device  # type: ignore[attr-defined]
    seen: list[str] = []
    submit = device.submit

    def counted(*arguments: Any, **keywords: Any) -> Any:
        seen.append(keywords["label"])
        return submit(*arguments, **keywords)

    device.submit = counted
    try:
        yield seen
    finally:
        device.submit = submit
