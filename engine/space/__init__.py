"""A model's latent space: the model, its semantic bases, and everything one can ask of it.

Three lines to a trace::

    from engine import load
    space = load()
    trace = space.trace("The old king and the")

A space belongs to the thread that loaded it. It keeps the hidden states of the latest prompts, so
that another geometry, frame or colour never runs the model again.
"""

from __future__ import annotations

from pathlib import Path

from engine.maps import MapMaker
from engine.model.language_model import LanguageModel
from engine.model.opening import Tell, silent
from engine.progress import Check, no_check
from engine.space.acting import Acting
from engine.space.writing import Writing
from engine.trace.contexts import ContextFinder


class LatentSpace(Writing, Acting):
    """One model with its frames.

    Args:
        model: opened by this thread.
        cache_dir: where decompositions of heads are kept; None keeps none.
        seed: of the random frame.
        states_bytes: limit of the kept hidden states.
        check: raises to stop.
        tell: called with a few words at each phase.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        cache_dir: Path | None = None,
        seed: int = 0,
        states_bytes: int = 256 * 2**20,
        check: Check = no_check,
        tell: Tell = silent,
    ) -> None:
        super().__init__(
            model,
            cache_dir=cache_dir,
            seed=seed,
            states_bytes=states_bytes,
            check=check,
            tell=tell,
        )
        self.maps = MapMaker(self, cache_dir=cache_dir and cache_dir / "maps")
        """Maps of this space: its bases and states in the plane (:mod:`engine.maps`)."""
        self.contexts = ContextFinder(self, cache_dir)
        """States of other texts near one of a prompt (:mod:`engine.trace.contexts`)."""
        tell("checking the readings against the model's own logits")
        self.self_check = self.run_self_check()
        tell("measuring this machine's speed")
        self._calibrate(check)

    def _forget(self) -> None:
        super()._forget()
        self.maps.forget()
