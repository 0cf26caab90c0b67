"""What every question of a latent space stands on: its frames, prompts, states and costs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cachetools import LRUCache

from engine.bases.selfcheck import SelfCheck
from engine.cost import CostModel, Work
from engine.errors import ArtifactError, OptionError
from engine.frames.decomposition import CHUNK, HeadDecomposition
from engine.frames.decomposition_cache import cached_decomposition
from engine.frames.frame import Frame, draws_kept
from engine.frames.kinds import build_frame
from engine.frames.kinds.kind import Source
from engine.interventions.hooks import Switch
from engine.model.language_model import LanguageModel, States
from engine.model.opening import Tell, silent
from engine.model.prompts import Tokens
from engine.model.ranges import parse_range
from engine.model.state_cache import StateCache
from engine.model.vocabulary import Vocabulary
from engine.progress import Check, no_check
from engine.reading.geometries import GEOMETRIES
from engine.reading.similarity import CPU_TILE as ROWS
from engine.trace.options import TraceOptions, with_settings
from engine.trace.result import Cost

_FRAMES: Final = 12
_DRAWS: Final = 19
"""Times that a reading draws a frame whose rows are not kept, for each tile of states: once for the
products, and for near ties and walls (counted on three models, 16 to 20)."""


class Core:
    """A model's frames and the states of its latest prompts.

    Args:
        model: opened by this thread.
        cache_dir: where decompositions of heads are kept; None keeps none.
        seed: of the random frame.
        states_bytes: limit of the kept hidden states.
        check: raises to stop.
        tell: called with a few words at each phase.
    """

    self_check: SelfCheck
    """How far the last layer's reading is from the model's own logits."""

    _switch: Switch | None = None
    """Of the action that is under way."""

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
        self._states = StateCache(model, states_bytes)
        self._frames: LRUCache[str, Frame] = LRUCache(_FRAMES)
        self._costs = CostModel()
        tell("taking the head apart")
        self.decomposition: HeadDecomposition = cached_decomposition(
            model.anatomy.weight, cache_dir, check=check
        )
        self._begin(check, tell)

    def _begin(self, check: Check, tell: Tell) -> None:
        """What stands on the head taken apart."""

    @property
    def forward_passes(self) -> int:
        """How often the model ran for a prompt."""
        return self._states.passes

    @property
    def cache_dir(self) -> Path | None:
        """Where what was measured of the model is kept; None where nothing is."""
        return self._cache_dir

    @property
    def vocabulary(self) -> Vocabulary:
        """Token texts."""
        return self.model.vocabulary_texts

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

    def tokenize(self, prompt: str, *, bos: str = "auto", chat: bool = False) -> Tokens:
        """Token ids and texts of a prompt; see :meth:`LanguageModel.tokenize`."""
        return self.model.tokenize(prompt, bos=bos, chat=chat)

    def states(
        self, prompt: str, *, bos: str = "auto", chat: bool = False, check: Check = no_check
    ) -> States:
        """The hidden states of a prompt before the final norm: for work of one's own."""
        return self._states.take(self.tokenize(prompt, bos=bos, chat=chat).ids, check)

    def known_states(self, prompt: str, *, bos: str = "auto", chat: bool = False) -> States | None:
        """The same if they are still kept; the model does not run."""
        return self._states.known(self.tokenize(prompt, bos=bos, chat=chat).ids)

    @contextlib.contextmanager
    def given(self, states: Sequence[States]) -> Iterator[None]:
        """Within it these states of an earlier run stand for their prompts, which the model then
        does not read again.

        Raises:
            ArtifactError: states of another shape than the model's.
        """
        model = self.model
        for one in states:
            shape = (model.blocks + 1, len(one.ids), model.anatomy.residual_width)
            if tuple(one.raw.shape) != shape:
                raise ArtifactError(
                    f"the kept states are {tuple(one.raw.shape)}, and this model's are {shape}"
                    " (layer × token × width); run the prompt again."
                )
        with self._states.given(states):
            yield

    def predict_cost(self, tokens: int, options: TraceOptions | None = None) -> Cost:
        """What a trace of so many tokens would need, the forward pass included."""
        work = self._work(tokens, options or TraceOptions(), forward_tokens=tokens)
        return Cost(self._costs.seconds(work), self._costs.bytes(work))

    def predict_pass(self, tokens: int) -> float:
        """Seconds that a forward pass of so many tokens would take."""
        return self.predict_work(tokens)

    def predict_work(self, tokens: int, products: int = 0, *, passes: float = 1.0) -> float:
        """Seconds that so many tokens through the model in so many runs would take, and products of
        so many states with the vocabulary."""
        return self._costs.seconds(self._plain_work(tokens, products, passes))

    def _plain_work(self, tokens: int, products: int, passes: float) -> Work:
        work = self._work(1, TraceOptions(), forward_tokens=tokens)
        return replace(work, states=0, products=products, passes=passes)

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
        states = len(layers) * len(positions)
        frame = self._frames.get(options.frame_key)
        tiles = -(-states // ROWS) if frame is not None and frame.draws_again else 0
        v, d = self.model.vocabulary, self.model.width
        made = 0
        if frame is None:  # its vectors go by in chunks; those that are drawn may stay
            made = 12 * min(CHUNK, v) * d + (draws_kept(v, d) if options.frame == "random" else 0)
        bounds = GEOMETRIES[options.geometry].borders
        return Work(
            forward_tokens=forward_tokens,
            states=states,
            again=states if options.words_only else 0,
            drawn=_DRAWS * tiles,
            made=made,
            spans=4 if bounds is not None and bounds.directions else 3,
            vocabulary=v,
            width=d,
            layers=self.model.blocks,
            tokens=count,
            k=options.k,
            budget_bytes=self.model.limits.reading_bytes,
        )
