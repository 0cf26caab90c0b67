"""Weights that MLX quantised, as plain numbers.

MLX keeps a matrix as groups of small integers q along its rows, with a scale s and an offset b for
each group: a weight is s·q + b (``mlx.core.quantize``, mode ``affine``). The integers of a row are
packed without gaps from the lowest bit on, into words of 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from engine.errors import UnsupportedModel, shorten
from engine.progress import Check, no_check

BITS: Final = (2, 3, 4, 5, 6, 8)
_ROWS: Final = 1024
"""Unpacked at a time: a bit takes a byte meanwhile."""


def mlx_settings(config: Any) -> Mapping[str, Any] | None:
    """What MLX wrote of its quantisation into a configuration; None where it did not."""
    found = getattr(config, "quantization", None)
    if isinstance(found, Mapping) and {"group_size", "bits"} <= found.keys():
        return found
    return None


def dequantised_state(
    folder: Path, settings: Mapping[str, Any], shown: str, check: Check = no_check
) -> dict[str, Tensor]:
    """Every tensor of a folder; quantised matrices as float32.

    Args:
        folder: with safetensors as MLX wrote them.
        settings: of :func:`mlx_settings`; a layer of its own has an entry by its name.
        shown: what people call the model.
        check: called for each tensor; raises to stop.

    Raises:
        UnsupportedModel: another mode than ``affine``, or shapes that do not fit the settings.
    """
    from safetensors.torch import load_file

    mode = str(settings.get("mode") or "affine")
    if mode != "affine":
        raise UnsupportedModel(
            f"{shown} is quantised by MLX in the mode {shorten(mode)!r}, whose arithmetic is not"
            " known here; give the model as it was before, in float32, bfloat16 or float16."
        )
    packed: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        packed |= load_file(path)
    out: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        check()
        base, _, last = name.rpartition(".")
        parts = [packed.get(f"{base}.{one}") for one in ("scales", "biases")]
        if last in ("scales", "biases") and f"{base}.weight" in packed:
            continue
        if last != "weight" or parts[0] is None or parts[1] is None:
            out[name] = tensor
            continue
        own = settings.get(base)
        given = own if isinstance(own, Mapping) else settings
        try:
            bits, group = int(given["bits"]), int(given["group_size"])
            out[name] = dequantise(tensor, parts[0], parts[1], bits=bits, group_size=group)
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedModel(
                f"{shown} was quantised by MLX ({shorten(str(given.get('bits')), 8)} bits in groups"
                f" of {shorten(str(given.get('group_size')), 8)}), and {name!r} does not fit that"
                f" ({shorten(str(error), 80)}); give the model as it was before, or convert it"
                " anew."
            ) from None
    return out


def dequantise(
    weight: Tensor, scales: Tensor, biases: Tensor, *, bits: int, group_size: int
) -> Tensor:
    """s·q + b in float32: rows × columns.

    Args:
        weight: rows × words of 32 bits.
        scales: rows × groups.
        biases: rows × groups.
        bits: of an integer, one of `BITS`.
        group_size: columns of a group.

    Raises:
        ValueError: shapes that these settings do not make.
    """
    if bits not in BITS:
        raise ValueError(f"integers have {', '.join(map(str, BITS))} bits")
    columns, rest = divmod(32 * int(weight.shape[-1]), bits)
    groups = tuple(int(n) for n in scales.shape)
    rows = int(weight.shape[0])
    if rest or weight.dim() != 2 or biases.shape != scales.shape or groups[:1] != (rows,):
        raise ValueError("shapes of no matrix")
    if len(groups) != 2 or groups[1] * group_size != columns:
        raise ValueError(f"it has {columns} columns in {groups[-1]} groups")
    raw = weight.contiguous().view(torch.uint8).numpy()
    values = 1 << np.arange(bits, dtype=np.int32)
    out = torch.empty(rows, columns)
    for start in range(0, rows, _ROWS):
        part = np.unpackbits(raw[start : start + _ROWS], axis=1, bitorder="little")
        q = torch.from_numpy(part.reshape(len(part), -1, bits) @ values).float()
        s, b = (one[start : start + _ROWS, :, None].float() for one in (scales, biases))
        grouped = q.reshape(len(part), -1, group_size)
        out[start : start + _ROWS] = (grouped * s + b).reshape(len(part), columns)
    return out
