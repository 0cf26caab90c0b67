"""What interventions need of a latent space; :class:`engine.space.LatentSpace` is one."""

from __future__ import annotations

from typing import Any, Protocol

from engine.frames.decomposition import HeadDecomposition
from engine.frames.frame import Frame
from engine.model.language_model import LanguageModel, States
from engine.model.prompts import Tokens
from engine.model.vocabulary import Vocabulary
from engine.progress import Check


class Space(Protocol):
    """A model with its frames."""

    model: LanguageModel
    decomposition: HeadDecomposition

    @property
    def vocabulary(self) -> Vocabulary:
        """Token texts."""
        ...

    def frame(self, name: str) -> Frame:
        """One of the frames by its key."""
        ...

    def find_token(self, token: int | str) -> int:
        """A row of the vocabulary from its id, ``#id``, or its text."""
        ...

    def tokenize(self, prompt: str, *, bos: str = "auto", chat: bool = False) -> Tokens:
        """Token ids and texts of a prompt."""
        ...

    def states(
        self, prompt: str, *, bos: str = "auto", chat: bool = False, check: Check = ...
    ) -> States:
        """The hidden states of a prompt before the final norm."""
        ...

    def continuation(self, prompt: str, *, check: Check = ..., **settings: Any) -> str:
        """What follows a prompt, as text."""
        ...
