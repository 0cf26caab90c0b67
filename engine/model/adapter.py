"""A folder that holds an adapter only: opened with the model that it was trained on, merged in.

LoRA's weights are W + s·B·A; what peft makes of them is one plain matrix again, so everything that
is read afterwards is read of the whole. The adapter names its model; that is opened under the same
rules as any other and without code of its own: where it lies on this disk, or, for an adapter that
was itself named by its hub id, from the hub.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from engine.errors import ModelError, ModelNotFound, UnsafeModel, UnsupportedModel, shorten
from engine.model.folder import PICKLES, check_code, read_json

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PLAIN_BEGINNINGS: Final = (True, False, None, "gaussian")
"""How LoRA may have begun; others (PiSSA, OLoRA, …) take a part of W away at the start."""
_FETCHED: Final = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_WHOLE: Final = (
    "give the folder of the whole, as peft's merge_and_unload and then save_pretrained write it"
)


@dataclass(frozen=True)
class Adapter:
    """An adapter and the model that it belongs to."""

    folder: Path
    name: str
    """The folder's."""
    base: str
    """A folder, or a hub id that is on this disk."""
    revision: str | None
    """Of a hub id."""
    present: bool = True
    """Whether that model is on this disk."""

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer lies beside it."""
        return (self.folder / "tokenizer_config.json").is_file()


def hub_adapter(name: str, revision: str | None, *, offline: bool) -> Path | None:
    """The folder of an adapter by its hub id, fetched where it must be and may; else None.

    Args:
        name: a hub id, perhaps; a repository with a config.json is a model of its own.
        revision: a commit, tag or branch.
        offline: take what is on the disk only.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    def there(file: str) -> bool:
        try:
            hf_hub_download(name, file, revision=revision, local_files_only=offline)  # nosec B615
        except Exception:  # no hub id, not there, no network: said where the model is opened
            return False
        return True

    if there("config.json") or not there(CONFIG):
        return None
    try:
        return Path(
            snapshot_download(  # nosec B615
                name, revision=revision, local_files_only=offline, allow_patterns=_FETCHED
            )
        )
    except Exception:
        return None


def adapter_of(folder: Path, *, name: str = "", fetch: bool = False) -> Adapter | None:
    """The adapter that a folder holds, or None where it holds something else.

    Args:
        folder: where it lies.
        name: shown instead of the folder's.
        fetch: whether its model may come from the hub.

    Raises:
        UnsafeModel: code, or pickled weights.
        UnsupportedModel: another kind of adapter than LoRA, or one that changes the model's parts.
        ModelNotFound: its model is not on this disk.
    """
    if not (folder / CONFIG).is_file() or (folder / "config.json").is_file():
        return None
    shown = name or folder.resolve().name
    names = sorted(path.name for path in folder.iterdir())
    config = read_json(folder / CONFIG, shown)
    check_code(folder, names, {}, shown)
    if WEIGHTS not in names:
        pickles = [name for name in names if name.lower().endswith(PICKLES)]
        if pickles:
            raise UnsafeModel(
                f"the adapter {shown} has pickled weights only ({shorten(pickles[0])}), and opening"
                " a pickle runs its code; convert it to safetensors."
            )
        raise ModelNotFound(f"the folder of the adapter {shown} has no {WEIGHTS}.")
    kind = str(config.get("peft_type"))
    changed = [key for key in ("layer_replication", "megatron_config") if config.get(key)]
    begun = config.get("init_lora_weights")
    if kind != "LORA" or changed or begun not in _PLAIN_BEGINNINGS:
        what = changed[0] if changed else kind if kind != "LORA" else f"LoRA, begun by {begun}"
        raise UnsupportedModel(
            f"{shown} is an adapter of a kind ({shorten(what)}) that is not merged here; {_WHOLE}."
        )
    base = str(config.get("base_model_name_or_path") or "").removeprefix("hub:")
    revision = config.get("revision")
    found = _at_hand(base, str(revision) if revision else None, folder)
    if found is None and fetch and base and not Path(base).is_absolute():
        return Adapter(folder, shown, base, str(revision) if revision else None, present=False)
    if found is None:
        raise ModelNotFound(
            f"{shown} is an adapter for {shorten(base, 80)!r}, which is not on this disk; put that"
            f" model's folder beside it, or {_WHOLE}."
        )
    return Adapter(folder, shown, found, str(revision) if revision else None)


def _at_hand(base: str, revision: str | None, folder: Path) -> str | None:
    """Where an adapter's model lies: at its path, beside the adapter, or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if not base:
        return None
    beside = folder.resolve().parent / Path(base).name
    for place in (Path(base), beside):
        try:
            if place.is_absolute() and (place / "config.json").is_file():
                return str(place)
        except OSError:  # a name too long for any folder
            return None
    try:
        cached = try_to_load_from_cache(base, "config.json", revision=revision)
    except ValueError:  # no hub id
        return None
    return base if isinstance(cached, str) else None


def merged(module: Any, adapter: Adapter) -> nn.Module:
    """The model with the adapter's products added to its weights.

    Raises:
        UnsupportedModel: the adapter does not fit the model, tensor by tensor.
        ModelError: it cannot be read.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    where = next(module.parameters()).device
    try:
        with safe_open(adapter.folder / WEIGHTS, framework="pt") as file:
            held = set(file.keys())
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is checked below
            whole = PeftModel.from_pretrained(
                module, str(adapter.folder), torch_device=str(where), local_files_only=True
            )
            taken = set(get_peft_model_state_dict(whole, save_embedding_layers=False))
            out: nn.Module = whole.merge_and_unload(safe_merge=True)
    except Exception as error:
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 160).rstrip(".")
        raise ModelError(
            f"the adapter {adapter.name} cannot be merged into {_short(adapter)} ({reason});"
            f" {_WHOLE}."
        ) from error
    if held != taken:
        odd = sorted(held ^ taken)[0]
        where_ = "its file holds" if odd in held else "its file lacks"
        raise UnsupportedModel(
            f"the adapter {adapter.name} does not fit {_short(adapter)}: {where_} {odd!r}, which"
            f" {'no part of that model takes' if odd in held else 'that model needs'}."
        )
    return out.eval()


def _short(adapter: Adapter) -> str:
    """The model's name without its place."""
    return shorten(Path(adapter.base).name, 60)
