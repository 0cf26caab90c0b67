"""Semantic bases: one reference point in latent space per vocabulary token.

Notation: W is the head, v × d, row w_i per token; G = WᵀW = Σ w_i w_iᵀ, d × d. The paper writes W
transposed (d × v), so its s_i = e_i·W⁺ is column i of our pinv(W).

A :class:`Frame` is a set of v vectors b_i that all come from rows x_i that are resident anyway,
through one d × d matrix M: b_i = M·x_i. So a state meets a whole frame in one product with those
rows, r·b_i = (M·r)·x_i, and no v × d copy is ever held.

======  =========================  ==================================================
name    b_i                        what it is
======  =========================  ==================================================
output  s_i = G⁻¹w_i               semantic basis: the paper's e_i·W⁺ (§3.1); the canonical dual
                                   frame of the head rows
input   the embedding row          the paper's "general semantic basis" (App. B.1)
head    w_i                        raw rows of the head; its matrix product is the logit lens
tight   t_i = G^(-1/2)w_i          between the two: Σ t_i t_iᵀ = I (Parseval)
random  seeded normal directions   the control; the norms are those of `output`
======  =========================  ==================================================

How the head is taken apart for that is :mod:`engine.frames.decomposition`.

**Head bias.** With z = W·r + b the least-squares preimage of the one-hot e_i is
W⁺(e_i − b) = s_i − c with c = W⁺b: every basis moves by the same −c. We keep the bases and move the
states by +c instead, for the frames `output` and `tight` (the same picture, another origin).

Knows nothing about token texts or prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor

from engine.errors import NonFiniteError, OptionError
from engine.frames.decomposition import CHUNK, HeadDecomposition

FrameName = Literal["output", "input", "head", "tight", "random"]
FRAMES: Final[tuple[FrameName, ...]] = ("output", "input", "head", "tight", "random")

NEVER: Final = -1e30
"""Stands for a logit of −∞: of probability 0 all the same, but 0 times it is 0 and not NaN."""
_RANDOM_BLOCK: Final = 2048


@dataclass(frozen=True)
class Frame:
    """v reference vectors b_i = M·x_i in latent space, never written out all at once."""

    name: FrameName
    rows: Tensor | None
    """x_i, v × d: the model's own tensor; None for `random`, whose rows are drawn in blocks."""
    transform: Tensor | None
    """M, d × d, symmetric, float64; None is the identity."""
    norms: Tensor
    """‖b_i‖, float32 (v)."""
    mean: Tensor
    """The mean vector of the frame, float64 (d)."""
    shift: Tensor | None = None
    """c = W⁺b, added to each state where the head has a bias; float64 (d)."""
    bias: Tensor | None = None
    """Head bias, for the frame `head`: part of its matrix product (v)."""
    finish: Callable[[Tensor], Tensor] | None = None
    """For the frame `head`: the scale and soft cap that make the product the model's logits."""
    factor: float = 1.0
    """What a row is multiplied by (an embedding's own factor)."""
    seed: int = 0
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def size(self) -> int:
        """v: how many vectors."""
        return len(self.norms)

    @property
    def width(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where the norms and rows lie."""
        return self.norms.device

    def _matrix(self, name: str, source: Tensor, like: Tensor) -> Tensor:
        """A constant on the device and in the precision of the states (float64 where it can be)."""
        dtype = torch.float32 if like.device.type == "mps" else torch.float64
        key = f"{name}:{like.device}"
        if key not in self._cache:
            self._cache[key] = source.to(like.device, dtype)
        return self._cache[key]

    def place(self, states: Tensor) -> Tensor:
        """Move states to this frame's origin: r + c where the head has a bias, else r."""
        if self.shift is None:
            return states
        shift = self._matrix("shift", self.shift, states)
        return (states.to(shift.dtype) + shift).to(states.dtype)

    def queries(self, states: Tensor) -> Tensor:
        """M·r for each placed state: n × d → n × d float32, so that r·b_i = queries·x_i.

        The small product runs in float64: M may have the square of the head's condition number.
        """
        if self.transform is None:
            return states.float() * self.factor
        transform = self._matrix("transform", self.transform, states)
        return (states.to(transform.dtype) @ transform).float()

    def block(self, start: int, stop: int) -> Tensor:
        """Rows x_start … x_(stop-1) in float32 on the frame's device."""
        if self.rows is not None:
            return self.rows[start:stop].detach().float()
        first, last = start // _RANDOM_BLOCK, (stop - 1) // _RANDOM_BLOCK
        drawn = torch.cat([self._draw(b) for b in range(first, last + 1)])
        offset = first * _RANDOM_BLOCK
        return drawn[start - offset : stop - offset].to(self.device)

    def _draw(self, block: int) -> Tensor:
        start = block * _RANDOM_BLOCK
        count = min(_RANDOM_BLOCK, self.size - start)
        # Hashed, so that no model that was itself drawn from a small seed has these directions.
        name = hashlib.blake2b(f"random frame {self.seed} {block}".encode(), digest_size=7)
        generator = torch.Generator().manual_seed(int.from_bytes(name.digest(), "big"))
        rows = torch.randn(count, self.width, generator=generator)
        wanted = self.norms[start : start + count].cpu()
        scaled: Tensor = rows * (wanted / rows.norm(dim=1)).unsqueeze(1)
        return scaled

    def gather(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Rows x_i of some tokens, on the frame's device (n × d)."""
        index = torch.as_tensor(ids, dtype=torch.long).reshape(-1)
        if self.rows is not None:
            return self.rows[index.to(self.rows.device)].detach()
        index = index.cpu()
        blocks = index // _RANDOM_BLOCK
        out = torch.empty(len(index), self.width)
        # Each block is drawn once, however many rows it gives.
        for block in sorted(set(blocks.tolist())):
            inside = blocks == block
            out[inside] = self._draw(block)[index[inside] - block * _RANDOM_BLOCK]
        return out.to(self.device)

    def vectors(self, ids: Sequence[int] | Tensor) -> Tensor:
        """The vectors b_i themselves: n × d, float64 on the CPU."""
        rows = self.gather(ids).cpu().double()
        out = rows * self.factor
        return out if self.transform is None else out @ self.transform

    def centred_norms(self) -> Tensor:
        """‖b_i − b̄‖, float32 (v); computed at the first call.

        From ‖b_i‖² − 2·b_i·b̄ + ‖b̄‖² in float64.
        """
        if "centred" not in self._cache:
            centre = self.centre_scores().double()
            square = self.norms.double() ** 2 - 2 * centre + float(self.mean @ self.mean)
            self._cache["centred"] = square.clamp_min(0).sqrt().float()
        return self._cache["centred"]

    def centre_scores(self) -> Tensor:
        """b_i·b̄, float32 (v); computed at the first call."""
        if "centre" not in self._cache:
            query = self.queries(self.mean.unsqueeze(0).to(self.device))
            parts = [
                (self.block(s, min(s + CHUNK, self.size)) @ query[0])
                for s in range(0, self.size, CHUNK)
            ]
            self._cache["centre"] = torch.cat(parts)
        return self._cache["centre"]


def build_frame(
    name: str,
    *,
    weight: Tensor,
    embedding: Tensor,
    decomposition: HeadDecomposition,
    embedding_scale: float = 1.0,
    bias: Tensor | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> Frame:
    """One of the five frames of a model (the table at the top of this module).

    Args:
        name: one of :data:`FRAMES`.
        weight: the head W, v × d.
        embedding: the embedding table, rows as wide as the head for the frame `input`.
        decomposition: of this head.
        embedding_scale: the factor that the model puts on embedding rows.
        bias: the head's bias (v); −∞ for tokens that the model never says.
        finish: product → logits, for the frame `head`.
        seed: of the random frame.

    Raises:
        OptionError: an unknown name, or `input` where embedding and head differ in size.
        NonFiniteError: a bias of NaN or plus infinity.
    """
    device = weight.device
    shift = None
    if bias is not None and not bool((torch.isfinite(bias) | torch.isneginf(bias)).all()):
        raise NonFiniteError(
            "the bias of this model's head holds NaN or plus infinity, so its logits are no"
            " numbers; load a sound checkpoint."
        )
    if bias is not None and name in ("output", "tight"):
        shift = decomposition.power(-1.0) @ _product_with_rows(weight, without_masks(bias))
    mean = decomposition.row_mean
    if name == "output":
        inverse = decomposition.power(-1.0)
        norms = decomposition.basis_norms.float().to(device)
        return Frame("output", weight, inverse, norms, mean @ inverse, shift=shift)
    if name == "tight":
        root = decomposition.power(-0.5)
        norms = decomposition.leverage.clamp_min(0).sqrt().float().to(device)
        return Frame("tight", weight, root, norms, mean @ root, shift=shift)
    if name == "head":
        norms = decomposition.row_norms.float().to(device)
        low = None if bias is None else bias.clamp_min(NEVER)
        return Frame("head", weight, None, norms, mean, bias=low, finish=finish)
    if name == "input":
        if tuple(embedding.shape) != tuple(weight.shape):
            raise OptionError(
                f"the frame 'input' needs embedding rows of the head's size"
                f" {tuple(weight.shape)}, this model's table is {tuple(embedding.shape)};"
                " choose output, head, tight or random."
            )
        square = torch.empty(len(embedding), dtype=torch.float64)
        total = torch.zeros(embedding.shape[1], dtype=torch.float64)
        for start in range(0, len(embedding), CHUNK):
            block = embedding[start : start + CHUNK].detach().cpu().double()
            square[start : start + len(block)] = block.square().sum(1)
            total += block.sum(0)
        norms = (square.sqrt() * abs(embedding_scale)).float().to(device)
        average = total / len(embedding) * embedding_scale
        # No copy on one device; where a model is spread, the table moves to the head once.
        rows = embedding.detach().to(device)
        return Frame("input", rows, None, norms, average, factor=embedding_scale)
    if name == "random":
        norms = decomposition.basis_norms.float().to(device)
        frame = Frame("random", None, None, norms, torch.zeros_like(mean), seed=seed)
        total = torch.zeros_like(mean)
        for start in range(0, frame.size, CHUNK):
            rows = frame.block(start, min(start + CHUNK, frame.size))
            total += rows.cpu().double().sum(0)
        return Frame("random", None, None, norms, total / frame.size, seed=seed)
    raise OptionError(f"frame must be one of {', '.join(FRAMES)}; got {name[:40]!r}.")


def without_masks(bias: Tensor) -> Tensor:
    """A head's bias with 0 for −∞: a token that is never said moves no state."""
    return bias.masked_fill(torch.isneginf(bias), 0.0)


def _product_with_rows(weight: Tensor, vector: Tensor) -> Tensor:
    """Wᵀ·vector in float64 (d), by blocks of rows."""
    total = torch.zeros(weight.shape[1], dtype=torch.float64)
    for start in range(0, len(weight), CHUNK):
        rows = weight[start : start + CHUNK].detach().cpu().double()
        total += vector[start : start + CHUNK].detach().cpu().double() @ rows
    return total
