"""Semantic bases: one reference point in latent space per vocabulary token.

Notation: W is the head, v × d, row w_i per token; G = WᵀW = Σ w_i w_iᵀ, d × d. The paper writes W
transposed (d × v), so its s_i = e_i·W⁺ is column i of our pinv(W).

A :class:`Frame` is a set of v vectors b_i that all come from rows x_i that are resident anyway,
through one d × d matrix M: b_i = M·x_i. So a state meets a whole frame in one product with those
rows, r·b_i = (M·r)·x_i, and no v × d copy is ever held.

Which vectors those are: :mod:`engine.frames.kinds`. How the head is taken apart for that:
:mod:`engine.frames.decomposition`.

**Head bias.** With z = W·r + b the least-squares preimage of the one-hot e_i is
W⁺(e_i − b) = s_i − c with c = W⁺b: every basis moves by the same −c. We keep the bases and move the
states by +c instead, for the frames `output` and `tight` (the same picture, another origin).

Knows nothing about token texts or prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from engine.frames.decomposition import CHUNK

_RANDOM_BLOCK: Final = 2048
_DRAWN: Final = 128 * 2**20
"""Bytes of drawn rows that are kept: all of a frame, or its latest block where all are more."""


def draws_kept(v: int, d: int) -> int:
    """Bytes of v drawn rows of width d where they are few enough to be kept, else 0."""
    need = 4 * v * d
    return need if need <= _DRAWN else 0


@dataclass(frozen=True)
class Frame:
    """v reference vectors b_i = M·x_i in latent space, never written out all at once."""

    name: str
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
    alpha: float = 0.0
    """Where a dial stands, for the frame `dial`."""
    ridge: float = 0.0
    """What is added to every eigenvalue there, in units of their mean."""
    exact_norms: Tensor | None = None
    """‖b_i‖, float64 on the CPU (v), where the matrix makes them dear; None: from the rows."""
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
        drawn = [self._drawn(b) for b in range(first, last + 1)]
        offset = first * _RANDOM_BLOCK
        whole = drawn[0] if len(drawn) == 1 else torch.cat(drawn)
        return whole[start - offset : stop - offset].to(self.device)

    @property
    def draws_again(self) -> bool:
        """Whether its rows are drawn, and are too many to be kept."""
        return self.rows is None and draws_kept(self.size, self.width) == 0

    def _drawn(self, block: int) -> Tensor:
        """Few are kept; of many the latest block: chunks of a pass are shorter than it is."""
        key = f"drawn:{block}"
        if key not in self._cache:
            if self.draws_again:
                for old in [name for name in self._cache if name.startswith("drawn:")]:
                    del self._cache[old]
            self._cache[key] = self._draw(block)
        return self._cache[key]

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
            rows = self._draw(block) if self.draws_again else self._drawn(block)
            out[inside] = rows[index[inside] - block * _RANDOM_BLOCK]
        return out.to(self.device)

    def vectors(self, ids: Sequence[int] | Tensor) -> Tensor:
        """The vectors b_i themselves: n × d, float64 on the CPU."""
        rows = self.gather(ids).cpu().double()
        out = rows * self.factor
        return out if self.transform is None else out @ self.transform

    def lengths(self, ids: Tensor) -> Tensor:
        """‖b_i‖ of some tokens, float64 on the CPU (n)."""
        if self.exact_norms is not None:
            return self.exact_norms[ids]
        out: Tensor = self.vectors(ids).norm(dim=1)
        return out

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
