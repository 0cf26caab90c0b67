"""Two models on one map, whatever their widths: places told by the vocabulary that both have.

A state h, or the vector of a token, gets the coordinates c_i = cos(h, s_i) over m landmark tokens
that both models have, by each model's own frame (after SemAlign, arXiv 2510.24208). So states of
models of other widths lie in one space of m dimensions, with one pair of principal axes for both.
The words that are placed are none of the landmarks: a landmark is 1 on its own coordinate in every
model, and two random vocabularies would seem to match (measured: every second word).

Beside the picture stands what it can be trusted for: how often a word's nearest neighbour in the
other model is the word itself, and the same where the other's landmarks are named at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.compare.shared import FEWEST, Shared, SharedCount, shared_vocabulary
from engine.compare.side import Side, side_of
from engine.errors import OptionError
from engine.json_number import number
from engine.model.vocabulary import Token
from engine.progress import Check, no_check
from engine.space import LatentSpace
from engine.trace.dial import wilson
from engine.trace.options import TraceOptions

Doubles = NDArray[np.float64]
LANDMARKS: Final = 1000
_MOVERS: Final = 20


@dataclass(frozen=True)
class MovedWord:
    """A word that the two models place differently."""

    token: Token
    cosine: float
    """Of its two places, centred."""
    nearest: Token
    """The word of the other model that lies nearest to its place in the first."""


@dataclass(frozen=True)
class OneMap:
    """Two models on one map."""

    names: tuple[str, str]
    frame: str
    shared: SharedCount
    words: tuple[Token, ...]
    """Those that are placed, as rows of the first vocabulary."""
    landmarks: int
    """m."""
    places: tuple[Doubles, Doubles]
    """word × 2: where each lies, by either model."""
    paths: tuple[Doubles, Doubles]
    """layer × 2: the last state of the text, by either model; empty without a text."""
    layers: tuple[tuple[int, ...], tuple[int, ...]]
    variance: float
    """Share of the words' variance that the two axes show."""
    same: float
    """Share of words whose nearest one in the other model is the word itself."""
    interval: tuple[float, float]
    """Wilson's 95 % of that."""
    by_chance: float
    """The same with the other's landmarks named at random."""
    apart: float
    """Mean distance of a word's two places on the picture, in its RMS radii."""
    movers: tuple[MovedWord, ...]
    """The least alike first."""

    @property
    def sentence(self) -> str:
        """Whether the map means something, beside chance."""
        low, high = self.interval
        a, b = self.names
        told = (
            f"{self.same:.1%} of {len(self.words):,} words ({low:.1%} to {high:.1%}) lie nearest to"
            f" themselves in the other model; with its landmarks named at random"
            f" {self.by_chance:.1%}."
        )
        if low <= self.by_chance:
            return f"{told} So nothing on one map of {a} and {b} means more than chance."
        return f"{told} So {a} and {b} can be read on one map."

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sentence": self.sentence,
            "frame": self.frame,
            "vocabulary": self.shared.to_dict(),
            "landmarks": self.landmarks,
            "words": [
                {
                    "token": token.to_dict(),
                    "first": [number(x) for x in self.places[0][n]],
                    "other": [number(x) for x in self.places[1][n]],
                }
                for n, token in enumerate(self.words)
            ],
            "paths": [
                [
                    {"layer": layer, "place": [number(x) for x in place]}
                    for layer, place in zip(layers, path, strict=True)
                ]
                for layers, path in zip(self.layers, self.paths, strict=True)
            ],
            "variance": number(self.variance),
            "same": number(self.same),
            "interval": [number(x) for x in self.interval],
            "same_by_chance": number(self.by_chance),
            "apart": number(self.apart),
            "movers": [
                {
                    "token": one.token.to_dict(),
                    "cosine": number(one.cosine),
                    "nearest": one.nearest.to_dict(),
                }
                for one in self.movers
            ],
        }


def one_map(
    first: LatentSpace,
    other: LatentSpace,
    prompt: str | None = None,
    options: TraceOptions | None = None,
    *,
    landmarks: int = LANDMARKS,
    fewest: int = FEWEST,
    seed: int = 0,
    check: Check = no_check,
) -> OneMap:
    """Place the words of two models, and a text's last state, on one map.

    Args:
        first: a model; called on its thread.
        other: another, on the same thread.
        prompt: a text whose last state is followed through the layers of both.
        options: which frame, and how the text is read.
        landmarks: m at most, and as many words.
        fewest: tokens that both vocabularies must have.
        seed: of the names at random.
        check: raises to stop.

    Raises:
        OptionError: too few shared tokens, or a random frame; PromptError: as for a trace.
    """
    options = options or TraceOptions()
    if options.frame == "random":
        raise OptionError(
            "frame must be one that a model has of its own; got 'random', which is drawn."
        )
    shared = shared_vocabulary(first.vocabulary, other.vocabulary, fewest=fewest)
    chosen = _spread(first, shared, 2 * landmarks)
    chosen, marks = chosen[0::2], chosen[1::2]
    units: list[Tensor] = []
    words: list[Doubles] = []
    for space, ids in zip((first, other), shared.rows, strict=True):
        check()
        frame = space.frame(options.frame_key)
        own, its = (
            torch.nn.functional.normalize(frame.vectors(ids[some]), dim=1)
            for some in (chosen, marks)
        )
        units.append(its)
        words.append((own @ its.T).numpy())
    states: list[Doubles] = [np.empty((0, len(marks)))] * 2
    layers: list[tuple[int, ...]] = [(), ()]
    if prompt is not None:
        for n, space in enumerate((first, other)):
            side = side_of(space, prompt, options, check=check)
            layers[n], states[n] = _path(side, units[n], space, options)
    # Each model's own mean is taken off: how alike all its words are is no place of one.
    means = [one.mean(0) for one in words]
    centred = [one - mean for one, mean in zip(words, means, strict=True)]
    axes, variance = _axes(np.concatenate(centred))
    check()
    places = [one @ axes for one in centred]
    nearest = _cosines(centred[0], centred[1])
    hits = int((nearest.argmax(1) == np.arange(len(chosen))).sum())
    order = np.random.default_rng(seed).permutation(len(marks))
    chance = _cosines(centred[0], centred[1][:, order]).argmax(1) == np.arange(len(chosen))
    radius = float(np.sqrt(np.mean(np.sum(np.concatenate(places) ** 2, axis=1)))) or 1.0
    tokens = tuple(first.vocabulary.token(int(id)) for id in shared.first[chosen])
    alike = nearest.diagonal()
    return OneMap(
        names=(first.model.name, other.model.name),
        frame=options.frame_key,
        shared=shared.count,
        words=tokens,
        landmarks=len(marks),
        places=(places[0], places[1]),
        paths=((states[0] - means[0]) @ axes, (states[1] - means[1]) @ axes),
        layers=(layers[0], layers[1]),
        variance=variance,
        same=hits / len(chosen),
        interval=wilson(hits, len(chosen)),
        by_chance=float(chance.mean()),
        apart=float(np.linalg.norm(places[0] - places[1], axis=1).mean()) / radius,
        movers=tuple(
            MovedWord(tokens[n], float(alike[n]), tokens[int(nearest[n].argmax())])
            for n in np.argsort(alike, kind="stable")[:_MOVERS].tolist()
            if alike[n] < 1 - 1e-9
        ),
    )


def _spread(space: LatentSpace, shared: Shared, most: int) -> Tensor:
    """Indices of shared tokens, evenly spaced: words where there are enough, else any."""
    words = torch.tensor([space.vocabulary.words[int(id)] for id in shared.first])
    found = torch.nonzero(words).squeeze(1)
    if len(found) < most:
        found = torch.arange(len(shared))
    count = min(most, len(found))
    return found[torch.linspace(0, len(found) - 1, count).round().long()]


def _path(
    side: Side, units: Tensor, space: LatentSpace, options: TraceOptions
) -> tuple[tuple[int, ...], Doubles]:
    """The last state at every layer where it is finite, as cosines with the landmarks."""
    kept = [n for n in range(len(side.layers)) if side.finite[n, -1]]
    states = side.states[kept, -1]
    if not options.centred:
        states = space.frame(options.frame_key).place(states)
    states = torch.nn.functional.normalize(states.double().cpu(), dim=1)
    return tuple(side.layers[n] for n in kept), (states @ units.T).numpy()


def _axes(points: Doubles) -> tuple[Doubles, float]:
    """The two directions of largest variance (columns), and their share of it."""
    from sklearn.decomposition import PCA

    count = min(2, *points.shape)
    found = PCA(n_components=count, svd_solver="covariance_eigh").fit(points)
    axes: Doubles = np.zeros((points.shape[1], 2))
    axes[:, :count] = found.components_.T
    return axes, float(np.nan_to_num(found.explained_variance_ratio_).sum())


def _cosines(first: Doubles, other: Doubles) -> Doubles:
    lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in (first, other)]
    a, b = (
        one / np.where(length > 0, length, 1.0)
        for one, length in zip((first, other), lengths, strict=True)
    )
    out: Doubles = a @ b.T
    return out
