"""What a model takes, foretold before any of its weights is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.errors import ModelError, ModelTooLarge
from engine.model.mlx import mlx_settings


def check_size(
    config: Any,
    folder: Path | None,
    shown: str,
    where: torch.device,
    dtype: str,
    spread: bool,
) -> None:
    """Refuse before loading what cannot fit.

    Args:
        config: of the checkpoint.
        folder: of a local one.
        shown: what people call the model.
        where: the device.
        dtype: as it is asked for.
        spread: whether several GPUs and the main memory share it.

    Raises:
        ModelTooLarge: it does not fit; `ModelError`: sizes that are no numbers.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    v, d = getattr(text, "vocab_size", 0) or 0, getattr(text, "hidden_size", 0) or 0
    layers = getattr(text, "num_hidden_layers", 0) or 0
    size = 4 if (dtype == "float32" or (dtype == "auto" and where.type == "cpu")) else 2
    try:
        need = float(size) * (float(v) * float(d) + 8.0 * float(layers) * float(d) ** 2)
    except (TypeError, ValueError, OverflowError):
        raise ModelError(f"config.json of {shown} holds sizes that are not numbers.") from None
    if folder is not None:
        files = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
        stored = float(torch.empty(0, dtype=_stored_dtype(config)).element_size())
        if packed := mlx_settings(config):
            stored = max(1.0, float(packed["bits"])) / 8
        need = max(float(size) * v * d, files * size / stored)
    free = float(psutil.virtual_memory().available)
    if where.type == "cuda" and spread:
        # What does not fit the GPUs stays in main memory and is fetched for each layer's turn.
        free += sum(float(torch.cuda.mem_get_info(n)[0]) for n in range(torch.cuda.device_count()))
    elif where.type == "cuda":
        free = float(torch.cuda.mem_get_info()[0])
    if not math.isfinite(need) or need > free:
        raise ModelTooLarge(
            f"{shown} needs about {need / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free on"
            f" {where}; choose a smaller model, dtype bfloat16 or another device."
        )


def _stored_dtype(config: Any) -> torch.dtype:
    """In what precision the checkpoint says that it was saved."""
    found = getattr(config, "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.float32
