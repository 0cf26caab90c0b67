"""What can go wrong, and the one sentence that says so.

::

    LexiscopeError
    ├── InputError (also a ValueError)   what was asked cannot be answered
    │   ├── PromptError                  empty, too long, or not text
    │   ├── LayerError                   a layer or position that is not there
    │   ├── TokenError                   a token that the vocabulary does not have
    │   └── OptionError                  a geometry, frame, k, temperature … out of range
    │       └── LensMissing              a lens that was not fitted to the model yet
    ├── ModelError                       a model that cannot be opened or read
    │   ├── ModelNotFound                no such folder or hub id
    │   ├── UnsupportedModel             a part that the readings need was not found
    │   ├── UnsafeModel                  pickled weights or code of its own
    │   └── ModelTooLarge                does not fit the memory that is there
    ├── NonFiniteError                   NaN or infinity where a number must stand
    ├── WorkError                        the work was stopped or not taken
    │   ├── Cancelled                    nobody waits for it any more
    │   ├── DeadlineExceeded             it took longer than allowed
    │   ├── QueueFull                    too much is waiting already
    │   └── BudgetExceeded               it would need more memory than allowed
    └── ArtifactError                    a saved file that is damaged or another model's

Every message is one sentence with what was given, what is allowed and what to do. It never quotes
more than a short piece of the input.
"""

from __future__ import annotations


class LexiscopeError(Exception):
    """The root: everything that the engine raises on purpose."""


class InputError(LexiscopeError, ValueError):
    """What was asked cannot be answered; nothing was computed."""


class PromptError(InputError):
    """The prompt is empty, too long or not text."""


class LayerError(InputError):
    """A layer or a position that this model or prompt does not have."""


class TokenError(InputError):
    """A token that the vocabulary does not have."""


class OptionError(InputError):
    """A setting outside its range."""


class LensMissing(OptionError):
    """A lens that was not fitted to the model yet; it can be."""


class ModelError(LexiscopeError):
    """The model cannot be opened or read."""


class ModelNotFound(ModelError):
    """No model under that name."""


class UnsupportedModel(ModelError):
    """A part that the readings need was not found in the model; the message names it."""


class UnsafeModel(ModelError):
    """Loading would run code of the model's author: pickled weights or remote code."""


class ModelTooLarge(ModelError):
    """The model does not fit the memory that is there."""


class NonFiniteError(LexiscopeError):
    """NaN or infinity where a number must stand."""


class WorkError(LexiscopeError):
    """The work was stopped or not taken."""


class Cancelled(WorkError):
    """Nobody waits for the answer any more."""


class DeadlineExceeded(WorkError):
    """The work took longer than it was allowed."""


class QueueFull(WorkError):
    """Too much work waits already.

    Attributes:
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BudgetExceeded(WorkError):
    """The work would need more memory than it was allowed."""


class ArtifactError(LexiscopeError):
    """A saved file is damaged, of an unknown version, or belongs to another model."""


def shorten(text: str, limit: int = 40) -> str:
    """The text as it may stand in a message: printable and at most `limit` characters."""
    seen = "".join(c if c.isprintable() else "�" for c in text[: limit + 1])
    return seen if len(text) <= limit else seen[:limit] + "…"
