"""The hidden states of the latest prompts, so that another question never runs the model again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cachetools import LRUCache

from engine.errors import BudgetExceeded
from engine.model.language_model import LanguageModel, States
from engine.progress import Check


class StateCache:
    """Takes the states of prompts and keeps the latest; the least recently used go first.

    Args:
        model: whose states they are.
        limit_bytes: of what is kept; the states of one prompt are kept whatever they take.
    """

    def __init__(self, model: LanguageModel, limit_bytes: int) -> None:
        self.passes = 0
        """How often the model ran."""
        self._model = model
        self._given: dict[tuple[int, ...], States] = {}
        limit = max(limit_bytes, 1)
        self._kept: LRUCache[tuple[int, ...], States] = LRUCache(
            limit, getsizeof=lambda states: min(states.bytes, limit)
        )

    def __contains__(self, ids: tuple[int, ...]) -> bool:
        """Whether the states of these token ids are kept."""
        return ids in self._kept

    def known(self, ids: tuple[int, ...]) -> States | None:
        """The states of these token ids if they are kept; the model does not run."""
        return self._given.get(ids) or self._kept.get(ids)

    @contextmanager
    def given(self, states: Sequence[States]) -> Iterator[None]:
        """Within it these states stand for their token ids: the model does not run for them."""
        before, self._given = self._given, self._given | {one.ids: one for one in states}
        try:
            yield
        finally:
            self._given = before

    def take(self, ids: tuple[int, ...], check: Check) -> States:
        """The states of a prompt, kept or from a forward pass.

        Raises:
            BudgetExceeded: they need more memory than one prompt may take.
        """
        found = self.known(ids)
        if found is not None:
            return found
        model = self._model
        need = 4 * (model.blocks + 1) * len(ids) * model.anatomy.residual_width
        limit = model.limits.memory_budget_mib * 2**20
        if need > limit:
            raise BudgetExceeded(
                f"the states of {len(ids):,} tokens need {need / 2**20:,.0f} MiB and the"
                f" budget is {limit / 2**20:,.0f} MiB; shorten the prompt."
            )
        states = model.states(ids, check=check)
        self.passes += 1
        self._kept[ids] = states
        return states
