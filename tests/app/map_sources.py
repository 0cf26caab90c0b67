"""What a page tells the script about a map."""

from __future__ import annotations

import json
from typing import Any

from parsed import Parsed


def source(got: Parsed, key: str = "a") -> dict[str, Any]:
    """What a picture's script is given."""
    for element in got.all("template"):
        if any(e.attrs.get("data-panel") == key for e in element.within):
            found: dict[str, Any] = json.loads(element.text)
            return found
    raise AssertionError(f"no picture {key}")
