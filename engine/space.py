"""A model's latent space: the model, its semantic bases, and everything one can ask of it.

Three lines to a trace::

    from engine import load
    space = load()
    trace = space.trace("The old king and the")

A space belongs to the thread that loaded it. It keeps the hidden states of the latest prompts, so
that another geometry, frame or colour never runs the model again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from engine.agreement import Agreement, compute_agreement
from engine.cell import Cell, compute_cell
from engine.cost import CostModel, Measured, Work, measured
from engine.curves import Curves, compute_curves
from engine.errors import (
    LayerError,
    LexiscopeError,
    ModelNotFound,
    OptionError,
    TokenError,
    shorten,
)
from engine.frames import (
    CHUNK,
    FRAMES,
    Check,
    Frame,
    HeadDecomposition,
    build_frame,
    cached_decomposition,
    no_check,
    without_masks,
)
from engine.isotropy import isotropy
from engine.maps import MapStudio
from engine.models import (
    LanguageModel,
    Limits,
    States,
    Tokens,
    parse_range,
)
from engine.opening import Tell, load_model, silent
from engine.placement import DeviceMap
from engine.selfcheck import SelfCheck, self_check
from engine.similarity import check_geometry, read
from engine.trace import (
    Cost,
    Trace,
    TraceOptions,
    compute_trace,
    number,
    with_cost,
)
from engine.vocabulary import Token, Vocabulary

ROUND_TRIP_ALL: Final = 4096
"""Up to this vocabulary the round trip is taken for every token."""
ROUND_TRIP_SAMPLE: Final = 1024
"""Else for this many, evenly spaced."""
NEIGHBOURHOOD: Final = 32
"""Nearest bases whose isotropy is a token's local isotropy."""
_TRACES: Final = 24


@dataclass(frozen=True)
class Neighbour:
    """A near token."""

    token: Token
    score: float


@dataclass(frozen=True)
class TokenBasis:
    """A token's reference point in one frame."""

    token: Token
    frame: str
    geometry: str
    norm: float
    """‖b_i‖."""
    leverage: float
    """h_ii = w_i·s_i in [0, 1]: how much of its own logit the token's basis keeps."""
    self_logit: float
    """w_i·b_i: the logit that this vector gives its own token."""
    isotropy_raw: float
    """Of the nearest bases, in [0, 1]."""
    isotropy_centred: float
    """The same, centred on their mean."""
    neighbours: tuple[Neighbour, ...]
    """Nearest first, without the token itself."""

    @property
    def id(self) -> int:
        """Its row."""
        return self.token.id

    @property
    def text(self) -> str:
        """Its text."""
        return self.token.text

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "id": self.token.id,
            "text": self.token.text,
            "label": self.token.label,
            "frame": self.frame,
            "geometry": self.geometry,
            "norm": number(self.norm),
            "leverage": number(self.leverage),
            "self_logit": number(self.self_logit),
            "isotropy_raw": number(self.isotropy_raw),
            "isotropy_centred": number(self.isotropy_centred),
            "neighbours": [
                {
                    "id": n.token.id,
                    "text": n.token.text,
                    "label": n.token.label,
                    "score": number(n.score),
                }
                for n in self.neighbours
            ],
        }


@dataclass(frozen=True)
class FrameReport:
    """What kind of frame the v vectors are (frame theory; docs/method.md §3)."""

    frame: str
    rank: int
    width: int
    vocabulary: int
    condition_number: float
    """√(upper bound / lower bound)."""
    residual: float
    """The largest of `residuals`; NaN for the random frame, which is no pseudo-inverse."""
    residuals: dict[str, float]
    """Relative errors of the four Moore–Penrose equations of the matrix behind the frame."""
    lower_bound: float
    """A in A‖r‖² ≤ Σ (b_i·r)² ≤ B‖r‖² for every r that the frame spans."""
    upper_bound: float
    """B."""
    redundancy: float
    """Vectors per dimension spanned, v / rank."""
    round_trip_rate: float
    """How often the largest logit of vector i is token i, in [0, 1]."""
    round_trip_sample: int
    round_trip_exact: bool
    """Whether every token was tried."""
    leverage: dict[str, float]
    """min, median, mean and max over the vocabulary, of the head."""
    bias: dict[str, float] | None
    """Norm of the head bias b, of its shift W⁺b, and the share of b outside what W spans."""
    seconds: float
    """To take the matrix apart; if it came from the disk, what it took then."""
    bytes: int
    """Held for this frame beside the model's own weights."""
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        plain = asdict(self)
        for name in (
            "condition_number",
            "residual",
            "lower_bound",
            "upper_bound",
            "redundancy",
            "round_trip_rate",
            "seconds",
        ):
            plain[name] = number(plain[name])
        plain["residuals"] = {k: number(x) for k, x in self.residuals.items()}
        plain["leverage"] = {k: number(x) for k, x in self.leverage.items()}
        return plain


@dataclass(frozen=True)
class TokenHit:
    """A token found by a search."""

    token: Token
    leverage: float
    norm: float
    """‖s_i‖ of its semantic basis."""


NOTES: Final = {
    "output": "Semantic bases s_i = e_i·W⁺ = G⁻¹w_i: the states whose logits come nearest to the"
    " one-hot of each token (paper §3.1); the canonical dual frame of the head rows.",
    "input": "Rows of the embedding table: where each token enters the model (paper App. B.1).",
    "head": "Rows w_i of the head as they are; inner products with them are the model's logits.",
    "tight": "G^(-1/2)w_i, half way between head rows and semantic bases; a Parseval frame: squared"
    " inner products with it sum to ‖r‖².",
    "random": "The control: seeded random directions with the lengths of the semantic bases. What"
    " it shows is chance.",
}


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
        self.forward_passes = 0
        """How often the model ran for a prompt."""
        self._cache_dir = cache_dir
        self._states: OrderedDict[tuple[int, ...], States] = OrderedDict()
        self._states_bytes = states_bytes
        self._traces: OrderedDict[tuple[Any, ...], Trace] = OrderedDict()
        self._frames: dict[str, Frame] = {}
        self._reports: dict[tuple[str, bool], FrameReport] = {}
        self._costs = CostModel()
        tell("taking the head apart")
        self.decomposition: HeadDecomposition = cached_decomposition(
            model.anatomy.weight, cache_dir, check=check
        )
        tell("checking the readings against the model's own logits")
        self.self_check: SelfCheck = self.run_self_check()
        tell("measuring this machine's speed")
        self._calibrate(check)

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

    def frame(self, name: str) -> Frame:
        """One of the five frames, built when first asked for.

        Raises:
            OptionError: an unknown name, or a frame that this model does not have.
        """
        if name not in self._frames:
            anatomy = self.model.anatomy
            plain = anatomy.logit_scale == 1.0 and anatomy.softcap is None
            self._frames[name] = build_frame(
                name,
                weight=anatomy.weight,
                embedding=anatomy.embedding_rows,
                decomposition=self.decomposition,
                embedding_scale=anatomy.embedding_scale,
                bias=anatomy.bias,
                finish=None if plain else anatomy.finish,
                seed=self.seed,
            )
        return self._frames[name]

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
        key = (tokens.ids, options)
        if key in self._traces:
            self._traces.move_to_end(key)
            return self._traces[key]
        count = len(tokens.ids)
        work = self._work(count, options, forward_tokens=0 if tokens.ids in self._states else count)
        foretold = Cost(self._costs.seconds(work), self._costs.bytes(work))
        with torch.no_grad(), measured(self.model.anatomy.weight.device) as spent:
            trace = compute_trace(
                self.model,
                self.frame,
                tokens,
                self._states_of(tokens, check),
                options,
                cost=foretold,
                check=check,
            )
        self._costs.add(work, spent)
        trace = with_cost(trace, replace(foretold, seconds=spent.seconds, bytes=spent.bytes))
        self._traces[key] = trace
        while len(self._traces) > _TRACES:
            self._traces.popitem(last=False)
        return trace

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
        tokens = self.tokenize(prompt, bos=options.bos, chat=options.chat)
        states = self._states_of(tokens, check)
        layer = layer + self.model.blocks + 1 if layer < 0 else layer
        position = position + len(tokens.ids) if position < 0 else position
        with torch.no_grad():
            return compute_cell(self.model, self.frame, trace, states, layer, position, check=check)

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
        tokens = self.tokenize(prompt, bos=options.bos, chat=options.chat)
        states = self._states_of(tokens, check)
        with torch.no_grad():
            return compute_agreement(self.model, self.frame, states, options, check=check)

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
        tokens = self.tokenize(prompt, bos=options.bos, chat=options.chat)
        count = len(tokens.ids)
        position = position + count if position < 0 else position
        if not 0 <= position < count:
            raise LayerError(
                f"position must be in [0, {count - 1}] for this prompt of {count} tokens;"
                f" got {position}."
            )
        if position not in trace.positions and ids is None:
            position = trace.positions[-1]
        if ids is None:
            from engine.trace import default_pins

            ids = default_pins(trace.top_ids[:, trace.positions.index(position), 0])
        for i in ids:
            if not 0 <= i < self.model.vocabulary:
                raise TokenError(f"token id must be in [0, {self.model.vocabulary - 1}]; got {i}.")
        states = self._states_of(tokens, check)
        with torch.no_grad():
            return compute_curves(self.model, self.frame, trace, states, ids, position, check=check)

    def predict_cost(self, tokens: int, options: TraceOptions | None = None) -> Cost:
        """What a trace of so many tokens would need, the forward pass included."""
        work = self._work(tokens, options or TraceOptions(), forward_tokens=tokens)
        return Cost(self._costs.seconds(work), self._costs.bytes(work))

    def states(
        self, prompt: str, *, bos: str = "auto", chat: bool = False, check: Check = no_check
    ) -> States:
        """The hidden states of a prompt before the final norm: for work of one's own."""
        return self._states_of(self.tokenize(prompt, bos=bos, chat=chat), check)

    @cached_property
    def maps(self) -> MapStudio:
        """Maps of this space: its bases and states in the plane (:mod:`engine.maps`)."""
        return MapStudio(self, cache_dir=self._cache_dir and self._cache_dir / "maps")

    # --- bases ---

    def find_token(self, token: int | str) -> int:
        """A row of the vocabulary from its id, ``#id``, or its text.

        A text that is no token by itself is tried with a leading space, then tokenized.

        Raises:
            TokenError: no such row, or a text of several tokens.
        """
        v = self.model.vocabulary
        if isinstance(token, int):
            if not 0 <= token < v:
                raise TokenError(f"token id must be in [0, {v - 1}]; got {token}.")
            return token
        if token.startswith("#") and token[1:].isdecimal() and len(token) < 12:
            return self.find_token(int(token[1:]))
        if not token:
            raise TokenError("the token is empty; type a word, or # and an id such as #42.")
        if len(token) > 200:
            raise TokenError(
                f"a token may have at most 200 characters, this text has {len(token):,}."
            )
        index = self._index()
        for text in (token, " " + token):
            if text in index:
                return index[text]
        pieces = self.tokenize(token, bos="no").items
        if len(pieces) == 1:
            return pieces[0].id
        parts = ", ".join(f"{p.label} (#{p.id})" for p in pieces[:6])
        more = f" and {len(pieces) - 6} more" if len(pieces) > 6 else ""
        raise TokenError(
            f"{shorten(token)!r} is {len(pieces)} tokens for this model:"
            f" {shorten(parts, 160)}{more}; choose one of them."
        )

    def _index(self) -> dict[str, int]:
        if not hasattr(self, "_text_index"):
            index: dict[str, int] = {}
            for i, text in enumerate(self.vocabulary.texts):
                index.setdefault(text, i)
            self._text_index = index
        return self._text_index

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
        id = self.find_token(token)
        check_geometry(geometry)
        limit = min(self.model.limits.max_k, self.model.vocabulary - 1)
        if not 1 <= k <= limit:
            raise OptionError(f"k must be from 1 to {limit}; got {k}.")
        chosen = self.frame(frame)
        vector = chosen.vectors([id])
        near = max(k, min(NEIGHBOURHOOD, self.model.vocabulary - 1)) + 1
        with torch.no_grad():
            found = read(
                chosen,
                vector.to(chosen.device, torch.float32),
                geometries=(geometry,),
                k=near,
                vectors=True,
                budget_bytes=self._budget(),
                check=check,
            )[geometry]
        listed = [
            (int(i), float(s))
            for i, s in zip(found.ids[0], found.scores[0], strict=True)
            if int(i) != id
        ]
        around = isotropy(chosen.vectors([i for i, _ in listed[:NEIGHBOURHOOD]]))
        row = self.model.anatomy.weight[id].detach().cpu().double()
        return TokenBasis(
            token=self.vocabulary.token(id),
            frame=frame,
            geometry=geometry,
            norm=float(vector.norm()),
            leverage=float(self.decomposition.leverage[id]),
            self_logit=float(vector[0] @ row),
            isotropy_raw=around.raw,
            isotropy_centred=around.centred,
            neighbours=tuple(Neighbour(self.vocabulary.token(i), s) for i, s in listed[:k]),
        )

    def search(self, text: str, *, limit: int = 20) -> list[TokenHit]:
        """Tokens whose text holds a piece of text: exact ones first, then by length.

        Raises:
            OptionError: nothing to search for, or too long a text.
        """
        if not text or len(text) > 200:
            raise OptionError(f"search for 1 to 200 characters; got {len(text):,}.")
        limit = max(1, min(limit, self.model.limits.max_search))
        wanted = text.casefold()
        hits = [
            (t.strip().casefold() != wanted.strip(), len(t), i)
            for i, t in enumerate(self.vocabulary.texts)
            if wanted in t.casefold()
        ]
        hits.sort()
        return [
            TokenHit(
                self.vocabulary.token(i),
                float(self.decomposition.leverage[i]),
                float(self.decomposition.basis_norms[i]),
            )
            for _, _, i in hits[:limit]
        ]

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
                self._reports[key] = self._report(name, round_trip, check)
        return self._reports[key]

    def _report(self, name: str, round_trip: bool, check: Check) -> FrameReport:
        frame = self.frame(name)
        head = self.decomposition
        begin = time.perf_counter()
        if name == "input" and not self.model.tied:
            assert frame.rows is not None
            source = cached_decomposition(frame.rows, self._cache_dir, check=check)
        else:
            source = head
        residuals = source.residuals()
        values = source.kept
        if name == "output":
            values = (1 / values).flip(0)
        elif name == "tight":
            values = torch.ones_like(values)
        elif name == "input":
            values = values * frame.factor**2
        elif name == "random":
            values, residuals = _eigenvalues(frame, check), {}
        seconds = source.seconds if name != "random" else time.perf_counter() - begin
        spanned = len(values) > 0  # a head of zeros spans nothing
        lower = float(values.min()) if spanned else 0.0
        upper = float(values.max()) if spanned else 0.0
        rate, sample = float("nan"), 0
        if round_trip:
            rate, sample = self._round_trip(frame, check)
        leverage = head.leverage
        own = frame.norms.numel() * 4 + frame.mean.numel() * 8
        if frame.transform is not None:
            own += frame.transform.numel() * 8
        v = self.model.vocabulary
        return FrameReport(
            frame=name,
            rank=len(values),
            width=self.model.width,
            vocabulary=v,
            condition_number=(upper / lower) ** 0.5 if lower > 0 else float("inf"),
            residual=max(residuals.values()) if residuals else float("nan"),
            residuals=residuals,
            lower_bound=lower,
            upper_bound=upper,
            redundancy=v / max(len(values), 1),
            round_trip_rate=rate,
            round_trip_sample=sample,
            round_trip_exact=sample == v,
            leverage={
                "min": float(leverage.min()),
                "median": float(leverage.median()),
                "mean": float(leverage.mean()),
                "max": float(leverage.max()),
            },
            bias=self._bias_report(),
            seconds=seconds,
            bytes=own,
            note=NOTES[name],
        )

    def _round_trip(self, frame: Frame, check: Check) -> tuple[float, int]:
        """How often argmax_j w_j·b_i is i: over all tokens, or an evenly spaced sample."""
        v = self.model.vocabulary
        step = 1 if v <= ROUND_TRIP_ALL else -(-v // ROUND_TRIP_SAMPLE)
        ids = torch.arange(0, v, step)
        plain = replace(self.frame("head"), bias=None, finish=None)
        hits = 0
        for start in range(0, len(ids), 512):
            some = ids[start : start + 512]
            vectors = frame.vectors(some).to(plain.device, torch.float32)
            found = read(
                plain,
                vectors,
                geometries=("matmul",),
                k=1,
                vectors=True,
                budget_bytes=self._budget(),
                check=check,
            )["matmul"]
            hits += int((found.ids[:, 0].cpu() == some).sum())
        return hits / len(ids), len(ids)

    def _bias_report(self) -> dict[str, float] | None:
        bias = self.model.anatomy.bias
        shift = self.frame("output").shift
        if bias is None or shift is None:
            return None
        b = without_masks(bias.detach()).cpu().double()
        weight = self.model.anatomy.weight.detach()
        square = 0.0
        for start in range(0, len(weight), CHUNK):
            rows = weight[start : start + CHUNK].cpu().double()
            square += float((b[start : start + CHUNK] - rows @ shift).square().sum())
        norm = float(b.norm())
        return {
            "norm": norm,
            "shift": float(shift.norm()),
            "outside": square**0.5 / norm if norm > 0 else 0.0,
        }

    # --- inside ---

    def _options(self, options: TraceOptions | None, settings: dict[str, Any]) -> TraceOptions:
        if options is None:
            try:
                options = TraceOptions(**settings)
            except TypeError as error:
                names = ", ".join(TraceOptions.__dataclass_fields__)
                raise OptionError(f"{error}; the options are {names}.") from None
        elif settings:
            options = replace(options, **settings)
        if options.k > self.model.limits.max_k:
            raise OptionError(f"k must be at most {self.model.limits.max_k}; got {options.k}.")
        return options

    def _budget(self) -> int:
        return self.model.limits.memory_budget_mib * 2**19

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
            budget_bytes=self._budget(),
        )

    def _states_of(self, tokens: Tokens, check: Check) -> States:
        found = self._states.get(tokens.ids)
        if found is not None:
            self._states.move_to_end(tokens.ids)
            return found
        need = 4 * (self.model.blocks + 1) * len(tokens.ids) * self.model.anatomy.residual_width
        limit = self.model.limits.memory_budget_mib * 2**20
        if need > limit:
            from engine.errors import BudgetExceeded

            raise BudgetExceeded(
                f"the states of {len(tokens.ids):,} tokens need {need / 2**20:,.0f} MiB and the"
                f" budget is {limit / 2**20:,.0f} MiB; shorten the prompt."
            )
        states = self.model.states(tokens.ids, check=check)
        self.forward_passes += 1
        self._states[tokens.ids] = states
        held = sum(s.bytes for s in self._states.values())
        while held > self._states_bytes and len(self._states) > 1:
            _, old = self._states.popitem(last=False)
            held -= old.bytes
        return states

    def _calibrate(self, check: Check) -> None:
        """Three short runs, so that the first prediction stands on this machine's own speed."""
        v = min(self.model.vocabulary, self.vocabulary.tokenizer_size)
        top = self.model.max_tokens
        try:
            for count in (4, 4, 12, 32):
                n = min(count, top)
                ids = tuple((7919 * (i + 1)) % v for i in range(n))
                tokens = Tokens("", ids, self.vocabulary.prompt_tokens(ids), False)
                work = self._work(n, TraceOptions(), forward_tokens=n)
                with torch.no_grad(), measured(self.model.anatomy.weight.device) as spent:
                    states = self.model.states(ids, check=check)
                    compute_trace(
                        self.model,
                        self.frame,
                        tokens,
                        states,
                        TraceOptions(),
                        cost=Cost(0.0, 0),
                        check=check,
                    )
                self._learn(work, spent)
                if spent.seconds > 2.0:
                    break
        except LexiscopeError as error:
            if not self.self_check.ok:
                return
            raise error

    def _learn(self, work: Work, spent: Measured) -> None:
        # The first run of a process pays for what later ones find ready: it teaches nothing.
        if getattr(self, "_warm", False):
            self._costs.add(work, spent)
        self._warm = True


def _eigenvalues(frame: Frame, check: Check) -> Tensor:
    """Eigenvalues of Σ b_i b_iᵀ above the cut-off, largest first, for a frame drawn in blocks."""
    total = torch.zeros(frame.width, frame.width, dtype=torch.float64)
    for start in range(0, frame.size, CHUNK):
        check()
        block = frame.block(start, min(start + CHUNK, frame.size)).cpu().double()
        total += block.T @ block
    values: Tensor = torch.linalg.eigvalsh(total).flip(0)
    return values[values > frame.width * torch.finfo(torch.float64).eps * values[0]]


def default_model() -> Path:
    """The folder of the model that ships: in the wheel, or in a checkout.

    Raises:
        ModelNotFound: it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_models" / "small", here.parent / "models" / "small"):
        if (folder / "config.json").is_file():
            return folder
    raise ModelNotFound(
        "the model that ships with lexiscope is not in this installation; name one with --model,"
        " a folder or a hub id such as gpt2."
    )


def default_cache() -> Path:
    """Where decompositions are kept unless said otherwise."""
    return Path.home() / ".cache" / "lexiscope"


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: Path | None = None,
    threads: int | None = None,
    limits: Limits | None = None,
    offline: bool = False,
    seed: int = 0,
    states_bytes: int = 256 * 2**20,
    device_map: DeviceMap | None = None,
    check: Check = no_check,
    tell: Tell = silent,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> LatentSpace:
    """Open a model and take its head apart.

    Args:
        model: a folder, a hub id, or None for the model that ships.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        revision: of a hub id.
        trust_remote_code: allow the model's own code to run.
        cache_dir: for decompositions; None is :func:`default_cache`.
        threads: of torch on the CPU; None leaves them as they are.
        limits: what one request may ask for.
        offline: use what is on the disk only.
        seed: of the random frame.
        states_bytes: of the hidden states of earlier prompts that are kept.
        device_map: how the model is spread over several GPUs, by :func:`engine.opening.load_model`.
        check: raises to stop.
        tell: called with a few words at each phase: reading the configuration, the weights, …
        alone: entered while no other thread may compute; see :func:`engine.opening.load_model`.

    Raises:
        ModelError, OptionError: one sentence each.
    """
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    shipped = model is None
    opened = load_model(
        default_model() if model is None else model,
        device=device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        offline=offline,
        limits=limits,
        name="lexiscope-small" if shipped else None,
        device_map=device_map,
        tell=tell,
        alone=alone,
    )
    folder = default_cache() if cache_dir is None else cache_dir
    return LatentSpace(
        opened, cache_dir=folder, seed=seed, states_bytes=states_bytes, check=check, tell=tell
    )


__all__ = ["FRAMES", "LatentSpace", "default_cache", "default_model", "load"]
