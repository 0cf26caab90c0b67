"""Changing a state inside the model, and seeing what follows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, TypeVar, cast

import torch
from cachetools import LRUCache

from engine.cost import Measured, Work, timed
from engine.errors import OptionError
from engine.interventions.action import Action
from engine.interventions.causal import CausalMap, causal_map, check_twins, counted
from engine.interventions.hooks import acting
from engine.interventions.many import Case, Many, many, name_of
from engine.interventions.plan import edits_of, layers_of
from engine.model.state_cache import StateCache
from engine.progress import Check, Steps, no_check
from engine.space.bases import Bases
from engine.space.reading import Reading
from engine.space.writing import Writing

T = TypeVar("T")
_MAPS: Final = 64


class Acting(Writing, Reading, Bases):
    """Interventions, and what is learned by many of them."""

    @cached_property
    def _causal(self) -> LRUCache[tuple[tuple[int, ...], ...], CausalMap]:
        return LRUCache(_MAPS)

    @cached_property
    def _many(self) -> LRUCache[str, Many]:
        return LRUCache(_MAPS)

    @contextlib.contextmanager
    def act(
        self,
        action: Action | str,
        *,
        prompt_tokens: int | None = None,
        check: Check = no_check,
        **settings: Any,
    ) -> Iterator[None]:
        """Within it the model's states are changed, whoever calls the model::

            with space.act("steer", token="Rome", foil="Paris", layers="25", dose=0.3):
                trace = space.trace("The capital of France is")

        What is read inside is not kept for outside, and the other way round.

        Args:
            action: what is done; or its kind, and the fields of
                :class:`engine.interventions.action.Action` as keywords.
            prompt_tokens: see :func:`engine.interventions.hooks.acting`.
            check: raises to stop what must be read first, such as another prompt.

        Raises:
            LayerError, TokenError, OptionError: one sentence each.
        """
        if isinstance(action, str):
            try:
                action = Action(kind=action, **settings)
            except TypeError as error:
                names = ", ".join(Action.__dataclass_fields__)
                raise OptionError(f"{error}; the fields of an action are {names}.") from None
        elif settings:
            action = replace(action, **settings)
        edits = edits_of(self, action, layers_of(self, action), check=check)
        kept = self._states, self._traces, self._reads, self._switch
        self._states = StateCache(self.model, self._states_bytes)
        del self._traces, self._reads  # both are made anew
        try:
            with acting(self.model, [edits], prompt_tokens=prompt_tokens) as self._switch:
                yield
        finally:
            kept[0].passes += self._states.passes
            self._states, self._traces, self._reads, self._switch = kept

    def causal_map(self, prompt: str, twin: str) -> Steps[CausalMap]:
        """Where a prompt's answer comes from; kept for as long as there is room.

        See :func:`engine.interventions.causal.causal_map`.
        """
        key = self.tokenize(prompt).ids, self.tokenize(twin).ids
        if key not in self._causal:
            spent, steps = Measured(), causal_map(self, prompt, twin)
            found = yield from _stepwise(steps, self.model.anatomy.weight.device, spent)
            self._costs.add_long("causal", self._causal_work(*key), spent)
            self._causal[key] = found
        return self._causal[key]

    def known_causal_map(self, prompt: str, twin: str) -> CausalMap | None:
        """One that was computed already."""
        return self._causal.get((self.tokenize(prompt).ids, self.tokenize(twin).ids))

    def keep_causal_map(self, found: CausalMap) -> None:
        """Know a map of this model that was computed before."""
        key = tuple(tuple(t.id for t in own) for own in (found.tokens, found.twin_tokens))
        self._causal[key] = found

    def predict_causal_map(self, prompt: str, twin: str) -> float:
        """Seconds that a causal map would take; nothing is run.

        Raises:
            PromptError: prompts that cannot be compared.
        """
        own, other = self.tokenize(prompt).ids, self.tokenize(twin).ids
        check_twins(own, other)
        return self._costs.seconds(self._causal_work(own, other), "causal")

    def _causal_work(self, ids: Sequence[int], twin: Sequence[int]) -> Work:
        blocks = self.model.blocks
        work = counted(ids, twin, blocks)
        return self._plain_work(
            work.block_tokens // blocks, work.rows, passes=work.block_runs / blocks
        )

    def many(self, cases: Sequence[Case], action: Action) -> Steps[Many]:
        """An action over many prompts; kept for as long as there is room.

        See :func:`engine.interventions.many.many`.
        """
        key = name_of(cases, action)
        if key not in self._many:
            self._many[key] = yield from many(self, cases, action)
        return self._many[key]

    def known_many(self, name: str) -> Many | None:
        """One that was run already, by :func:`engine.interventions.many.name_of`."""
        return self._many.get(name)

    def keep_many(self, name: str, found: Many) -> None:
        """Know what an action over many prompts came to before."""
        self._many[name] = found


def _stepwise(steps: Steps[T], device: torch.device, spent: Measured) -> Steps[T]:
    """The same work, whose steps' own time is added up; what is done between two is left out."""
    with contextlib.closing(steps):
        while True:
            with timed(device) as own:
                try:
                    step, result = next(steps), None
                except StopIteration as end:
                    step, result = None, end.value
            spent.seconds += own.seconds
            spent.busy += own.busy
            if step is None:
                return cast(T, result)
            yield step
