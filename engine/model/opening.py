"""Open a language model by hub id or local folder.

Opening never runs code of the model's author: safetensors only, remote code only when asked for in
so many words, and sizes are compared with the free memory before any weight is read.

Knows nothing about prompts or semantic bases; what it opens is a
:class:`engine.model.language_model.LanguageModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from engine.errors import (
    ModelError,
    ModelNotFound,
    ModelTooLarge,
    OptionError,
    UnsafeModel,
    UnsupportedModel,
    shorten,
)
from engine.model.adapter import Adapter, adapter_of, hub_adapter, merged
from engine.model.classes import BIDIRECTIONAL, CAUSAL, MASKED, class_for, class_of, has_class
from engine.model.folder import check_folder
from engine.model.language_model import LanguageModel, Limits
from engine.model.mlx import dequantised_state, mlx_settings
from engine.model.origin import Origin, dequantised, gguf_of, name_of
from engine.model.placement import DeviceMap, check_device_map
from engine.model.probing import reads_ahead
from engine.model.sizes import check_size
from engine.model.vocabulary import listed_ids
from engine.model.weights import (
    check_loaded,
    check_numbers,
    check_quantisation,
    forget_quantisation,
    left_over,
)
from engine.progress import Check, no_check

Tell = Callable[[str], None]
"""Takes a few words on what is being done just now."""


def silent(phase: str) -> None:
    """Tells nobody."""


DEVICES: Final = ("auto", "cpu", "cuda", "mps")
DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(device: str) -> torch.device:
    """``auto`` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        OptionError: an unknown name, or a device that is not there.
    """
    if device not in DEVICES:
        raise OptionError(
            f"device must be one of {', '.join(DEVICES)}; got {shorten(str(device))!r}."
        )
    cuda = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if device == "cuda" and not cuda:
        raise OptionError("no CUDA device was found; choose device cpu or auto.")
    if device == "mps" and not mps:
        raise OptionError("no Apple MPS device was found; choose device cpu or auto.")
    return torch.device(device)


def load_model(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    offline: bool = False,
    limits: Limits | None = None,
    name: str | None = None,
    device_map: DeviceMap | None = None,
    cache_dir: Path | None = None,
    check: Check = no_check,
    tell: Tell = silent,
    exclusive: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> LanguageModel:
    """Open a causal or masked language model by hub id, local folder or GGUF file.

    Args:
        source: a folder with config.json and safetensors, a hub id, or what
            :func:`engine.model.origin.gguf_of` takes for a GGUF file.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto`` is float32 on the CPU and the checkpoint's own elsewhere; or ``float32``,
            ``bfloat16``, ``float16``.
        revision: of a hub id: a commit, tag or branch.
        trust_remote_code: allow code that comes with the model to run.
        offline: use what is on the disk only.
        limits: what one request may ask for.
        name: shown instead of the source.
        device_map: spread the model over several GPUs by the package accelerate, in one of its
            ways (``auto``, ``balanced``, ``balanced_low_0``, ``sequential``) or with a device for
            each module path; what does not fit them stays in main memory. None: one device.
        cache_dir: where dequantised copies of GGUF files are kept; None keeps none.
        check: raises to stop, while such a copy is made.
        tell: called with a few words at each phase.
        exclusive: entered while transformers changes what holds for the whole process (torch's
            default dtype): no other thread may compute meanwhile. On the CPU in float32 nothing
            changes.

    Raises:
        ModelNotFound, UnsupportedModel, UnsafeModel, ModelTooLarge, OptionError: one sentence each.
    """
    where = choose_device(device)
    if device_map is not None:
        check_device_map(device_map, device)
    if dtype != "auto" and dtype not in DTYPES:
        raise OptionError(
            f"dtype must be one of auto, {', '.join(DTYPES)}; got {shorten(str(dtype))!r}."
        )
    text = str(source)
    try:
        found = gguf_of(text, offline=offline)
    except (OSError, ValueError, RuntimeError):
        found = None  # no name of a file: said below
    settings: dict[str, Any] = {
        "where": where, "dtype": dtype, "offline": offline, "limits": limits,
        "device_map": device_map, "tell": tell, "exclusive": exclusive, "check": check,
    }  # fmt: skip
    if found is None:
        adapter = _adapter(text, revision, offline)
        if adapter is not None:
            alone = settings | {"offline": offline or adapter.present}
            return _open(
                adapter.base, name=name or adapter.name, revision=adapter.revision,
                trust_remote_code=False, adapter=adapter, **alone,
            )  # fmt: skip
        return _open(
            text, name=name, revision=revision, trust_remote_code=trust_remote_code, **settings
        )
    tell("dequantising the weights; they are kept for the next time")
    with dequantised(*found, cache_dir, check) as (folder, origin):
        return _open(
            str(folder), name=name or name_of(found[0]), revision=None, trust_remote_code=False,
            origin=origin, **settings,
        )  # fmt: skip


def _adapter(text: str, revision: str | None, offline: bool) -> Adapter | None:
    """The adapter that a folder or a hub id names, or None."""
    try:
        folder = Path(text).expanduser()
        if folder.exists():
            return adapter_of(folder)
    except (OSError, RuntimeError):  # no name of a folder: said where it is opened
        return None
    fetched = hub_adapter(text, revision, offline=offline)
    return None if fetched is None else adapter_of(fetched, name=text, fetch=not offline)


def _open(
    text: str,
    *,
    name: str | None,
    revision: str | None,
    trust_remote_code: bool,
    where: torch.device,
    dtype: str,
    offline: bool,
    limits: Limits | None,
    device_map: DeviceMap | None,
    tell: Tell,
    exclusive: Callable[[], AbstractContextManager[None]],
    check: Check,
    origin: Origin | None = None,
    adapter: Adapter | None = None,
) -> LanguageModel:
    """Open what is no GGUF file, or a copy of one; with an adapter, its model with it merged in."""
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        folder = Path(text).expanduser()
        local = folder.is_dir()
    except (OSError, RuntimeError):  # a name too long for any folder; a home that is nobody's
        raise ModelNotFound(
            f"{shorten(text, 80)!r} can be no folder; give a folder with config.json and"
            " safetensors weights, or a hub id such as gpt2."
        ) from None
    shown = name or (folder.resolve().name if local else text)
    if local:
        check_folder(folder, shown, trust_remote_code=trust_remote_code)
    elif folder.exists():
        raise ModelNotFound(
            f"{shorten(text, 80)!r} is a file and no GGUF; give the folder that holds it, or a file"
            " ending in .gguf."
        )
    elif text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelNotFound(
            f"there is no folder {shorten(text, 80)!r}; give a folder with config.json and"
            " safetensors weights, or a hub id such as gpt2."
        )
    common: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "revision": revision,
        "local_files_only": offline or local,
    }
    path = str(folder) if local else text
    tell("reading the configuration")
    try:
        # `common` holds the revision.
        config = AutoConfig.from_pretrained(path, **common)  # nosec B615
    except Exception as error:
        raise _cannot_open(shown, local, offline, error) from error
    factory, kind = class_for(config, shown)
    packed = mlx_settings(config) if local else None
    if packed is None:
        check_quantisation(config, shown)
    check_size(config, folder if local else None, shown, where, dtype, device_map is not None)
    chosen = DTYPES[dtype] if dtype != "auto" else torch.float32 if where.type == "cpu" else "auto"
    tell("reading the weights")
    state = None
    if packed is not None:
        state = dequantised_state(folder, packed, shown, check)
        forget_quantisation(config)
        origin = replace(origin or Origin(), quantization=f"MLX, {packed['bits']} bits")

    def weights(by: Any) -> tuple[nn.Module, tuple[str, ...]]:
        found = _open_weights(path, by, config, state, chosen, common, shown, offline, device_map)
        if local and packed is None:
            check_numbers(folder, found[0], shown)
        return found

    same = where.type == "cpu" and chosen is torch.get_default_dtype()
    with nullcontext() if same else exclusive():
        module, unexpected = weights(factory)
        if adapter is not None:
            module = merged(module, adapter)
        ahead = reads_ahead(module)
        if kind == CAUSAL and ahead and has_class(config, MASKED):
            module, unexpected = weights(AutoModelForMaskedLM)
            if adapter is not None:
                module = merged(module, adapter)
            kind = MASKED
    if ahead is not None and (kind == CAUSAL) == ahead:
        kind = BIDIRECTIONAL if ahead else CAUSAL
    tell("reading the tokenizer")
    try:
        words = str(adapter.folder) if adapter is not None and adapter.has_tokenizer else path
        tokenizer = AutoTokenizer.from_pretrained(words, **common)  # nosec B615
    except Exception as error:
        raise UnsupportedModel(
            f"the tokenizer of {shown} cannot be opened ({_short(error)}); a model is read through"
            " its vocabulary, so it needs one."
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # Where a folder has no tokenizer files, transformers makes up an empty one.
        raise UnsupportedModel(
            f"the tokenizer of {shown} has no tokens beside special ones, as if its files were not"
            " there; a model is read through its vocabulary, so it needs one."
        )
    try:
        if device_map is None:
            module.to(where)
    except RuntimeError as error:
        raise ModelTooLarge(
            f"{shown} does not fit on {where} ({_short(error)}); choose a smaller model, dtype"
            " bfloat16 or another device."
        ) from error
    commit = getattr(config, "_commit_hash", None)
    tell("finding the model's parts")
    model = LanguageModel(
        module,
        tokenizer,
        name=shown,
        revision="local" if local else str(commit or revision or "main"),
        kind=kind,
        limits=limits,
        origin=origin,
    )
    texts = model.vocabulary_texts
    if texts.homeless and (listed := listed_ids(Path(words))) is not None:
        texts.homeless &= listed
    model.left_over = left_over(unexpected, module, model.anatomy, config, shown)
    return model


def _open_weights(
    path: str,
    factory: Any,
    config: Any,
    state: Mapping[str, torch.Tensor] | None,
    dtype: torch.dtype | str,
    common: dict[str, Any],
    shown: str,
    offline: bool,
    device_map: DeviceMap | None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with its weights, and the names of the file's tensors that it did not take.

    Args:
        path: folder or hub id.
        factory: a class of transformers.
        config: of the checkpoint.
        state: the weights, where they were made from the file's; else None.
    """
    local = bool(common["local_files_only"]) and Path(path).is_dir()
    if device_map is not None:
        common = common | {"device_map": device_map}
    try:
        if state is None:
            module, info = factory.from_pretrained(
                path, dtype=dtype, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True, **common,
            )  # fmt: skip
        else:
            module, info = class_of(factory, config).from_pretrained(
                None, config=config, state_dict=state, dtype=dtype, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
    except Exception as error:
        raise _cannot_open(shown, local, offline, error) from error
    check_loaded(module, info, shown)
    assert isinstance(module, nn.Module)
    if isinstance(device_map, str) and "disk" in getattr(module, "hf_device_map", {}).values():
        raise ModelTooLarge(
            f"{shown} fits neither the GPUs nor the main memory beside them, and reading its layers"
            " from the disk for every prompt would take minutes; choose a smaller model or dtype"
            " bfloat16."
        )
    return module, tuple(info.get("unexpected_keys") or ())


def _cannot_open(shown: str, local: bool, offline: bool, error: Exception) -> ModelError:
    message = str(error)
    if "safetensors" in message and not local:
        return UnsafeModel(
            f"{shorten(shown, 80)} has no safetensors weights, and pickled ones are not opened."
        )
    if "trust_remote_code" in message or "custom code" in message:
        return UnsafeModel(
            f"{shorten(shown, 80)} brings code of its own; it is not run unless the setting"
            " trust_remote_code allows it."
        )
    if not local and isinstance(error, OSError):
        how = "on this disk (the setting offline is on)" if offline else "on the hub or this disk"
        return ModelNotFound(
            f"no model {shorten(shown, 80)!r} was found {how}; give a folder or a hub id such as"
            " gpt2."
        )
    if "deserializing header" in message:  # how safetensors begins what it says of such a file
        return ModelError(
            f"the weights of {shorten(shown, 80)} are damaged or incomplete ({_short(error)}); copy"
            " or download them again."
        )
    return ModelError(f"{shorten(shown, 80)} cannot be opened: {_short(error)}.")


def _short(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return shorten(first, 160).rstrip(".")
