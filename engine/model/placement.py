"""Where a model's weights lie, when accelerate has spread the model over several devices.

A module that accelerate keeps elsewhere (in main memory beside a GPU, on the disk) has weights
without values on PyTorch's device ``meta``, and a hook that fetches them for each call. The model
then runs as ever, but whoever wants to read a matrix itself asks here.

Knows nothing about tokens or bases. Imports nothing of accelerate: what it reads of the hooks is
``execution_device`` and ``weights_map``, and a test runs them with the real package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import OptionError, UnsupportedModel

DeviceMap = str | Mapping[str, str | int]
"""One of :data:`STRATEGIES`, or a device for each module path, as accelerate takes it."""

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def check_device_map(device_map: DeviceMap, device: str) -> None:
    """Refuse a way of spreading that cannot be followed on this machine.

    Raises:
        OptionError: an unknown strategy, no GPU to spread over, another device asked for at the
            same time, or the package accelerate is missing.
    """
    if isinstance(device_map, str):
        if device_map not in STRATEGIES:
            raise OptionError(
                f"device_map must be one of {', '.join(STRATEGIES)}; got {device_map[:40]!r}."
            )
        if device not in ("auto", "cuda"):
            raise OptionError(
                f"device_map spreads a model over GPUs, and device {device} was asked for; leave"
                " one of the two out."
            )
        if not torch.cuda.is_available():
            raise OptionError(
                "device_map spreads a model over GPUs, and no CUDA device was found; leave it out."
            )
    if importlib.util.find_spec("accelerate") is None:
        raise OptionError(
            "device_map needs the package accelerate; pip install accelerate, or leave it out."
        )


def with_values(module: nn.Module, name: str = "weight") -> Tensor | None:
    """A module's own tensor with its values, wherever accelerate keeps them; None if it has none.

    Raises:
        UnsupportedModel: the tensor is on ``meta`` and no hook knows its values.
    """
    found = getattr(module, name, None)
    if not isinstance(found, Tensor):
        return None
    if not found.is_meta:
        return found
    for hook in _hooks(module):
        weights = getattr(hook, "weights_map", None)
        if weights is not None:
            values: Tensor = weights[name]
            return values
    raise UnsupportedModel(
        f"the {name} of a {type(module).__name__} has no values (PyTorch's device meta); load the"
        " model with its weights."
    )


def runs_on(module: nn.Module) -> torch.device:
    """Where a module computes: where its weights lie, or where its hook fetches them to."""
    weight = next(module.parameters())
    if not weight.is_meta:
        return weight.device
    for hook in _hooks(module):
        where = getattr(hook, "execution_device", None)
        if where is not None:
            return torch.device(where)
    return torch.device("cpu")


def is_spread(module: nn.Module) -> bool:
    """Whether the weights lie on more than one device, or some are kept elsewhere."""
    where = devices(module)
    return len(where) > 1 or "meta" in where


def check_trainable(module: nn.Module) -> None:
    """Refuse to train a model's own weights where they do not all lie on one device.

    Raises:
        UnsupportedModel: the model is spread over several devices.
    """
    if is_spread(module):
        raise UnsupportedModel(
            "this model is spread over several devices, and its own weights are trained on one"
            " only; choose a method that leaves them as they are, or open the model on one device."
        )


def devices(module: nn.Module) -> tuple[str, ...]:
    """The devices that hold weights, in the order of the modules; ``meta`` is kept elsewhere."""
    return tuple(dict.fromkeys(str(p.device) for p in module.parameters()))


def values_of(module: nn.Module, path: str, tensor: Tensor) -> Tensor:
    """An entry of the module's state_dict with its values."""
    if not tensor.is_meta:
        return tensor
    owner, _, name = path.rpartition(".")
    found = with_values(module.get_submodule(owner), name)
    assert found is not None
    return found


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        return ()
    inner = getattr(hook, "hooks", None)  # of accelerate's SequentialHook
    return tuple(inner) if inner is not None else (hook,)
