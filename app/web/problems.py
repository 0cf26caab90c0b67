"""What can go wrong beside the engine's own errors; `app.web.errors` gives each its status."""

from __future__ import annotations

from engine.errors import LexiscopeError


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
