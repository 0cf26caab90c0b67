"""A second model that is open for comparisons alone, beside the one that answers.

It is loaded as any model is (`app.model.switching`), lives on the device thread as the open one
does, and is let go when another one is opened, or when somebody says so.
"""

from __future__ import annotations

import gc

from app.model.open_model import Opened
from app.web.problems import ModelChanged
from engine import LatentSpace
from engine.cost import give_memory_back


class Second:
    """The place of the second model."""

    def __init__(self) -> None:
        self._held: tuple[Opened, LatentSpace] | None = None

    @property
    def opened(self) -> Opened | None:
        """What is open there; may be asked for on any thread."""
        return self._held[0] if self._held is not None else None

    # On the device thread

    def owned(self, opened: Opened) -> LatentSpace:
        """Its space, for work that was asked of this opening.

        Raises:
            ModelChanged: it is not open any more.
        """
        if self._held is None or self._held[0] is not opened:
            raise ModelChanged(
                f"{opened.facts.name} is no longer open beside the other: load the page again."
            )
        return self._held[1]

    def put(self, opened: Opened, box: list[LatentSpace], threads: int | None) -> None:
        """Put the space in the box, which is the last to hold it, in its place."""
        space = box.pop()
        space.model.adopt(threads)
        self._held = opened, space

    def let_go(self) -> None:
        """Forget it and free its memory."""
        if self._held is None:
            return
        self._held = None
        gc.collect()
        give_memory_back()
