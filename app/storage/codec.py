"""A frozen value of the engine as plain JSON and arrays, and back, bit for bit.

A dataclass is an object of its fields, an array the name of one beside it, a mapping a list of
pairs. What a field may hold is what its annotation says, so that nothing is built that the code
does not know: no class is ever named by a file.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
_ARRAY = "array"


def freeze(value: Any) -> tuple[Any, Arrays]:
    """What `json` can write, and the arrays that it names; `thaw` makes the value of them again."""
    arrays: Arrays = {}

    def plain(one: Any) -> Any:
        if isinstance(one, np.ndarray):
            name = str(len(arrays))
            arrays[name] = np.require(one, requirements="C")
            return {_ARRAY: name}
        if is_dataclass(one):
            return {field.name: plain(getattr(one, field.name)) for field in fields(one)}
        if isinstance(one, Mapping):
            return [[plain(key), plain(each)] for key, each in one.items()]
        if isinstance(one, tuple | list):
            return [plain(each) for each in one]
        if isinstance(one, np.generic):
            return one.item()
        if one is None or isinstance(one, str | int | float):
            return one
        raise TypeError(f"{type(one).__name__} cannot be kept")

    return plain(value), arrays


def thaw(kind: type[T], tree: Any, arrays: Mapping[str, NDArray[Any]]) -> T:
    """A value of this class.

    Raises:
        ValueError: it is none; or whatever the class itself refuses.
    """
    return cast(T, _thawed(kind, tree, arrays))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _thawed(hint: Any, tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        hints = _hints(cast(type, hint))
        given = _expect(dict, tree)
        if set(given) != set(hints):
            raise ValueError(f"other fields than those of {cast(type, hint).__name__}")
        return cast(Any, hint)(
            **{name: _thawed(one, given[name], arrays) for name, one in hints.items()}
        )
    if origin is np.ndarray:
        found = arrays[_expect(str, _expect(dict, tree)[_ARRAY])]
        if found.dtype != np.dtype(get_args(parts[1])[0]):
            raise ValueError(f"an array of {found.dtype}")
        return found
    if origin is tuple:
        given = _expect(list, tree)
        each = [parts[0]] * len(given) if parts[1:] == (...,) else list(parts)
        return tuple(_thawed(one, x, arrays) for one, x in zip(each, given, strict=True))
    if origin is not None and issubclass_of(origin, Mapping):
        pairs = ((_expect(list, pair)) for pair in _expect(list, tree))
        return {_thawed(parts[0], k, arrays): _thawed(parts[1], v, arrays) for k, v in pairs}
    if origin in (Union, types.UnionType):
        return _one_of(parts, tree, arrays)
    if origin is Literal:
        if tree not in parts:
            raise ValueError("a word that is not known")
        return tree
    if hint is float and type(tree) is int:
        return float(tree)
    return _expect(hint, tree)


def _one_of(parts: Iterable[Any], tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The first of several kinds that it is."""
    if tree is None and type(None) in parts:
        return None
    for part in parts:
        if part is not type(None):
            try:
                return _thawed(part, tree, arrays)
            except (ValueError, KeyError):
                continue
    raise ValueError("nothing of what may stand here")


def issubclass_of(kind: Any, of: type) -> bool:
    """Whether it is a class, and one of these."""
    return isinstance(kind, type) and issubclass(kind, of)


def _expect(kind: Any, tree: Any) -> Any:
    # A bool is an int to isinstance, and neither stands for the other here.
    if type(tree) is not kind:
        raise ValueError(f"{type(tree).__name__} where {kind} stands")
    return tree
