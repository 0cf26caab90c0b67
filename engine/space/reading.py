"""Reading a prompt: traces, cells, curves, what a state is made of, how well readings agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import torch
from cachetools import LRUCache

from engine.cost import Measured, Work, measured, timed
from engine.errors import LayerError, LexiscopeError, PromptError, TokenError
from engine.lenses.kind import Lens
from engine.model.language_model import States
from engine.model.prompts import Tokens
from engine.progress import Check, Steps, no_check
from engine.reading.pursuit import MOST, Floats, by_chance
from engine.reading.similarity import scores
from engine.reading.temperature import Temperature
from engine.space.fitted import Fitted
from engine.trace.agreement import Agreement, agreement_over, compute_agreement
from engine.trace.cell import Cell, Curves, compute_cell, compute_curves
from engine.trace.compute import Read, Said, compute_trace, default_pins, read_states
from engine.trace.finding import Finding, find
from engine.trace.options import TraceOptions, prepare
from engine.trace.result import Cost, Trace
from engine.trace.temperatures import default_temperatures
from engine.trace.words import InWords, compute_in_words

_TRACES: Final = 24
_SETS: Final = 8
"""Sets of texts whose agreement is kept."""


class Reading(Fitted):
    """What one can ask of a prompt's states."""

    _chance: Floats | None = None

    @cached_property
    def _traces(self) -> LRUCache[tuple[Any, ...], Trace]:
        return LRUCache(_TRACES)

    @cached_property
    def _reads(self) -> LRUCache[tuple[Any, ...], Read]:
        return LRUCache(self._states_bytes // 8, getsizeof=lambda read: read.bytes)

    @cached_property
    def _said(self) -> LRUCache[tuple[Any, ...], Said]:
        return LRUCache(_TRACES)

    @cached_property
    def _agreements(self) -> LRUCache[tuple[Any, ...], Agreement]:
        return LRUCache(_SETS)

    def _forget(self) -> None:
        self._traces.clear()
        self._reads.clear()
        self._said.clear()

    def trace(
        self,
        prompt: str,
        options: TraceOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Trace:
        """A prompt through the layers.

        Args:
            prompt: any text within the limits.
            options: what to read; or its fields as keywords.
            check: called between layers and chunks of the vocabulary; raises to stop.

        Raises:
            PromptError, LayerError, OptionError: one sentence each.
        """
        options = self._options(options, settings)
        tokens = self.tokenize(prompt, bos=options.bos, chat=options.chat)
        return self._trace(tokens, options, check)

    def trace_ids(
        self, ids: Sequence[int], options: TraceOptions | None = None, *, check: Check = no_check
    ) -> Trace:
        """The trace of a text that is known by its token ids; `bos` and `chat` say nothing here.

        Raises:
            TokenError: an id that the vocabulary does not have.
            PromptError: more ids than the model takes.
            LayerError, OptionError: one sentence each.
        """
        for i in ids:
            if not 0 <= i < self.model.vocabulary:
                raise TokenError(f"token id must be in [0, {self.model.vocabulary - 1}]; got {i}.")
        if not 1 <= len(ids) <= self.model.max_tokens:
            raise PromptError(
                f"a text has 1 to {self.model.max_tokens:,} tokens here; got {len(ids):,}."
            )
        known = tuple(ids)
        tokens = Tokens("", known, self.vocabulary.prompt_tokens(known), False)
        return self._trace(tokens, self._options(options, {}), check)

    def _trace(self, tokens: Tokens, options: TraceOptions, check: Check) -> Trace:
        """The trace of a tokenized text, kept or read."""
        key = (tokens.ids, options)
        found = self._traces.get(key)
        if found is None:
            found = self._traces[key] = self._read(tokens, options, check)
        return found

    def _read(self, tokens: Tokens, options: TraceOptions, check: Check) -> Trace:
        """A trace that is not kept yet, with what it was foretold to cost and did."""
        count = len(tokens.ids)
        lens = self.lens(options.lens)
        temperatures = self._temperatures_for(options, check)
        work = self._work(count, options, forward_tokens=0 if tokens.ids in self._states else count)
        foretold = Cost(self._costs.seconds(work), self._costs.bytes(work))
        # By whatever geometry: another one passes over no vocabulary again.
        warmth = tuple(one.value for one in temperatures.values())
        name = (tokens.ids, replace(options, geometry="cosine"), warmth)
        # Nor does another frame ask the head again.
        where = (options.layers, options.positions, options.state, options.lens)
        found = self._reads.get(name)
        with torch.no_grad(), measured(self.model.anatomy.weight.device) as spent:
            known = found is not None
            if found is None:
                found = read_states(
                    self.model,
                    self.frame,
                    tokens,
                    self._states.take(tokens.ids, check),
                    options,
                    temperatures=temperatures,
                    lens=lens,
                    said=self._said.get((tokens.ids, where)),
                    check=check,
                )
                self._said[tokens.ids, where] = found.said
                if found.bytes <= self._reads.maxsize // 2:
                    self._reads[name] = found
            trace = compute_trace(
                self.model,
                self.frame,
                tokens,
                found,
                options,
                temperatures=temperatures,
                cost=foretold,
                check=check,
            )
        if not known:  # what was found ready teaches nothing of what a reading costs
            self._costs.add(work, spent)
        return replace(trace, cost=replace(foretold, seconds=spent.seconds, bytes=spent.bytes))

    def cell(
        self,
        prompt: str,
        layer: int,
        position: int,
        options: TraceOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Cell:
        """One state of a prompt in full; layer and position may count from the end (−1)."""
        options = self._options(options, settings)
        trace = self.trace(prompt, options, check=check)
        states = self.states(prompt, bos=options.bos, chat=options.chat, check=check)
        layer = layer + self.model.blocks + 1 if layer < 0 else layer
        position = position + len(trace.tokens) if position < 0 else position
        with torch.no_grad():
            return compute_cell(
                self.model,
                self.frame,
                trace,
                states,
                layer,
                position,
                lens=self.lens(options.lens),
                check=check,
            )

    def in_words(
        self,
        prompt: str,
        layer: int,
        position: int,
        options: TraceOptions | None = None,
        *,
        words: int = MOST,
        check: Check = no_check,
        **settings: Any,
    ) -> InWords:
        """One state of a prompt as a non-negative sum of at most ten vectors of a frame, beside
        what a random vocabulary of the same size explains; see :mod:`engine.trace.words`."""
        options = self._options(options, settings)
        states = self.states(prompt, bos=options.bos, chat=options.chat, check=check)

        def chance() -> Floats:  # a model's, not a cell's
            if self._chance is None:
                size, width = self.model.vocabulary, self.model.width
                self._chance = by_chance(size, width, seed=self.seed, check=check)
            return self._chance

        with torch.no_grad():
            return compute_in_words(
                self.model,
                self.frame,
                states,
                options,
                layer,
                position,
                words=words,
                chance=chance,
                lens=self.lens(options.lens),
                check=check,
            )

    def finding(
        self,
        prompt: str,
        options: TraceOptions | None = None,
        *,
        position: int = -1,
        check: Check = no_check,
        **settings: Any,
    ) -> Finding:
        """From where on the reading names the model's answer, beside random directions.

        Raises:
            LayerError: the trace does not hold that position.
        """
        options = self._options(options, settings)
        trace = self.trace(prompt, options, check=check)
        position = position + len(trace.tokens) if position < 0 else position
        if position not in trace.positions:
            raise LayerError(
                f"position {position} is not among those read, {trace.positions[0]} to"
                f" {trace.positions[-1]}; choose one of them."
            )
        column = trace.positions.index(position)
        states = self.states(prompt, bos=options.bos, chat=options.chat, check=check)
        lens = self.lens(options.lens)
        with torch.no_grad():
            got = prepare(self.model, states, options, lens=lens, check=check)
            return find(
                position,
                trace.layers,
                trace.final_rank[:, column].tolist(),
                got.states[:, column],
                int(trace.final_ids[column]),
                self.frame("random"),
                trace.geometry,
                centred=options.centred,
                budget_bytes=self.model.limits.reading_bytes,
                check=check,
            )

    def curves(
        self,
        prompt: str,
        ids: Sequence[int] | None = None,
        options: TraceOptions | None = None,
        *,
        position: int = -1,
        check: Check = no_check,
        **settings: Any,
    ) -> Curves:
        """Tokens over the layers at one position; None is the trace's default pins there.

        Raises:
            TokenError: an id that the vocabulary does not have.
        """
        options = self._options(options, settings)
        trace = self.trace(prompt, options, check=check)
        count = len(trace.tokens)
        position = position + count if position < 0 else position
        if not 0 <= position < count:
            raise LayerError(
                f"position must be in [0, {count - 1}] for this prompt of {count} tokens;"
                f" got {position}."
            )
        if position not in trace.positions and ids is None:
            position = trace.positions[-1]
        if ids is None:
            ids = default_pins(trace.top_ids[:, trace.positions.index(position), 0])
        for i in ids:
            if not 0 <= i < self.model.vocabulary:
                raise TokenError(f"token id must be in [0, {self.model.vocabulary - 1}]; got {i}.")
        states = self.states(prompt, bos=options.bos, chat=options.chat, check=check)
        with torch.no_grad():
            return compute_curves(
                self.model,
                self.frame,
                trace,
                states,
                ids,
                position,
                lens=self.lens(options.lens),
                check=check,
            )

    def agreement(
        self,
        prompt: str,
        options: TraceOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Agreement:
        """Every geometry on every frame against the model's own predictions."""
        options = self._options(options, settings)
        states = self.states(prompt, bos=options.bos, chat=options.chat, check=check)
        with torch.no_grad():
            return compute_agreement(
                self.model,
                self.frame,
                states,
                options,
                lens=self.lens(options.lens),
                check=check,
            )

    def agreement_over(
        self, texts: Sequence[str], options: TraceOptions | None = None, **settings: Any
    ) -> Steps[Agreement]:
        """The same over many texts, each read at its last position; kept for the next time.

        Raises:
            OptionError, PromptError, LayerError, BudgetExceeded: one sentence each.
        """
        options = self._options(options, settings)
        lens = self.lens(options.lens)
        key = _set_key(texts, options, lens)
        if key not in self._agreements:
            ids = [self._text_ids(n, text, options) for n, text in enumerate(texts, start=1)]
            self._agreements[key] = yield from agreement_over(
                self.model, self.frame, ids, options, lens=lens
            )
        return self._agreements[key]

    def known_agreement(self, texts: Sequence[str], options: TraceOptions) -> Agreement | None:
        """What that gave; None where it was not measured, or long ago."""
        return self._agreements.get(_set_key(texts, options, self.lens(options.lens)))

    def _text_ids(self, number: int, text: str, options: TraceOptions) -> tuple[int, ...]:
        try:
            return self.tokenize(text, bos=options.bos, chat=options.chat).ids
        except PromptError as error:
            raise PromptError(f"text {number:,} of the set cannot be read: {error}") from None

    def _calibrate(self, check: Check) -> None:
        """Three short runs, so that the first prediction stands on this machine's own speed; model
        and products by themselves as well, for in these traces states grow with tokens."""
        v = min(self.model.vocabulary, self.vocabulary.tokenizer_size)
        top, device = self.model.max_tokens, self.model.anatomy.weight.device
        try:
            # The first run of a process pays for what later ones find ready: it teaches nothing.
            for run, count in enumerate((4, 4, 12, 32)):
                n = min(count, top)
                ids = tuple((7919 * (i + 1)) % v for i in range(n))
                tokens = Tokens("", ids, self.vocabulary.prompt_tokens(ids), False)
                work = self._work(n, TraceOptions(), forward_tokens=n)
                with torch.no_grad(), measured(device) as spent:
                    with timed(device) as run_alone:
                        states = self.model.states(ids, check=check)
                    options, warm = TraceOptions(), default_temperatures()
                    found = read_states(
                        self.model,
                        self.frame,
                        tokens,
                        states,
                        options,
                        temperatures=warm,
                        check=check,
                    )
                    compute_trace(
                        self.model,
                        self.frame,
                        tokens,
                        found,
                        options,
                        temperatures=warm,
                        cost=Cost(0.0, 0),
                        check=check,
                    )
                with torch.no_grad(), timed(device) as multiplied:
                    scores(self.frame("head"), self.model.read_out(states.raw[-1]), "matmul")
                if run:
                    self._costs.add(work, spent)
                    alone = replace(work, states=0)
                    self._costs.add(alone, run_alone)
                    product = replace(alone, forward_tokens=0, passes=0)
                    self._costs.add(replace(product, products=n), multiplied)
                if run == 1:
                    self._costs.add(*self._of_words(work, tokens, states, options, warm, check))
                if run and spent.seconds > 2.0:
                    break
        except LexiscopeError as error:
            if not self.self_check.ok:
                return
            raise error

    def _of_words(
        self,
        work: Work,
        tokens: Tokens,
        states: States,
        options: TraceOptions,
        warm: Mapping[str, Temperature],
        check: Check,
    ) -> tuple[Work, Measured]:
        """What reading the same states takes where words alone are listed."""
        options = replace(options, words_only=True)
        with torch.no_grad(), timed(self.model.anatomy.weight.device) as spent:
            read_states(
                self.model, self.frame, tokens, states, options, temperatures=warm, check=check
            )
        return replace(work, forward_tokens=0, passes=0, again=work.states), spent


def _set_key(texts: Sequence[str], options: TraceOptions, lens: Lens | None) -> tuple[object, ...]:
    return tuple(texts), options, None if lens is None else lens.digest
