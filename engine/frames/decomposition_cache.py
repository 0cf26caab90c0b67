"""Decompositions of heads on the disk, so that a model's head is taken apart once.

A file is named by every byte of the head, and is whole and sound or counts as not there.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoints import write_aside
from engine.frames.decomposition import CHUNK, HeadDecomposition, decompose
from engine.progress import Check, no_check

_FORMAT: Final = "2"


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
    """A reader sees a whole file or none; what cannot be kept is no error."""
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
        write_aside(path, partial(save_file, parts, metadata=meta))
    except (OSError, SafetensorError):
        return
