"""The linear lens: per layer the affine map that comes closest to what the last layer will say.

From n positions of text, x_l the state of layer l past the final norm and y that of the last layer:

    A_l, b_l = argmin Σ ‖x_l·A + b − y‖² + λ·μ_l·‖A‖²,   μ_l the mean diagonal of Σ x̃x̃ᵀ, x̃ = (x, 1),

in closed form from Σ x̃x̃ᵀ and Σ x̃yᵀ, which are all that is kept of the text. Least squares make
logits that are as far apart as the mean of what may follow, so each layer's map is then multiplied
by the one number at which its probabilities come nearest to the model's own (a convex problem:
:mod:`engine.reading.temperature`), found on positions of their own. The figures are of further
positions, which nothing was fitted on.

A linear map per layer by least squares is that of Din et al. (arXiv 2303.09435); the ridge, the
model's own writing as text and the last factor are ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from engine.errors import OptionError
from engine.explanation import Explanation
from engine.lenses.brought import pieces
from engine.lenses.kind import Lens, LensKind, LensRow
from engine.lenses.writing import written
from engine.model.language_model import LanguageModel
from engine.progress import Progress, Steps
from engine.reading.temperature import fit_scale

RIDGE: Final = 0.01
_BUFFER: Final = 512
"""Positions that are added to the sums at once."""
_SPLIT: Final = 7
"""By which another layer's map stands in for the control: layer l is read by that of l + 7."""


@dataclass(frozen=True)
class Settings:
    """How much is written and measured."""

    texts: int = 32
    """Written side by side."""
    tokens: int = 128
    """Of each."""
    rounds: int = 4
    scaled: int = 96
    """Positions that the factor is found on."""
    measured: int = 128
    """Held out for the figures."""
    seed: int = 0
    read: int = 65_536
    """Tokens that are read of a text that is brought."""


class _Moments:
    """Σ x̃x̃ᵀ and Σ x̃yᵀ of every layer but the last, float64."""

    def __init__(self, layers: int, width: int) -> None:
        self.square = torch.zeros(layers, width + 1, width + 1, dtype=torch.float64)
        self.cross = torch.zeros(layers, width + 1, width, dtype=torch.float64)
        self.count = 0

    def add(self, layer: int, x: Tensor, y: Tensor) -> None:
        """Positions of one layer (n × d) with the last layer's."""
        wide = torch.cat([x, torch.ones(len(x), 1, device=x.device)], 1)
        self.square[layer] += (wide.T @ wide).cpu().double()
        self.cross[layer] += (wide.T @ y).cpu().double()

    def solve(self, layer: int) -> tuple[Tensor, Tensor]:
        """A_l (d × d) and b_l (d), float32."""
        square = self.square[layer]
        ridge = RIDGE * square.diagonal().mean()
        found = torch.linalg.solve(
            square + ridge * torch.eye(len(square), dtype=square.dtype), self.cross[layer]
        ).float()
        return found[:-1], found[-1]


def fit_linear(
    model: LanguageModel, settings: Settings | None = None, *, text: str | None = None
) -> Steps[Lens]:
    """Fit the linear lens to a model on text that it writes itself, or on a text that is brought.

    Args:
        model: called on its thread.
        settings: how much text.
        text: read in place of the model's own writing.

    Returns:
        The lens, with its held-out figures.

    Raises:
        OptionError: a model that writes no text, being masked or reading ahead, and no text; or a
            text that is too short.
    """
    chosen = settings or Settings()
    begin = time.perf_counter()
    moments = _Moments(model.blocks, model.width)
    if text is not None:
        source = _read(model, pieces(model, text, chosen.read), chosen)
        note, words = "reading the text", "the text that was brought"
    elif model.anatomy.kind == "causal":
        source = _wrote(model, chosen)
        note, words = "writing a text of its own", "text that the model wrote itself"
    else:
        raise OptionError(
            "a lens is fitted on text that the model writes itself, and a masked model or one that"
            " reads ahead writes none; bring a text, or read it with lens none."
        )
    kept: list[Tensor] = []  # what the factor and the figures are made from
    waiting: list[Tensor] = []
    done, total = 0, 1
    for done, total, states, spare in source:  # layer × position × d
        kept += [] if spare is None else [spare]
        waiting.append(states)
        yield Progress(done, total, note)
        if sum(one.shape[1] for one in waiting) >= _BUFFER:
            yield from _flush(moments, waiting, Progress(done, total, note))
    yield from _flush(moments, waiting, Progress(done, total, note))
    held = torch.cat(kept, 1)
    order = torch.randperm(held.shape[1], generator=torch.Generator().manual_seed(chosen.seed))
    return (yield from _finish(model, moments, held[:, order], chosen, begin, words))


_Source = Iterator[tuple[int, int, Tensor, Tensor | None]]
"""Steps done, steps in all, states past the final norm to fit on, and to hold out."""


def _wrote(model: LanguageModel, chosen: Settings) -> _Source:
    """Of the model's own writing; a quarter of the last texts' beginnings is held out."""
    tokens = min(chosen.tokens, model.max_tokens)
    quarter, held = max(1, chosen.texts // 4), 0
    for number in range(chosen.rounds):
        last = number == chosen.rounds - 1
        writing = written(model, chosen.texts, tokens, chosen.seed + number)
        for step, raw in enumerate(writing, number * tokens + 1):
            states, spare = model.read_out(raw), None
            if last and held < chosen.scaled + chosen.measured:
                spare, states = states[:, :quarter].clone(), states[:, quarter:]
                held += quarter
            yield step, chosen.rounds * tokens, states, spare


def _read(model: LanguageModel, text: list[tuple[int, ...]], chosen: Settings) -> _Source:
    """Of a text in pieces; evenly spaced ones are held out, half of them at most."""
    wanted = (chosen.scaled + chosen.measured) / max(1, sum(map(len, text)))
    every = max(2, int(1 / wanted)) if wanted else len(text) + 1
    for n, ids in enumerate(text):
        states = model.read_out(model.states(ids).raw)
        aside = n % every == every - 1 or (n == len(text) - 1 and len(text) < every)
        none = states[:, :0]
        yield n + 1, len(text), none if aside else states, states if aside else None


def _flush(moments: _Moments, waiting: list[Tensor], place: Progress) -> Steps[None]:
    if not waiting:
        return
    block = torch.cat(waiting, 1)
    waiting.clear()
    block = block[:, torch.isfinite(block).all(-1).all(0)]
    moments.count += block.shape[1]
    for layer in range(len(block) - 1):
        moments.add(layer, block[layer], block[-1])
        if layer % 8 == 7:
            yield place


def _finish(
    model: LanguageModel,
    moments: _Moments,
    spare: Tensor,
    chosen: Settings,
    begin: float,
    text: str,
) -> Steps[Lens]:
    """Solve, scale and measure; `spare` are states that nothing was fitted on (layer × n × d)."""
    layers, d = model.blocks, model.width
    spare = spare[:, torch.isfinite(spare).all(-1).all(0)]
    cut = min(chosen.scaled, spare.shape[1] // 2)
    maps = torch.zeros(layers, d, d, dtype=torch.float16)
    offsets = torch.zeros(layers, d)
    own = _log_probabilities(model, spare[-1])
    for layer in range(layers):
        matrix, offset = moments.solve(layer)
        through = spare[layer, :cut] @ matrix.to(spare) + offset.to(spare)
        factor = 1 / fit_scale(_logits(model, through), own[:cut]) if cut else 1.0
        maps[layer], offsets[layer] = (matrix * factor).half(), offset * factor
        yield Progress(layer + 1, layers, "solving for its maps")
    lens = Lens("linear", model.fingerprint, maps, offsets, (), moments.count, 0,
                text, 0.0)  # fmt: skip
    rows = []
    test = spare[:, cut : cut + chosen.measured]
    log_p = own[cut : cut + chosen.measured]
    for layer in range(layers + 1):
        plain = test[layer]
        other = (layer + max(1, min(_SPLIT, layers // 2))) % layers if layers > 1 else 0
        shuffled = plain if layer == layers else lens.through(other, plain)
        figures = [
            _against(log_p, _log_probabilities(model, states))
            for states in (plain, lens.through(layer, plain), shuffled)
        ]
        (none, none_top), (kl, top), (chance, chance_top) = figures
        rows.append(LensRow(layer, none, kl, chance, none_top, top, chance_top))
        yield Progress(layer + 1, layers + 1, "measuring on positions that were held out")
    return Lens(
        "linear", model.fingerprint, maps, offsets, tuple(rows), moments.count, test.shape[1],
        lens.text, time.perf_counter() - begin,
    )  # fmt: skip


def _logits(model: LanguageModel, states: Tensor) -> Tensor:
    """The model's own logits after states that its head reads (n × v, float32)."""
    anatomy = model.anatomy
    product = states.float() @ anatomy.weight.detach().float().T
    if anatomy.bias is not None:
        product = product + anatomy.bias.detach().float()
    return anatomy.finish(product)


def _log_probabilities(model: LanguageModel, states: Tensor) -> Tensor:
    return torch.log_softmax(_logits(model, states), 1)


def _against(log_p: Tensor, log_q: Tensor) -> tuple[float, float]:
    """Mean KL(p ‖ q) in nats, and how often both name the same token first."""
    p = log_p.exp()
    gap = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1)
    same = log_p.argmax(1) == log_q.argmax(1)
    return float(gap.double().mean().clamp_min(0)), float(same.double().mean())


LINEAR: Final = LensKind(
    name="linear",
    title="linear",
    what="Each layer's state goes through an affine map of its own, fitted to what the last layer "
    "will say: middle layers read as words where they know some already.",
    formula="A_l·norm(h_l) + b_l",
    fit=fit_linear,
    explanation=Explanation(
        "linear-lens",
        "Linear lens",
        "Middle layers write in a basis that the last layer's norm and head were not made for. One "
        "affine map per layer, in closed form by ridge regression onto the last layer's state, "
        "brings them there; it is fitted on text that the model writes itself.",
        "Din et al. 2023 (arXiv 2303.09435) for the map; ridge, text and scale are ours",
        True,
        (("lenses.linear", "fit_linear"),),
    ),
)
