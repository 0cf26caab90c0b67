"""Several devices on a machine that has one: tensors that say where they lie and refuse to mix.

A :class:`Placed` tensor holds its values on the CPU and claims another device. Inside
:class:`Devices` every operation computes on the CPU and gives its result to the device of its
operands; where operands lie on different devices it raises as CUDA does. So a test sees each
forgotten ``.to(device)`` without a GPU, and the numbers stay those of the CPU.

`xla` stands for the GPUs, since PyTorch prepares nothing for it before the first tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

PRETEND = "xla"
_aten = torch.ops.aten
_BETWEEN = {_aten._to_copy.default, _aten.copy_.default, _aten._local_scalar_dense.default}
"""What may take from one device and give to another."""
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}
"""What takes indices from the CPU whatever it indexes, as CUDA does."""


class Placed(Tensor):
    """A tensor that claims a device which this machine does not have."""

    inner: Tensor
    where: torch.device

    @staticmethod
    def __new__(cls, inner: Tensor, where: torch.device) -> Placed:
        """Wrap the values, which lie on the CPU."""
        made: Placed = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",  # in C++, which has no way to run on the pretended one
        )
        made.inner, made.where = inner, where
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The pretended one."""
        return self.where

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        """It has values."""
        return False

    def data_ptr(self) -> int:
        """Of the values: what is tied stays tied."""
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operation outside of :class:`Devices`."""
        return _compute(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Placed({self.inner!r}, {self.device})"


def _pretended(device: Any) -> torch.device | None:
    if device is None:
        return None
    found = torch.device(device)
    return found if found.type == PRETEND else None


def _is_index(func: Any, tensor: Tensor) -> bool:
    plain = not isinstance(tensor, Placed) and not tensor.dtype.is_floating_point
    return plain and func in _INDEXING


def _compute(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    flat, shape = tree_flatten((args, dict(kwargs)))
    tensors = [t for t in flat if isinstance(t, Tensor)]
    placed = [t for t in tensors if isinstance(t, Placed)]
    where = placed[0].device if placed else None
    if func not in _BETWEEN:
        mixed = {
            t.device
            for t in tensors
            # A single number of the CPU goes anywhere.
            if (t.dim() > 0 or isinstance(t, Placed)) and not _is_index(func, t)
        }
        if len(mixed) > 1:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found "
                + " and ".join(sorted(str(d) for d in mixed))
                + f" ({func})"
            )
    elif func is _aten.copy_.default:
        where = args[0].device if isinstance(args[0], Placed) else None
    own = {id(t.inner): t for t in placed}
    plain_args, plain = tree_unflatten(
        [t.inner if isinstance(t, Placed) else t for t in flat], shape
    )
    if "device" in plain:
        given = plain["device"]
        if given is not None:
            # `meta` is what C++ takes the operands' device for.
            where = where if torch.device(given).type == "meta" else _pretended(given)
            plain["device"] = torch.device("cpu")
    result = func(*plain_args, **plain)

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in own:  # in place, or into `out`
            return own[id(value)]
        return value if where is None else Placed(value, where)

    return tree_map(wrap, result)


class Devices(TorchDispatchMode):
    """Within it the pretended devices can be named: ``torch.empty(3, device="xla:1")``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU, as the operands' devices allow."""
        return _compute(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Values written out in Python, which reach their device where no dispatch mode sees it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the tensor on the CPU; an index may stay there, anything else is moved."""
        given = dict(kwargs or {})
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            return func(args[0], index, *args[2:])
        if func in (torch.tensor, torch.as_tensor) and _pretended(given.get("device")) is not None:
            where = given.pop("device")
            made: Tensor = func(*args, **given)
            return made.to(where)
        return func(*args, **given)


@contextmanager
def pretend_devices() -> Iterator[None]:
    """Devices ``xla:0``, ``xla:1`` … within the block.

    Inference mode, which the wrapped tensors know only in part, is plain ``no_grad`` there.
    """
    with pytest.MonkeyPatch.context() as patch, _Literals(), Devices():
        patch.setattr(torch, "inference_mode", torch.no_grad)
        yield


def spread(module: nn.Module, places: Mapping[str, str]) -> None:
    """Put a model's modules on several devices, as accelerate does by a device map.

    Each named module has its inputs moved to its own device; what the whole model gives goes back
    to where its input lay.

    Args:
        module: changed in place.
        places: the device of each module, by its path; every tensor of the model lies in one.
    """
    moved: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # what is tied stays one
    for path, name in places.items():
        device = torch.device(name)
        top = module.get_submodule(path)
        for each in top.modules():
            for key, tensor in [*each.named_parameters(recurse=False)]:
                if isinstance(tensor, Placed):
                    continue
                if id(tensor) not in moved:
                    made = nn.Parameter(Placed(tensor.detach(), device), requires_grad=False)
                    moved[id(tensor)] = (tensor, made)
                each._parameters[key] = moved[id(tensor)][1]
            for key, tensor in [*each.named_buffers(recurse=False)]:
                if not isinstance(tensor, Placed):
                    each._buffers[key] = Placed(tensor, device)
        top.register_forward_pre_hook(_follow(device), with_kwargs=True)
    lying = [*module.parameters(), *module.buffers()]
    assert all(isinstance(t, Placed) for t in lying), "the places leave something out"

    def back(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        home = kwargs["input_ids"].device
        return tree_map(lambda v: v.to(home) if isinstance(v, Tensor) else v, output)

    module.register_forward_hook(back, with_kwargs=True)


def _follow(to: torch.device) -> Callable[..., Any]:
    def hook(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map(lambda v: v.to(to) if isinstance(v, Tensor) else v, (args, kwargs))

    return hook
