"""Which directions turn answers: head rows, the dial, semantic bases, over layers and doses.

Each fact's last state is pushed from the model's answer towards another fact's, along the
difference of the two tokens' vectors in a frame, h ← h + a·‖h‖·û. Counted is how often the answer
becomes the target; and how much the rest of the vocabulary is disturbed: KL(p ‖ q) of the next
token before and after, both without the two tokens and normalised again. Along random vectors of
the same size the same is done as a control.

Beside it the swap of two words, h ← h − 2(h·n)n at every position, at the embedding and above.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import OptionError, TokenError
from engine.interventions.above import Above
from engine.interventions.action import DOSE, Action, default_layer
from engine.interventions.changes import Push, Reflect
from engine.interventions.directions import mirror, token_direction
from engine.interventions.effect import answers
from engine.interventions.many import Case, Ready, prepare
from engine.interventions.plan import token_of
from engine.interventions.space import Space
from engine.json_number import Plain
from engine.progress import Progress, Steps
from engine.trace.dial import wilson

FRAMES: Final = ("head", "dial:0.1", "tight", "output", "random")
"""Head rows, the dial near where states are read best, the tight frame, semantic bases, chance."""
MIRRORS: Final = ("head", "output", "random")
DOSES: Final = (0.1, 0.2, DOSE)
_HEIGHTS: Final = (2 / 3, 23 / 30, 5 / 6, 9 / 10)
_RESAMPLES: Final = 2000
_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Interval(Plain):
    """A mean over the prompts, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Dose(Plain):
    """What one frame's directions do at one layer and dose, over the facts."""

    frame: str
    layer: int
    dose: float | None
    """In lengths of the state; None: a swap."""
    used: int
    share: Interval
    """Of prompts whose answer becomes the target; Wilson's interval."""
    probability: float
    """Mean probability of the target afterwards."""
    contrast: float
    """Mean rise of log p_target − log p_answer, nats."""
    rest: Interval
    """Mean KL of the rest of the vocabulary, nats; by drawing prompts."""
    share_less_head: Interval | None
    """Share less that of head rows, paired; None for the head rows themselves."""
    rest_less_head: Interval | None


@dataclass(frozen=True)
class Doses(Plain):
    """Success over frame × layer × dose, and of swaps over frame × layer."""

    facts: int
    used: int
    skipped: Mapping[str, int]
    """Why → how many."""
    layers: tuple[int, ...]
    layer: int
    """That a sentence speaks of, chosen beforehand: five sixths of the way up."""
    dose: float
    """The same."""
    pushes: tuple[Dose, ...]
    swaps: tuple[Dose, ...]

    def at(self, frame: str, layer: int | None = None, dose: float | None = None) -> Dose:
        """A push; at the layer and dose that a sentence speaks of where nothing else is asked."""
        place = frame, layer or self.layer, dose or self.dose
        return next(one for one in self.pushes if (one.frame, one.layer, one.dose) == place)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Doses:
        """From :meth:`to_dict`; raises KeyError and TypeError on anything else."""

        def interval(given: Mapping[str, Any] | None) -> Interval | None:
            return None if given is None else Interval(**given)

        names = ("share", "rest", "share_less_head", "rest_less_head")
        rows = {
            kind: tuple(Dose(**row | {n: interval(row[n]) for n in names}) for row in plain[kind])
            for kind in ("pushes", "swaps")
        }
        return cls(**{**plain, **rows, "layers": tuple(plain["layers"])})


def layers_of_doses(blocks: int) -> tuple[int, ...]:
    """The layers that are pushed: two thirds to nine tenths of the way up."""
    chosen = {max(1, round(share * blocks)) for share in _HEIGHTS} | {default_layer(blocks)}
    return tuple(sorted(chosen))


def layers_of_swaps(blocks: int) -> tuple[int, ...]:
    """The embedding, the first blocks, the middle and where pushes are judged."""
    return tuple(sorted({0, 1, min(2, blocks), max(1, blocks // 2), default_layer(blocks)}))


def rows_of_doses(blocks: int) -> int:
    """States that the head reads for each fact."""
    return (
        1
        + len(FRAMES) * len(DOSES) * len(layers_of_doses(blocks))
        + len(MIRRORS) * len(layers_of_swaps(blocks))
    )


def measure_doses(
    space: Space, cases: Sequence[Case], *, only: bool = False
) -> Steps[Doses | None]:
    """Push and swap over facts; one step is one fact. None where the model knows none of them.

    Args:
        space: called on its thread.
        cases: facts, each with the answer of another one.
        only: at the layer and dose that a sentence speaks of, and no swaps.

    Raises:
        OptionError: a model whose blocks are of another width than its head.
    """
    blocks = space.model.blocks
    pushes: dict[tuple[str, int, float | None], list[_Seen]] = {}
    swaps: dict[tuple[str, int, float | None], list[_Seen]] = {}
    skipped: Counter[str] = Counter()
    used = 0
    blank = Action(kind="steer", token="a")
    layers = (default_layer(blocks),) if only else layers_of_doses(blocks)
    doses = (DOSE,) if only else DOSES
    mirrored = () if only else layers_of_swaps(blocks)
    for n, case in enumerate(cases):
        yield Progress(n, len(cases), "turning the answers of facts")
        ready = prepare(space, case, blank)
        if not isinstance(ready, Ready):
            skipped[_reason(ready)] += 1
            continue
        used += 1
        raw = space.model.states(ready.ids).raw
        for key, seen in _pushed(space, ready, raw, layers, doses):
            pushes.setdefault(key, []).append(seen)
        for key, seen in _swapped(space, ready, raw, mirrored):
            swaps.setdefault(key, []).append(seen)
    if not used:
        return None
    return Doses(
        facts=len(cases),
        used=used,
        skipped=dict(skipped.most_common()),
        layers=layers,
        layer=default_layer(blocks),
        dose=DOSE,
        pushes=_summed(pushes),
        swaps=_summed(swaps),
    )


def _reason(why: str) -> str:
    return "the model answers something else" if why.startswith("the model answers") else why


@dataclass(frozen=True)
class _Seen:
    """One prompt after one change."""

    success: bool
    probability: float
    contrast: float
    rest: float


_Key = tuple[str, int, float | None]


def _pushed(
    space: Space, ready: Ready, raw: Tensor, layers: Sequence[int], doses: Sequence[float]
) -> list[tuple[_Key, _Seen]]:
    """The last state pushed along each frame's direction by each dose, at each layer."""
    said, keys = int(ready.before.argmax()), [(frame, dose) for frame in FRAMES for dose in doses]
    along = {frame: token_direction(space, frame, ready.target, said) for frame in FRAMES}
    above = Above(space, ready.ids, len(keys))
    out: list[tuple[_Key, _Seen]] = []
    for layer in layers:
        states = raw[layer].repeat(len(keys), 1, 1)
        old = raw[layer][-1:].double()
        for row, (frame, dose) in enumerate(keys):
            states[row, -1] = Push(along[frame], dose)(old, None)[0]
        found = _read(space, ready, above.last(layer, states), said)
        out += [((f, layer, d), one) for (f, d), one in zip(keys, found, strict=True)]
    return out


def _swapped(
    space: Space, ready: Ready, raw: Tensor, layers: Sequence[int]
) -> list[tuple[_Key, _Seen]]:
    """All states mirrored between the words in which the two facts differ; none of several
    tokens."""
    try:
        pair = [token_of(space, word, ready.ids) for word in ready.case.swap or ()]
        mirrors = [Reflect(mirror(space, frame, *pair)) for frame in MIRRORS]
    except (TokenError, OptionError, TypeError):
        return []
    above = Above(space, ready.ids, len(MIRRORS))
    out: list[tuple[_Key, _Seen]] = []
    for layer in layers:
        old = raw[layer].double()
        states = torch.stack([one(old, None) for one in mirrors])
        found = _read(space, ready, above.last(layer, states), int(ready.before.argmax()))
        out += [((f, layer, None), one) for f, one in zip(MIRRORS, found, strict=True)]
    return out


def _read(space: Space, ready: Ready, last: Tensor, said: int) -> list[_Seen]:
    shares = torch.log_softmax(answers(space, last), 1)
    before, pair = ready.before.float(), [ready.target, said]
    rise = (shares[:, pair[0]] - shares[:, pair[1]]) - (before[pair[0]] - before[pair[1]])
    apart = rest_apart(before, shares, pair)
    first = shares.argmax(1)
    return [
        _Seen(int(one) == ready.target, float(row[ready.target].exp()), float(up), float(kl))
        for one, row, up, kl in zip(first, shares, rise, apart, strict=True)
    ]


def rest_apart(before: Tensor, after: Tensor, left_out: Sequence[int]) -> Tensor:
    """KL(p ‖ q) in nats over the vocabulary without some tokens, both normalised again.

    Args:
        before: log p (v).
        after: rows of log q (n × v).
        left_out: token ids.

    Returns:
        n, at least 0.
    """
    without = torch.zeros_like(before)
    without[list(left_out)] = -torch.inf
    p, q = torch.log_softmax(before + without, 0), torch.log_softmax(after + without, 1)
    share = p.exp()
    return torch.where(share > 0, share * (p - q), 0.0).sum(1).clamp_min(0)


def _summed(seen: Mapping[_Key, list[_Seen]]) -> tuple[Dose, ...]:
    """Means over the prompts, and their differences from head rows at the same place."""

    def columns(key: _Key) -> tuple[_Numbers, _Numbers]:
        rows = seen[key]
        return np.array([float(r.success) for r in rows]), np.array([r.rest for r in rows])

    out = []
    for (frame, layer, dose), rows in seen.items():
        success, rest = columns((frame, layer, dose))
        head = None if frame == "head" else columns(("head", layer, dose))
        hits = int(success.sum())
        out.append(
            Dose(
                frame,
                layer,
                dose,
                len(rows),
                Interval(hits / len(rows), *wilson(hits, len(rows))),
                float(np.mean([r.probability for r in rows])),
                float(np.mean([r.contrast for r in rows])),
                _mean(rest),
                None if head is None else _mean(success - head[0]),
                None if head is None else _mean(rest - head[1]),
            )
        )
    return tuple(out)


def _mean(values: _Numbers) -> Interval:
    """The mean, and its interval by drawing prompts with replacement."""
    draw = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(values[draw].mean(1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
