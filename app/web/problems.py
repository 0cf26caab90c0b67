"""What can go wrong beside the engine's own errors, and what to ask for instead.

`app.web.errors` gives each its status.
"""

from __future__ import annotations

from engine.errors import LexiscopeError

_ADVICE = (
    ("/calibrate", "use fewer rows or shorter texts"),
    ("/api/v1/calibrations", "use fewer rows or shorter texts"),
    ("/api/v1/sets", "upload fewer rows"),
    ("/map", "put fewer points on the map"),
    ("/api/v1/map", "put fewer points on the map"),
    ("/generate", "ask for fewer tokens or a shorter prompt"),
    ("/api/v1/generate", "ask for fewer tokens or a shorter prompt"),
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


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer."""


class NotReady(Exception):
    """The model is not loaded yet, or could not be; the message is a sentence.

    Attributes:
        retry_after: seconds after which trying again makes sense; None: it makes none.
    """

    def __init__(self, sentence: str, *, retry_after: int | None = 2) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Conflict(LexiscopeError):
    """What was asked does not go together with what is open or under way (409)."""


class ModelChanged(Conflict):
    """Another model is open than the one that was asked."""


class StorageError(Exception):
    """Nothing can be saved: the disk is full, or the data folder cannot be written or read."""


class StorageBusy(StorageError):
    """Another process holds the data folder."""


class NotFound(Exception):
    """There is nothing under that id."""


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
