"""The weights of a checkpoint against the model that is to take them.

A tensor that no parameter takes, a parameter that no tensor fills, integers read as if they were
weights: each gives a model that answers fluently and wrongly. All are refused by name here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from engine.errors import UnsupportedModel, shorten
from engine.model.anatomy import Anatomy
from engine.model.classes import without_weights

_INTEGERS: Final = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")

_QUANTISED: Final = ("quantization_config", "quantization")


def check_quantisation(config: Any, shown: str) -> None:
    """Refuse a quantisation that transformers would leave unread, taking the weights as they lie.

    Raises:
        UnsupportedModel: the configuration names a method that is not known here.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    given = quantisation(config)
    if given is None:
        return
    method = given.get("quant_method")
    known = False
    with suppress(ValueError, TypeError, KeyError):
        known = bool(method) and AutoHfQuantizer.supports_quant_method(dict(given))
    if not known:
        said = f"the method {shorten(str(method))!r}" if method else "no method"
        raise UnsupportedModel(
            f"{shown} is quantised, and its config.json names {said}, whose arithmetic is not"
            " known here; give the model as it was before, in float32, bfloat16 or float16."
        )


def quantisation(config: Any) -> Mapping[str, Any] | None:
    """What a configuration says of the weights' quantisation, where it says anything."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for one in (config, text):
        for name in _QUANTISED:
            found: Any = getattr(one, name, None)
            if hasattr(found, "to_dict"):
                found = found.to_dict()
            if isinstance(found, Mapping) and found:
                return found
    return None


def forget_quantisation(config: Any) -> None:
    """Take out what a configuration says of a quantisation, once the weights are plain numbers."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for one in (config, text):
        for name in _QUANTISED:
            if hasattr(one, name):
                delattr(one, name)


def check_loaded(module: Any, info: Mapping[str, Any], shown: str) -> None:
    """Refuse a model that did not take its weights from the file, each in its size.

    Args:
        module: as transformers opened it.
        info: its ``output_loading_info``.
        shown: what people call the model.

    Raises:
        UnsupportedModel: sizes that differ, weights that are not there, a quantisation unread.
    """
    wrong = sorted(info.get("mismatched_keys") or (), key=str)
    if wrong:
        name, found, wanted = wrong[0][:3]
        raise UnsupportedModel(
            f"the weights of {shown} do not fit its config.json: {name!r} is {_size(found)} in the"
            f" file and {_size(wanted)} by the configuration{_more(wrong)}; give the configuration"
            " that they were saved with."
        )
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise UnsupportedModel(
            f"the weights of {shown} lack {missing[0]!r}{_more(missing)} that"
            f" {type(module).__name__} needs; they would be random, so the model is refused."
        )
    # Where transformers made plain numbers of them, it takes its quantiser and the entry away.
    left = quantisation(getattr(module, "config", None)) is not None
    if left and getattr(module, "hf_quantizer", None) is None:
        raise UnsupportedModel(
            f"{shown} says in config.json that its weights are quantised, and nothing read them so;"
            " give the model as it was before, in float32, bfloat16 or float16."
        )


def check_numbers(folder: Path, module: nn.Module, shown: str) -> None:
    """Refuse integers that were read as if they were weights.

    Raises:
        UnsupportedModel: a floating parameter was filled from integers, and nothing scaled them.
    """
    if getattr(module, "hf_quantizer", None) is not None:
        return
    own = module.state_dict()
    for name, dtype in stored(folder).items():
        taken = own.get(name)
        if dtype in _INTEGERS and taken is not None and taken.is_floating_point():
            raise UnsupportedModel(
                f"the weights of {shown} are integers ({name!r} is {dtype}) and nothing says what"
                " they stand for; give the model in float32, bfloat16 or float16."
            )


def stored(folder: Path) -> dict[str, str]:
    """Name → type of number, as the headers of a folder's safetensors say."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                found[name] = str(file.get_slice(name).get_dtype())
    return found


def left_over(
    unexpected: Iterable[str], module: nn.Module, anatomy: Anatomy, config: Any, shown: str
) -> tuple[str, ...]:
    """Tensors of the file that belong to parts beside the language model.

    A picture tower or another head is no part of what is read. A tensor that no parameter took
    inside the blocks, beside a weight (a scale), or among the parts of the chain is: without it
    the model computes something else.

    Args:
        unexpected: names of what no parameter took, as the module would call them.
        module: the model.
        anatomy: its parts.
        config: of the checkpoint.
        shown: what people call the model.

    Raises:
        UnsupportedModel: such a tensor.
    """
    modules = dict(module.named_modules())
    chain = (anatomy.embedding_path, anatomy.blocks_path, anatomy.head_path, *anatomy.readout_paths)
    around = {path.rpartition(".")[0] for path in chain} - {""}
    left = sorted(unexpected)
    taken: set[str] | None = None
    refused = []
    for name in left:
        path = name
        while path not in modules:
            path = path.rpartition(".")[0]
        part = modules[path]
        inside = any(path == one or path.startswith(f"{one}.") for one in chain)
        if not inside and path in around and taken is None:
            taken = _of_declared(config, type(module).__name__)
        known = taken is not None and any(one.endswith(_tail(name)) for one in taken)
        beside = any(isinstance(one, Tensor) for one in part.parameters(recurse=False))
        if inside or beside or (path in around and not known):
            refused.append(name)
    if refused:
        raise UnsupportedModel(
            f"the file of {shown} holds {refused[0]!r}{_more(refused)} that no part of"
            f" {type(module).__name__} took, so the model would compute something else; give a"
            " configuration that fits the weights, or weights that are not quantised."
        )
    return tuple(left)


def _of_declared(config: Any, opened: str) -> set[str]:
    """The parameters of the class that the checkpoint names, where it is another one."""
    names = [str(n) for n in (getattr(config, "architectures", None) or []) if str(n) != opened]
    made = without_weights(config, names[0]) if names else None
    return set(made.state_dict()) if made is not None else set()


def _tail(name: str) -> str:
    """The last parts of a name: a wrapper puts others in front."""
    return ".".join(name.split(".")[-3:])


def _size(shape: Sequence[int]) -> str:
    return " × ".join(str(int(n)) for n in shape) or "one number"


def _more(names: Sequence[Any]) -> str:
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""
