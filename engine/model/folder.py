"""A model's folder, looked at before any library interprets a file of it.

Opening a model must run nothing of its author and take nothing of another place: no pickles, no
code, no adapter that names another model, no list of weights that leaves the folder. What is found
is refused by name; nothing here reads weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from engine.errors import ModelError, ModelNotFound, ModelTooLarge, UnsafeModel, shorten

PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".npy")
"""Endings of weights whose reading may run code."""
LARGEST_JSON: Final = 64 * 2**20
"""Bytes of a JSON file that is read; a vocabulary of a million tokens has 20 MB."""
MOST_LAYERS: Final = 4096
_POINTER: Final = b"version https://git-lfs"
_CODE: Final = ("auto_map", "trust_remote_code", "custom_pipelines")
_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")


def check_folder(folder: Path, shown: str, *, trust_remote_code: bool) -> None:
    """Look at a folder's files before anything of it is interpreted.

    Args:
        folder: with config.json and safetensors; its files may be links.
        shown: what people call the model.
        trust_remote_code: whether code of the model's author may run.

    Raises:
        ModelNotFound: no configuration, or no weights.
        UnsafeModel: code, pickles only, an adapter, or weights outside the folder.
        ModelTooLarge: more layers than any model has.
        ModelError: a configuration that cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"the folder of {shown} has no config.json; give a folder that save_pretrained wrote."
        )
    names = sorted(path.name for path in folder.iterdir())
    config = read_json(folder / "config.json", shown)
    if not trust_remote_code:
        check_code(folder, names, config, shown)
    if "adapter_config.json" in names:
        raise UnsafeModel(
            f"the folder of {shown} holds an adapter (adapter_config.json), which names another"
            " model to load, beside a config.json; merge it into its model and give the folder of"
            " the whole, or give each a folder of its own."
        )
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        pickles = [name for name in names if name.lower().endswith(PICKLES)]
        if pickles:
            raise UnsafeModel(
                f"{shown} has no safetensors weights, and reading what it has"
                f" ({shorten(pickles[0])}) may run code of its author; convert it to safetensors."
            )
        raise ModelNotFound(f"the folder of {shown} has no .safetensors weights.")
    if not {"model.safetensors", "model.safetensors.index.json"} & set(names):
        raise ModelNotFound(
            f"the weights of {shown} are named {shorten(weights[0])!r}, and model.safetensors or"
            " model.safetensors.index.json is what is read; save the model by save_pretrained."
        )
    for name in weights:
        with (folder / name).open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ModelNotFound(
                    f"{name} of {shown} is a pointer of Git LFS and not the weights; fetch them by"
                    " git lfs pull."
                )
    for name in names:
        if name.endswith(".index.json"):
            _check_index(folder / name, set(names), shown)
    for key, value in _pairs(config):
        if key in _LAYERS and isinstance(value, int) and value > MOST_LAYERS:
            raise ModelTooLarge(
                f"config.json of {shown} says {shorten(str(value), 20)} layers, and at most"
                f" {MOST_LAYERS:,} are opened; correct {key}."
            )


def check_code(folder: Path, names: list[str], config: Any, shown: str) -> None:
    """Refuse files of code, and settings that name code.

    Raises:
        UnsafeModel: there is some.
    """
    code = [name for name in names if name.endswith((".py", ".pyc", ".so"))]
    told = {"config.json": config}
    for name in names:
        if name.endswith("_config.json"):  # of the tokenizer, the processor, generation
            told[name] = read_json(folder / name, shown)
    for name, document in told.items():
        found = next((key for key, value in _pairs(document) if key in _CODE and value), None)
        if found is not None:
            raise UnsafeModel(
                f"{shown} brings code of its own ({found} in {name}); it is not run unless the"
                " setting trust_remote_code allows it."
            )
    if code:
        raise UnsafeModel(
            f"the folder of {shown} holds code ({shorten(code[0])}); take such files out, or allow"
            " them by the setting trust_remote_code."
        )


def _check_index(path: Path, names: set[str], shown: str) -> None:
    """Refuse a list of weights that names anything but safetensors of this folder."""
    if not path.name.endswith(".safetensors.index.json"):
        return  # of pickles, which are not opened
    document = read_json(path, shown)
    listed = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(listed, dict):
        raise ModelError(f"{path.name} of {shown} lists no weights; save the model again.")
    for file in listed.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or file not in names:
            raise UnsafeModel(
                f"{path.name} of {shown} names {shorten(str(file))!r}, which is no safetensors file"
                " of this folder; save the model again."
            )


def read_json(path: Path, shown: str) -> Any:
    """A JSON object of the folder.

    Raises:
        ModelError: it is none, or is too large.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON // 2**20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = shorten((str(error).strip().splitlines() or [type(error).__name__])[0], 120)
        raise ModelError(
            f"{path.name} of {shown} cannot be read ({reason.rstrip('.')}); save the model again."
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} of {shown} is not a JSON object; save the model again.")
    return found


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            for key, inside in one.items():
                yield key, inside
                waiting.append(inside)
        elif isinstance(one, list):
            waiting.extend(one)
