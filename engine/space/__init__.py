"""A model's latent space: the model, its semantic bases, and everything one can ask of it.

Three lines to a trace::

    from engine import load
    space = load()
    trace = space.trace("The old king and the")

A space belongs to the thread that loaded it. It keeps the hidden states of the latest prompts, so
that another geometry, frame or colour never runs the model again.
"""

from __future__ import annotations

from engine.maps import MapMaker
from engine.model.opening import Tell
from engine.progress import Check
from engine.space.acting import Acting
from engine.trace.contexts import ContextFinder


class LatentSpace(Acting):
    """One model with its frames; opened by :func:`engine.load`."""

    def _begin(self, check: Check, tell: Tell) -> None:
        kept = self._cache_dir
        self.maps = MapMaker(self, cache_dir=kept and kept / "maps")
        """Maps of this space: its bases and states in the plane (:mod:`engine.maps`)."""
        self.contexts = ContextFinder(self, kept)
        """States of other texts near one of a prompt (:mod:`engine.trace.contexts`)."""
        tell("checking the readings against the model's own logits")
        self.self_check = self.run_self_check()
        tell("measuring this machine's speed")
        self._calibrate(check)

    def _forget(self) -> None:
        super()._forget()
        self.maps.forget()
