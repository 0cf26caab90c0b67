"""What to ask for instead, where something took too long or too much: it fits what was asked for.

Knows paths only, without the root path; the same words for a page and its JSON.
"""

from __future__ import annotations

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


def less(path: str) -> str:
    """What to do instead of what was asked for at this path, without a full stop."""
    if path.startswith("/api/v1/calibrations/") and path.endswith("/trace"):
        return "use a shorter prompt"
    for begin, advice in _ADVICE:
        if path == begin or path.startswith((f"{begin}/", f"{begin}.")):
            return advice
    return _OF_A_PROMPT


def seconds(number: float) -> str:
    """A span as the settings give it: ``1 second``, ``0.5 seconds``."""
    return f"{number:g} second{'' if number == 1 else 's'}"
