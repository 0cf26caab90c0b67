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

G is accumulated in float64 whatever the weights' dtype and taken apart by `eigh`; directions whose
eigenvalue is below d·ε₆₄·λ_max are cut off, which gives the true Moore–Penrose pseudo-inverse of a
rank-deficient head (derived in docs/method.md, checked against `torch.linalg.pinv` in the tests).

**Head bias.** With z = W·r + b the least-squares preimage of the one-hot e_i is
W⁺(e_i − b) = s_i − c with c = W⁺b: every basis moves by the same −c. We keep the bases and move the
states by +c instead, for the frames `output` and `tight` (the same picture, another origin).

Knows nothing about token texts or prompts.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import NonFiniteError, OptionError

FrameName = Literal["output", "input", "head", "tight", "random"]
FRAMES: Final[tuple[FrameName, ...]] = ("output", "input", "head", "tight", "random")

CHUNK: Final = 8192
"""Rows of the head that are taken at a time."""
NEVER: Final = -1e30
"""Stands for a logit of −∞: of probability 0 all the same, but 0 times it is 0 and not NaN."""
_GRAM_ROWS: Final = 4096
_GRAM_PARTS: Final = 4
_RANDOM_BLOCK: Final = 2048
_FORMAT: Final = "2"

Check = Callable[[], None]


def no_check() -> None:
    """The check of work that nobody can cancel."""


@dataclass(frozen=True)
class HeadDecomposition:
    """The frame operator G = WᵀW of a head, taken apart. All float64, on the CPU.

    Memory d² + 3v numbers.
    """

    eigenvalues: Tensor
    """λ, largest first (d)."""
    eigenvectors: Tensor
    """U, a column per eigenvalue (d × d)."""
    rank: int
    leverage: Tensor
    """h_ii = w_i·s_i in [0, 1], summing to the rank; also s_i's own logit and ‖t_i‖² (v)."""
    basis_norms: Tensor
    """‖s_i‖ (v)."""
    row_norms: Tensor
    """‖w_i‖ (v)."""
    row_mean: Tensor
    """The mean row of the head (d)."""
    seconds: float
    """What it took to compute; from the disk, what it took then."""
    from_cache: bool = False

    @property
    def kept(self) -> Tensor:
        """The eigenvalues above the cut-off."""
        return self.eigenvalues[: self.rank]

    def power(self, exponent: float) -> Tensor:
        """G to a (negative) power on its range, zero off it: d × d, float64, symmetric."""
        basis = self.eigenvectors[:, : self.rank]
        return (basis * self.kept**exponent) @ basis.T

    @property
    def condition_number(self) -> float:
        """σ_max / σ_min of W on its range: the square root of the ratio of the frame bounds."""
        return float((self.kept[0] / self.kept[-1]).sqrt()) if self.rank else math.inf

    def residuals(self) -> dict[str, float]:
        """Relative errors of the four Moore–Penrose equations for A = W, A⁺ = G⁺Wᵀ.

        Each Frobenius norm over v × d or v × v is written as a trace over d × d:
        ‖W·D‖² = tr(Dᵀ·G·D), with G put together again from its parts.
        """
        g = (self.eigenvectors * self.eigenvalues.clamp_min(0)) @ self.eigenvectors.T
        inverse = self.power(-1.0)
        p = inverse @ g
        eye = torch.eye(len(p), dtype=p.dtype)

        def norm(d: Tensor) -> float:  # ‖W·D‖_F
            return math.sqrt(max(float(((d.T @ g) * d.T).sum()), 0.0))

        def ratio(a: float, b: float) -> float:
            return a / b if b > 0 else 0.0

        skew = inverse - inverse.T
        return {
            "A A⁺ A = A": ratio(norm(p - eye), norm(eye)),
            "A⁺ A A⁺ = A⁺": ratio(norm((p @ inverse - inverse).T), norm(inverse.T)),
            "(A A⁺)ᵀ = A A⁺": ratio(float((g @ skew).norm()), float(p.norm())),
            "(A⁺ A)ᵀ = A⁺ A": ratio(float((p - p.T).norm()), float(p.norm())),
        }


def gram(weight: Tensor, *, check: Check = no_check) -> Tensor:
    """G = WᵀW in float64: d × d, on the CPU.

    On the CPU each block of rows goes through BLAS `dsyrk`, which fills one triangle and so does
    half the work of a general product; so do blocks from Apple's MPS, which has no float64. On CUDA
    it is a float64 product.
    """
    v, d = weight.shape
    if weight.device.type == "cuda":
        total = torch.zeros(d, d, dtype=torch.float64, device=weight.device)
        for start in range(0, v, CHUNK):
            check()
            block = weight[start : start + CHUNK].detach().double()
            total += block.T @ block
        return total.cpu()
    out = torch.zeros(d, d, dtype=torch.float64)
    room = torch.empty(min(v, _GRAM_ROWS), d, dtype=torch.float64)
    cuts = [d * i // _GRAM_PARTS for i in range(_GRAM_PARTS + 1)]
    for start in range(0, v, _GRAM_ROWS):
        check()
        rows = weight[start : start + _GRAM_ROWS].detach()
        block = room[: len(rows)].copy_(rows)
        for first, last in pairwise(cuts):  # of each band of rows of G, the part from the diagonal
            out[first:last, first:].addmm_(block[:, first:last].T, block[:, first:])
    return torch.triu(out) + torch.triu(out, 1).T


@torch.no_grad()
def decompose(weight: Tensor, *, check: Check = no_check) -> HeadDecomposition:
    """Take the frame operator of a head apart.

    Args:
        weight: W, v × d, any floating dtype and device.
        check: called between blocks of rows; raises to stop.

    Raises:
        NonFiniteError: the head holds NaN or infinity.
    """
    begin = time.perf_counter()
    v, d = weight.shape
    operator = gram(weight, check=check)
    if not bool(torch.isfinite(operator).all()):
        raise NonFiniteError(
            "the head of this model holds NaN or infinite weights, so it has no semantic bases;"
            " load a sound checkpoint."
        )
    check()
    eigenvalues, eigenvectors = torch.linalg.eigh(operator)
    eigenvalues, eigenvectors = eigenvalues.flip(0), eigenvectors.flip(1)
    floor = d * torch.finfo(torch.float64).eps * float(eigenvalues[0].clamp_min(0))
    rank = int((eigenvalues > floor).sum())
    kept = eigenvalues[:rank]
    weights = torch.stack([1 / kept, 1 / kept**2], dim=1)  # (rank, 2)
    squares = torch.empty(v, 2, dtype=torch.float64)
    rows = torch.empty(v, dtype=torch.float64)
    mean = torch.zeros(d, dtype=torch.float64)
    basis = eigenvectors[:, :rank].contiguous()
    if weight.device.type == "cuda":
        basis, weights = basis.to(weight.device), weights.to(weight.device)
    step = _GRAM_ROWS if basis.device.type == "cpu" else CHUNK
    room = torch.empty(2, min(v, step), d, dtype=torch.float64, device=basis.device)
    for start in range(0, v, step):
        check()
        source = weight[start : start + step].detach()
        block = room[0, : len(source)].copy_(source)
        rows[start : start + len(block)] = torch.linalg.vecdot(block, block).cpu()
        mean += block.sum(0).cpu()
        parts = room[1].view(-1)[: len(block) * rank].view(len(block), rank)
        torch.mm(block, basis, out=parts)
        squares[start : start + len(block)] = (parts.square_() @ weights).cpu()
    return HeadDecomposition(
        eigenvalues=eigenvalues.contiguous(),
        eigenvectors=eigenvectors.contiguous(),
        rank=rank,
        leverage=squares[:, 0].contiguous(),
        basis_norms=squares[:, 1].sqrt(),
        row_norms=rows.sqrt(),
        row_mean=mean / v,
        seconds=time.perf_counter() - begin,
    )


def fingerprint(weight: Tensor) -> str:
    """A name for the exact content of a matrix: its shape, dtype and every byte (BLAKE2b)."""
    digest = hashlib.blake2b(f"{tuple(weight.shape)} {weight.dtype}".encode(), digest_size=16)
    for start in range(0, weight.shape[0], CHUNK):
        block = weight[start : start + CHUNK].detach().contiguous().cpu()
        digest.update(block.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cached_decomposition(
    weight: Tensor, folder: Path | None, *, check: Check = no_check
) -> HeadDecomposition:
    """The decomposition from the disk if this very head was taken apart before, else computed.

    A file that is damaged, of another format or of another head is computed anew and replaced.
    A folder that cannot be written is no error: the result is only not kept.
    """
    if folder is None:
        return decompose(weight, check=check)
    key = fingerprint(weight)
    path = folder / f"head-{key}.safetensors"
    found = _load(path, key, tuple(weight.shape))
    if found is not None:
        return found
    result = decompose(weight, check=check)
    _save(result, path, key)
    return result


_STORED = ("eigenvalues", "eigenvectors", "leverage", "basis_norms", "row_norms", "row_mean")


def _load(path: Path, key: str, shape: tuple[int, ...]) -> HeadDecomposition | None:
    v, d = shape
    expected = {
        "eigenvalues": (d,),
        "eigenvectors": (d, d),
        "leverage": (v,),
        "basis_norms": (v,),
        "row_norms": (v,),
        "row_mean": (d,),
    }
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != _FORMAT or meta.get("head") != key:
                return None
            parts = {name: file.get_tensor(name) for name in _STORED}
            rank, seconds = int(meta["rank"]), float(meta["seconds"])
            if meta["digest"] != _digest(parts, rank):
                return None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    sound = all(
        tuple(parts[n].shape) == expected[n] and bool(torch.isfinite(parts[n]).all())
        for n in _STORED
    )
    if not sound or not 0 <= rank <= d:
        return None
    return HeadDecomposition(**parts, rank=rank, seconds=seconds, from_cache=True)


def _digest(parts: dict[str, Tensor], rank: int) -> str:
    """Of every stored byte: a flipped bit would leave a finite number that is wrong."""
    digest = hashlib.blake2b(str(rank).encode(), digest_size=16)
    for name in _STORED:
        digest.update(parts[name].contiguous().numpy().data)
    return digest.hexdigest()


def _save(result: HeadDecomposition, path: Path, key: str) -> None:
    """Write aside, flush to the disk, rename: a reader sees a whole file or none."""
    parts = {n: getattr(result, n).contiguous() for n in _STORED}
    meta = {
        "format": _FORMAT,
        "head": key,
        "rank": str(result.rank),
        "seconds": repr(result.seconds),
        "digest": _digest(parts, result.rank),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.name)
        os.close(handle)
        try:
            save_file(parts, aside, metadata=meta)
            with Path(aside).open("rb") as file:
                os.fsync(file.fileno())
            Path(aside).replace(path)
        finally:
            Path(aside).unlink(missing_ok=True)
    except (OSError, SafetensorError):
        return


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
