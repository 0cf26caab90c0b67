"""A model's latent space: the model, its semantic bases, and everything one can ask of it.

Three lines to a trace::

    from engine import load
    space = load()
    trace = space.trace("The old king and the")

A space belongs to the thread that loaded it. It keeps the hidden states of the latest prompts, so
that another geometry, frame or colour never runs the model again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from cachetools import LRUCache
from safetensors import SafetensorError

from engine.bases.frame_report import FrameReport, compute_frame_report
from engine.bases.lookup import Lookup, TokenHit
from engine.bases.selfcheck import SelfCheck, self_check
from engine.bases.token_basis import TokenBasis, compute_token_basis
from engine.cost import CostModel, Work, measured
from engine.errors import (
    ArtifactError,
    LayerError,
    LensMissing,
    LexiscopeError,
    OptionError,
    PromptError,
    TokenError,
    shorten,
)
from engine.frames.decomposition import HeadDecomposition
from engine.frames.decomposition_cache import cached_decomposition
from engine.frames.frame import Frame
from engine.frames.kinds import build_frame
from engine.frames.kinds.kind import Source
from engine.generation.column import Column, Generation
from engine.generation.options import GenerateOptions
from engine.generation.write import Reader, check_room, generation, write
from engine.interventions.action import Action
from engine.interventions.causal import CausalMap, causal_map, check_twins
from engine.interventions.hooks import Switch, acting
from engine.interventions.many import Case, Many, many, name_of
from engine.interventions.plan import edits_of, layers_of
from engine.lenses import files as lens_files
from engine.lenses import lens_of
from engine.lenses.kind import Lens
from engine.maps import MapMaker
from engine.model.language_model import LanguageModel, States
from engine.model.opening import Tell, silent
from engine.model.prompts import Tokens
from engine.model.ranges import parse_range
from engine.model.state_cache import StateCache
from engine.model.vocabulary import Vocabulary
from engine.progress import Check, Progress, Steps, drain, no_check
from engine.reading.pursuit import MOST, Floats, by_chance
from engine.reading.temperature import Temperature
from engine.trace.agreement import Agreement, agreement_over, compute_agreement
from engine.trace.cell import Cell, Curves, compute_cell, compute_curves
from engine.trace.compute import Read, compute_trace, default_pins, read_states
from engine.trace.contexts import ContextFinder
from engine.trace.dial import DialCurve, keep_curve, load_curve, measure_dial
from engine.trace.finding import Finding, find
from engine.trace.options import TraceOptions, prepare, with_settings
from engine.trace.result import Cost, Trace
from engine.trace.temperatures import Temperatures, default_temperatures
from engine.trace.words import InWords, compute_in_words

_TRACES: Final = 24
_FRAMES: Final = 12
_MAPS: Final = 64
_SETS: Final = 8
"""Sets of texts whose agreement is kept."""


class LatentSpace:
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
        self.model = model
        self.seed = seed
        self._cache_dir = cache_dir
        self._states_bytes = states_bytes
        self._causal: LRUCache[tuple[tuple[int, ...], ...], CausalMap] = LRUCache(_MAPS)
        self._many: LRUCache[str, Many] = LRUCache(_MAPS)
        self._switch: Switch | None = None
        """Of the action that is under way."""
        self._states = StateCache(model, states_bytes)
        self._traces: LRUCache[tuple[Any, ...], Trace] = LRUCache(_TRACES)
        self._reads: LRUCache[tuple[Any, ...], Read] = LRUCache(
            states_bytes // 8, getsizeof=lambda read: read.bytes
        )
        self._frames: LRUCache[str, Frame] = LRUCache(_FRAMES)
        self._reports: dict[tuple[str, bool], FrameReport] = {}
        self._costs = CostModel()
        self._lenses: dict[str, Lens] = {}
        self._agreements: LRUCache[tuple[Any, ...], Agreement] = LRUCache(_SETS)
        self._dial: DialCurve | None = None
        self._chance: Floats | None = None
        self._temperatures = Temperatures(model, self.frame, cache_dir)
        self.maps = MapMaker(self, cache_dir=cache_dir and cache_dir / "maps")
        """Maps of this space: its bases and states in the plane (:mod:`engine.maps`)."""
        self.contexts = ContextFinder(self, cache_dir)
        """States of other texts near one of a prompt (:mod:`engine.trace.contexts`)."""
        tell("taking the head apart")
        self.decomposition: HeadDecomposition = cached_decomposition(
            model.anatomy.weight, cache_dir, check=check
        )
        tell("checking the readings against the model's own logits")
        self.self_check: SelfCheck = self.run_self_check()
        tell("measuring this machine's speed")
        self._calibrate(check)

    @property
    def forward_passes(self) -> int:
        """How often the model ran for a prompt."""
        return self._states.passes

    @property
    def vocabulary(self) -> Vocabulary:
        """Token texts."""
        return self.model.vocabulary_texts

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

    def temperatures(self, frame: str, *, check: Check = no_check) -> dict[str, Temperature]:
        """By geometry: where its probabilities on a frame come nearest to the model's own.

        Measured once per model and frame (:mod:`engine.reading.temperature`).

        Args:
            frame: its name, or with its dial as ``dial:0.25``.
            check: raises to stop.

        Raises:
            OptionError: an unknown name, or a frame that this model does not have.
        """
        # What a reading is measured by belongs to the model as it is.
        with contextlib.nullcontext() if self._switch is None else self._switch.off():
            return self._temperatures.of(frame, check=check)

    def lens(self, name: str) -> Lens | None:
        """A fitted lens of this model; None is no lens.

        Raises:
            OptionError: an unknown name, or one that was not fitted to this model yet.
        """
        if lens_of(name).fit is None:
            return None
        if name not in self._lenses and self._cache_dir is not None:
            model = self.model
            path = lens_files.path_of(self._cache_dir, name, model.fingerprint)
            found = lens_files.load(
                path, model=model.fingerprint, blocks=model.blocks, width=model.width
            )
            if found is not None:
                self._lenses[name] = found
        if name not in self._lenses:
            raise LensMissing(
                f"the lens {name!r} is not fitted to this model yet; fit it on the page Readings"
                f" or with 'lexiscope lens fit {name}', or read with lens none."
            )
        return self._lenses[name]

    def known_lens(self, name: str) -> Lens | None:
        """A lens that was fitted to this model; None where none was, or none need be."""
        try:
            return self.lens(name)
        except LensMissing:
            return None

    def known_temperatures(self) -> dict[str, dict[str, Temperature]]:
        """Those that were measured, by frame and geometry."""
        return self._temperatures.known()

    def fit_lens(
        self, name: str, *, text: str | None = None, folder: Path | None = None
    ) -> Steps[Lens]:
        """Fit a lens to this model and keep it; see :mod:`engine.lenses.linear`.

        Args:
            name: which.
            text: to fit it on; None is text that the model writes itself.
            folder: where it is kept; None is the cache, where it is found again by its name.

        Raises:
            OptionError: an unknown name, one that is not fitted, a model that has none, or a text
                that is too short.
            ArtifactError: it cannot be written into the folder.
        """
        kind = lens_of(name)
        if kind.fit is None:
            raise OptionError(f"the lens {name!r} needs no fitting; it is ready.")
        found = yield from kind.fit(self.model, text=text)
        self.use_lens(found)
        if folder is not None:
            try:
                lens_files.save(found, lens_files.path_of(folder, name, self.model.fingerprint))
            except (OSError, SafetensorError) as error:
                raise ArtifactError(
                    f"the lens cannot be written to {shorten(folder.name)} ({error}); choose"
                    " another folder."
                ) from None
        elif self._cache_dir is not None:
            path = lens_files.path_of(self._cache_dir, name, self.model.fingerprint)
            with contextlib.suppress(OSError, SafetensorError):
                lens_files.save(found, path)
        return found

    def use_lens(self, lens: Lens) -> None:
        """Read by this lens whenever its name is asked for.

        Raises:
            ArtifactError: it belongs to another model.
        """
        if lens.model != self.model.fingerprint:
            raise ArtifactError(
                f"this lens belongs to another model ({lens.model[:12]} there,"
                f" {self.model.fingerprint[:12]} here); fit one to this model."
            )
        self._lenses[lens.name] = lens
        self._traces.clear()
        self._reads.clear()
        self.maps.forget()

    def open_lens(self, folder: Path) -> Lens:
        """Read by the lens that a folder holds for this model.

        Raises:
            ArtifactError: there is none, it is damaged, or it is another model's.
        """
        model = self.model
        lens = lens_files.open_folder(
            folder, model=model.fingerprint, blocks=model.blocks, width=model.width
        )
        self.use_lens(lens)
        return lens

    def dial(self) -> DialCurve | None:
        """How often each place of the dial names the model's own next token, layer by layer; None
        where that was not measured yet (:meth:`measure_dial`)."""
        if self._dial is None:
            self._dial = load_curve(self._cache_dir, self.model.fingerprint)
        return self._dial

    def measure_dial(self) -> Steps[DialCurve | None]:
        """Measure that, and keep it; see :mod:`engine.trace.dial`."""
        found = yield from measure_dial(self.model, self.frame)
        self._dial = found
        if found is not None and self._cache_dir is not None:
            with contextlib.suppress(OSError):
                keep_curve(found, self._cache_dir)
        return found

    def frame(self, name: str) -> Frame:
        """One of the frames, built when first asked for.

        Args:
            name: one of :data:`engine.frames.kinds.FRAMES`, or with its dial as ``dial:0.25``.

        Raises:
            OptionError: an unknown name, or a frame that this model does not have.
        """
        found = self._frames.get(name)
        if found is None:
            anatomy = self.model.anatomy
            plain = anatomy.logit_scale == 1.0 and anatomy.softcap is None
            source = Source(
                weight=anatomy.weight,
                embedding=anatomy.embedding_rows,
                decomposition=self.decomposition,
                embedding_scale=anatomy.embedding_scale,
                bias=anatomy.bias,
                finish=None if plain else anatomy.finish,
                seed=self.seed,
            )
            found = self._frames[name] = build_frame(name, source)
        return found

    # --- prompts ---

    def tokenize(self, prompt: str, *, bos: str = "auto", chat: bool = False) -> Tokens:
        """Token ids and texts of a prompt; see :meth:`LanguageModel.tokenize`."""
        return self.model.tokenize(prompt, bos=bos, chat=chat)

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
                    check=check,
                )
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

    def _temperatures_for(self, options: TraceOptions, check: Check) -> dict[str, Temperature]:
        """By geometry, with the one that was asked for in its place."""
        found = self.temperatures(options.frame_key, check=check)
        if options.temperature is None:
            return found
        return found | {options.geometry: Temperature(options.temperature, fitted=False)}

    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Iterator[Column]:
        """The text goes on; each new token with its column, before the model takes the next step.

        Args:
            prompt: any text within the limits.
            options: how many tokens, chosen and read how; or its fields as keywords.
            check: called before each block and between chunks of the vocabulary; raises to stop.

        Raises:
            PromptError, OptionError, TokenError: one sentence each, before anything is computed.
        """
        return write(*self._to_write(prompt, options, settings), check=check)

    def generation(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Generation:
        """The same as a whole: the finished text, its columns, and how late its tokens settle."""
        return drain(self.generation_steps(prompt, options, check=check, **settings))

    def generation_steps(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        check: Check = no_check,
        **settings: Any,
    ) -> Generator[Column | Progress, None, Generation]:
        """The same in steps: a column each, then the controls; returns the finished text."""
        return generation(*self._to_write(prompt, options, settings), check=check)

    def _to_write(
        self, prompt: str, options: GenerateOptions | None, settings: dict[str, Any]
    ) -> tuple[LanguageModel, Tokens, Reader]:
        """What a text that goes on needs, checked before anything is computed."""
        options = with_settings(options, settings, GenerateOptions)
        reading = self._options(options.reading, {})
        tokens = self.tokenize(prompt, bos=reading.bos, chat=reading.chat)
        check_room(self.model, tokens, options)
        lens = self.lens(reading.lens)
        frames, temperatures = self.frame, self._temperatures_for
        return self.model, tokens, Reader(self.model, frames, options, lens, temperatures)

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

    def predict_cost(self, tokens: int, options: TraceOptions | None = None) -> Cost:
        """What a trace of so many tokens would need, the forward pass included."""
        work = self._work(tokens, options or TraceOptions(), forward_tokens=tokens)
        return Cost(self._costs.seconds(work), self._costs.bytes(work))

    def predict_pass(self, tokens: int) -> float:
        """Seconds that a forward pass of so many tokens would take."""
        work = self._work(tokens, TraceOptions(), forward_tokens=tokens)
        return self._costs.seconds(replace(work, states=0))

    def states(
        self, prompt: str, *, bos: str = "auto", chat: bool = False, check: Check = no_check
    ) -> States:
        """The hidden states of a prompt before the final norm: for work of one's own."""
        return self._states.take(self.tokenize(prompt, bos=bos, chat=chat).ids, check)

    # --- actions ---

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
        self._traces = LRUCache(_TRACES)
        self._reads = LRUCache(kept[2].maxsize, getsizeof=lambda read: read.bytes)
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
            self._causal[key] = yield from causal_map(self, prompt, twin)
        return self._causal[key]

    def predict_causal_map(self, prompt: str, twin: str) -> float:
        """Seconds that a causal map would take; nothing is run.

        Raises:
            PromptError: prompts that cannot be compared.
        """
        own, other = self.tokenize(prompt).ids, self.tokenize(twin).ids
        check_twins(own, other)
        count, layers = len(own), self.model.blocks + 1
        # From the first token that differs on, twice, through half of the blocks on average.
        rows = 2 * (count - next(n for n in range(count) if own[n] != other[n]))
        work = replace(
            self._work(count, TraceOptions(), forward_tokens=rows * count * layers // 2),
            states=rows * layers,
        )
        return self._costs.seconds(work)

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

    def known_causal_map(self, prompt: str, twin: str) -> CausalMap | None:
        """One that was computed already."""
        return self._causal.get((self.tokenize(prompt).ids, self.tokenize(twin).ids))

    # --- bases ---

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

    # --- inside ---

    def _options(self, options: TraceOptions | None, settings: dict[str, Any]) -> TraceOptions:
        options = with_settings(options, settings, TraceOptions)
        if options.k > self.model.limits.max_k:
            raise OptionError(f"k must be at most {self.model.limits.max_k}; got {options.k}.")
        return options

    def _work(self, count: int, options: TraceOptions, *, forward_tokens: int) -> Work:
        """The size of a trace of `count` tokens."""
        layers = self.model.layer_numbers(options.layers)
        positions = parse_range(
            options.positions, count, "position", f"this prompt of {count} tokens"
        )
        return Work(
            forward_tokens=forward_tokens,
            states=len(layers) * len(positions),
            vocabulary=self.model.vocabulary,
            width=self.model.width,
            layers=self.model.blocks,
            tokens=count,
            k=options.k,
            budget_bytes=self.model.limits.reading_bytes,
        )

    def _calibrate(self, check: Check) -> None:
        """Three short runs, so that the first prediction stands on this machine's own speed."""
        v = min(self.model.vocabulary, self.vocabulary.tokenizer_size)
        top = self.model.max_tokens
        try:
            # The first run of a process pays for what later ones find ready: it teaches nothing.
            for run, count in enumerate((4, 4, 12, 32)):
                n = min(count, top)
                ids = tuple((7919 * (i + 1)) % v for i in range(n))
                tokens = Tokens("", ids, self.vocabulary.prompt_tokens(ids), False)
                work = self._work(n, TraceOptions(), forward_tokens=n)
                with torch.no_grad(), measured(self.model.anatomy.weight.device) as spent:
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
                if run:
                    self._costs.add(work, spent)
                if run and spent.seconds > 2.0:
                    break
        except LexiscopeError as error:
            if not self.self_check.ok:
                return
            raise error


def _set_key(texts: Sequence[str], options: TraceOptions, lens: Lens | None) -> tuple[object, ...]:
    return tuple(texts), options, None if lens is None else lens.digest
