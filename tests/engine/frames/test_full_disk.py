"""Kept maps and checkpoints on a disk that becomes full at any call: whole, or not there."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.checkpoints import Checkpoints
from engine.maps.reduction import UmapCache, UmapResult

SIZES = int(os.environ.get("LEXISCOPE_TEST_DISK_SIZES", "20"))
"""At how many places a file stops growing."""
FAULTS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]


class Fault:
    """The n-th call of the system that writes fails; optionally every later one as well."""

    CALLS = ("fsync", "rename", "replace", "mkdir", "open")

    def __init__(self, patch: pytest.MonkeyPatch, number: int) -> None:
        self.left = -1
        self.for_ever = False
        self._number = number
        for name in self.CALLS:
            patch.setattr(os, name, self._failing(getattr(os, name)))
        patch.setattr(tempfile, "mkstemp", self._failing(tempfile.mkstemp))
        plain = builtins.open
        patch.setattr(builtins, "open", self._failing(plain, lambda *a: "w" in "".join(a[1:2])))

    def _failing(
        self, real: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True
    ) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if self.left >= 0 and counts(*[a for a in arguments if isinstance(a, str)]):
                if self.left == 0:
                    self.left = 0 if self.for_ever else -1
                    raise OSError(self._number, os.strerror(self._number))
                self.left -= 1
            return real(*arguments, **more)

        return call


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes; the system itself refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def layout(seed: int) -> UmapResult:
    draw = np.random.default_rng(seed)
    points = [draw.normal(size=(700, 2)).astype(np.float32) for _ in range(2)]
    return UmapResult("a" * 64, points[0], 0.5, (points[1],))


def on_disk(folder: Path) -> UmapResult | None:
    """What somebody finds there who has nothing in memory."""
    return UmapCache(folder).get("a" * 64, (700, 2))


def tensors(seed: int) -> dict[str, torch.Tensor]:
    return {"t": torch.randn(3000, generator=torch.Generator().manual_seed(seed))}


class Maps:
    """Keeps layouts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, seed: int) -> None:
        cache = UmapCache(self.folder)
        cache.put(layout(seed))
        kept = cache.get("a" * 64, (700, 2))  # whoever asked has it, whatever the disk does
        assert kept is not None
        np.testing.assert_array_equal(kept.coordinates, layout(seed).coordinates)

    def seed(self) -> int | None:
        found = on_disk(self.folder)
        if found is None:
            return None
        for seed in range(60):
            one = layout(seed)
            if np.array_equal(found.coordinates, one.coordinates):
                np.testing.assert_array_equal(found.others, one.others)
                return seed
        raise AssertionError("half of one layout and half of another")


class Places:
    """Keeps checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, seed: int) -> None:
        Checkpoints(self.folder).of("a part").save(tensors(seed), {"seed": seed})

    def seed(self) -> int | None:
        found = Checkpoints(self.folder).of("a part").load()
        if found is None:
            return None
        seed = int(found.values["seed"])
        assert torch.equal(found.tensors["t"], tensors(seed)["t"])
        return seed


@pytest.mark.parametrize("kind", [Maps, Places])
@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("for_ever", [False, True])
def test_a_call_that_fails_costs_what_was_to_be_kept_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Any], number: int, for_ever: bool
) -> None:
    place = kind(tmp_path / "kept")
    last, seed, lost = None, 0, 0
    with monkeypatch.context() as patch:
        fault = Fault(patch, number)
        for fresh in (True, False):  # an empty disk; then one where something is kept already
            for nth in range(40):
                seed += 1
                fault.left, fault.for_ever = nth, for_ever
                place.save(seed)
                reached = fault.left <= 0 if for_ever else fault.left < 0
                fault.left = -1
                found = place.seed()
                assert found in (last, seed)
                lost += found == last
                last = found
                names = [one.name for one in place.folder.iterdir()] if last is not None else []
                assert not [one for one in names if one.startswith(".tmp")]
                if not reached:
                    break  # there are no more calls than that
                if fresh and place.folder.is_dir():
                    for one in place.folder.iterdir():
                        one.unlink()
                    place.folder.rmdir()
                    last = None
            else:
                pytest.fail("the calls have no end")
    assert lost >= 4
    place.save(0)
    assert place.seed() == 0


@pytest.mark.parametrize("kind", [Maps, Places])
def test_a_file_that_stops_growing_anywhere_is_not_used(tmp_path: Path, kind: type[Any]) -> None:
    place = kind(tmp_path / "kept")
    place.save(0)
    whole = max(one.stat().st_size for one in place.folder.iterdir())
    last, lost = 0, 0
    for seed in range(1, SIZES + 1):
        with files_of_at_most(whole * seed // SIZES - (seed < SIZES)):
            place.save(seed % 60)
        found = place.seed()
        assert found in (last, seed % 60)
        lost += found == last
        last = found
        assert len(list(place.folder.iterdir())) == 1
    assert lost == SIZES - 1
    assert last == SIZES % 60
