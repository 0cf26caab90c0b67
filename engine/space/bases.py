"""The vocabulary's own vectors: tokens, their neighbours, and what kind of frame they make."""

from __future__ import annotations

from functools import cached_property

import torch

from engine.bases.frame_report import FrameReport, compute_frame_report
from engine.bases.lookup import Lookup, TokenHit
from engine.bases.selfcheck import SelfCheck, self_check
from engine.bases.token_basis import TokenBasis, compute_token_basis
from engine.progress import Check, no_check
from engine.space.core import Core


class Bases(Core):
    """Tokens and frames, without a prompt."""

    @cached_property
    def _reports(self) -> dict[tuple[str, bool], FrameReport]:
        return {}

    def run_self_check(self) -> SelfCheck:
        """Check the model anew."""
        self.self_check = self_check(
            self.model,
            self.decomposition,
            self.frame("head"),
            self.frame("output"),
            self.frame("tight"),
        )
        return self.self_check

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.model, self.decomposition)

    def find_token(self, token: int | str) -> int:
        """A row of the vocabulary from its id, ``#id``, or its text; see :meth:`Lookup.find`."""
        return self._lookup.find(token)

    def search(
        self, text: str, *, limit: int = 20, check: Check = no_check
    ) -> tuple[TokenHit, ...]:
        """Tokens whose text holds a piece of text; see :meth:`Lookup.search`.

        `check` is called once: there is nowhere to stop in one pass over the texts.
        """
        check()
        return tuple(self._lookup.search(text, limit=limit))

    def bases(
        self,
        token: int | str,
        *,
        frame: str = "output",
        geometry: str = "cosine",
        k: int = 10,
        check: Check = no_check,
    ) -> TokenBasis:
        """A token's vector in a frame, and its nearest tokens there.

        Raises:
            TokenError, OptionError: one sentence each.
        """
        return compute_token_basis(
            self.find_token(token),
            frame,
            frames=self.frame,
            geometry=geometry,
            k=k,
            model=self.model,
            decomposition=self.decomposition,
            check=check,
        )

    def frame_report(
        self, name: str, *, round_trip: bool = True, check: Check = no_check
    ) -> FrameReport:
        """What kind of frame it is; computed once.

        Raises:
            OptionError: an unknown name, or a frame that this model does not have.
        """
        key = (name, round_trip)
        if key not in self._reports:
            with torch.no_grad():
                self._reports[key] = compute_frame_report(
                    name,
                    model=self.model,
                    frames=self.frame,
                    decomposition=self.decomposition,
                    cache_dir=self._cache_dir,
                    round_trip=round_trip,
                    check=check,
                )
        return self._reports[key]
