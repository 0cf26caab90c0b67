"""The path that was asked for, and what to ask for instead where that took too long or too much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ADVICE = (
    ("/calibrate", "use fewer rows or shorter texts"),
    ("/api/v1/calibrations", "use fewer rows or shorter texts"),
    ("/api/v1/sets", "upload fewer rows"),
    ("/map", "put fewer points on the map"),
    ("/api/v1/map", "put fewer points on the map"),
    ("/bases", "ask for fewer tokens"),
    ("/api/v1/bases", "ask for fewer tokens"),
    ("/api/v1/tokens", "ask for fewer tokens"),
    ("/model", "try again when less is under way"),
    ("/api/v1/frames", "try again when less is under way"),
    ("/api/v1/vocabulary", "try again when less is under way"),
    ("/jobs", "try again when less is under way"),
    ("/api/v1/jobs", "try again when less is under way"),
)
_OF_A_PROMPT = "ask for fewer layers or a shorter prompt"


def own_path(scope: Mapping[str, Any]) -> str:
    """The path of a request without the path under which a proxy serves the app."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def less(path: str) -> str:
    """What to do instead of what was asked for at this path, without a full stop.

    The same words for a page and its JSON.
    """
    if path.startswith("/api/v1/calibrations/") and path.endswith("/trace"):
        return "use a shorter prompt"
    for begin, advice in _ADVICE:
        if path == begin or path.startswith((f"{begin}/", f"{begin}.")):
            return advice
    return _OF_A_PROMPT
