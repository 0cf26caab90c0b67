"""Results that were computed, by what was asked; limited in bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from operator import itemgetter
from typing import Any, TypeVar

from cachetools import LRUCache

from engine.progress import Check

T = TypeVar("T")


class ResultCache:
    """Results by key, limited in bytes; the least recently used go first. For one thread."""

    def __init__(self, limit: int) -> None:
        """Make it empty; `limit` in bytes, 0 keeps nothing."""
        self.limit = limit
        self._held: LRUCache[Hashable, tuple[Any, int]] = LRUCache(limit, getsizeof=itemgetter(1))

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return int(self._held.currsize)

    def get(self, key: Hashable) -> Any | None:
        """The result under the key, or None."""
        found = self._held.get(key)
        return None if found is None else found[0]

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a result of so many bytes; one that is larger than a quarter of all is not kept."""
        if size <= self.limit // 4:
            self._held[key] = (value, size)


def measured(work: Callable[[Check], T], key: Hashable, check: Check) -> tuple[T, int]:
    """The result with its size in bytes and its key's, measured where the event loop does not wait.

    A key holds what was asked: a prompt, or all texts of a set.
    """
    value = work(check)
    return value, footprint((key, value))


def footprint(value: object) -> int:
    """Roughly how many bytes a result holds: arrays exactly, objects by their own size."""
    seen: set[int] = set()
    stack: list[object] = [value]
    total = 0
    while stack:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if hasattr(one, "nbytes"):
            total += int(one.nbytes) + 128
            continue
        total += sys.getsizeof(one)
        if isinstance(one, str | bytes | int | float | bool) or one is None:
            continue
        if is_dataclass(one) and not isinstance(one, type):
            stack.extend(getattr(one, f.name) for f in fields(one))
        elif isinstance(one, Mapping):
            stack.extend(one.keys())
            stack.extend(one.values())
        elif isinstance(one, list | tuple | set | frozenset):
            stack.extend(one)
    return total
