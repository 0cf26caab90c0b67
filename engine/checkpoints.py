"""Where long work keeps how far it is, so that an interruption costs no more than a moment of it.

A :class:`Checkpoints` is the folder of one piece of work, a :class:`Checkpoint` one file in it:
some tensors and some plain values under a name and a key. The key stands for everything that the
numbers depend on; a file with another key, of another version or damaged is as good as none, and
the log says so. Files are written aside, flushed to the disk and renamed: whole, or not there.

Work never fails because its place cannot be kept: a full disk costs the checkpoint only.

Knows nothing about what is kept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT: Final = "1"
"""Of the files, and of what the work that is kept means by its numbers."""
SHARE: Final = 0.05
"""Of the time, at most, that goes into checkpoints; large ones are written less often."""
KEEP_FREE: ContextVar[int] = ContextVar("keep_free", default=0)
"""Bytes of the disk that `write_aside` leaves free, set by whoever does the work: what is kept to
save time must not take the room that results need."""
_ENDING: Final = ".safetensors"
log = logging.getLogger("lexiscope")


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds."""

    tensors: Mapping[str, Tensor]
    """On the CPU."""
    values: Mapping[str, Any]
    """Plain values, as JSON gives them: lists for tuples, floats exactly as they were."""


class Checkpoints:
    """The checkpoints of one piece of work. Everything here may be called from any thread."""

    def __init__(self, folder: Path | None, *, every_s: float = 30.0, reserve: int = 0) -> None:
        """Know the folder; it is made with the first checkpoint.

        Args:
            folder: where they lie; None keeps nothing.
            every_s: seconds between two checkpoints of the same name.
            reserve: bytes of the disk that stay free; nothing is kept below.
        """
        self.folder = folder
        self.every_s = every_s
        self.reserve = reserve
        self._lock = threading.Lock()
        self._dropped = folder is None

    def of(self, name: str, **depends: Any) -> Checkpoint:
        """The checkpoint of a part of the work.

        Args:
            name: which part, without what people typed, for it stands in the log; the work that
                fills it adds to its key by :meth:`Checkpoint.keyed`.
            depends: plain values that its content depends on.
        """
        return Checkpoint(self, name, depends)

    @property
    def place(self) -> str | None:
        """How far the work had come, in words, by its newest checkpoint; None where there is none.

        Reads the disk.
        """
        if self.folder is None:
            return None
        newest: tuple[int, str] | None = None
        for path in self.folder.glob(f"*{_ENDING}") if self.folder.is_dir() else ():
            with suppress(OSError, SafetensorError, ValueError):
                when = path.stat().st_mtime_ns
                with safe_open(path, framework="pt") as file:
                    place = (file.metadata() or {}).get("place", "")
                if place and (newest is None or when > newest[0]):
                    newest = (when, place)
        return None if newest is None else newest[1]

    def drop(self) -> None:
        """Delete all of them and keep nothing from now on: the work is done or not wanted."""
        with self._lock:
            self._dropped = True
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, path: Path, size: int, write: Callable[[Path], object]) -> bool:
        with self._lock:
            if self._dropped:
                return False
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                free = shutil.disk_usage(path.parent).free
                if free < self.reserve + size:
                    log.warning(
                        "a checkpoint of %d MiB was not kept: %d MiB of the disk are free and %d"
                        " MiB are to stay free",
                        *(size // 2**20, free // 2**20, self.reserve // 2**20),
                    )
                    return False
                write_aside(path, write)
            except (OSError, SafetensorError) as error:
                log.warning("a checkpoint was not kept: %s", error)
                return False
        return True


class Checkpoint:
    """One file of a :class:`Checkpoints`: how far a part of the work is, or what it gave."""

    def __init__(self, owner: Checkpoints, name: str, depends: Mapping[str, Any]) -> None:
        """`Checkpoints.of` makes these."""
        self._owner, self._name, self._depends = owner, name, dict(depends)
        self._last, self._cost = time.monotonic(), 0.0

    def keyed(self, **depends: Any) -> Checkpoint:
        """The same place for content that depends on these plain values, too."""
        return Checkpoint(self._owner, self._name, {**self._depends, **depends})

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        if self._owner._dropped:
            return False
        wait = max(self._owner.every_s, self._cost / SHARE)
        return time.monotonic() - self._last >= wait

    def load(self) -> Kept | None:
        """What was kept; None where there is nothing that belongs to this work and is whole."""
        path = self._path
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                if meta.get("format") != FORMAT or meta.get("key") != self._key:
                    log.warning("a checkpoint of %r is of other work and was not used", self._name)
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            written = meta["values"]
            if meta.get("digest") != _digest(tensors, written):
                raise ValueError("its bytes differ from their digest")
            values = json.loads(written)
        except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
            log.warning("a checkpoint of %r is damaged and was not used: %s", self._name, error)
            return None
        return Kept(tensors, values)

    def save(
        self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, place: str = ""
    ) -> bool:
        """Put this in the place of what was kept: whole, or not at all.

        Args:
            tensors: copied to the CPU.
            values: what JSON can hold; NaN and infinities are kept.
            place: how far the work is, for people, such as ``step 120 of 600``.

        Returns:
            Whether it is kept now.
        """
        path = self._path
        if path is None or self._owner._dropped:
            return False
        begin = time.monotonic()
        # Tensors that share their memory may not stand in one file.
        own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        written = json.dumps(dict(values), default=_plain)
        meta = {
            "format": FORMAT,
            "name": self._name,
            "key": self._key,
            "place": place,
            "values": written,
            "digest": _digest(own, written),
        }
        size = len(written) + sum(t.numel() * t.element_size() for t in own.values())
        kept = self._owner._write(path, size, partial(save_file, own, metadata=meta))
        self._last = time.monotonic()
        self._cost = self._last - begin
        return kept

    def remove(self) -> None:
        """Delete what was kept: this part has ended, or its place is to be used anew."""
        path = self._path
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._last = time.monotonic()

    @contextmanager
    def on_close(self, save: Callable[[], object]) -> Iterator[None]:
        """Call `save` where the steps inside are closed before their end."""
        try:
            yield
        except GeneratorExit:
            save()
            raise

    @property
    def _path(self) -> Path | None:
        folder = self._owner.folder
        if folder is None:
            return None
        # No name becomes a part of a path.
        name = hashlib.blake2b(self._name.encode(), digest_size=12).hexdigest()
        return folder / f"{name}{_ENDING}"

    @property
    def _key(self) -> str:
        depends = {**self._depends, "torch": torch.__version__}
        plain = json.dumps(depends, sort_keys=True)
        return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


NOTHING: Final = Checkpoints(None)
"""Keeps nothing."""


def tensor_digest(*tensors: Tensor) -> str:
    """Of the tensors' bytes, for a key: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def sweep(root: Path, older_s: float) -> int:
    """Delete the folders of work that nobody went on with for so long, and what a kill left.

    Args:
        root: the folder of all folders.
        older_s: seconds since their newest file.

    Returns:
        How many folders went.
    """
    gone, now = 0, time.time()
    with suppress(OSError):
        for folder in list(root.iterdir()):
            if not folder.is_dir():
                continue
            for path in folder.glob(".tmp-*"):
                path.unlink(missing_ok=True)
            times = [path.stat().st_mtime for path in folder.glob(f"*{_ENDING}")]
            if now - max(times, default=0.0) > older_s:
                shutil.rmtree(folder, ignore_errors=True)
                gone += 1
    return gone


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file aside, flush it to the disk, rename it: whole or not at all.

    Raises:
        OSError: it cannot be written, or less of the disk would be free then than `KEEP_FREE`.
    """
    _leave_free(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.name)
    os.close(handle)
    aside = Path(name)
    try:
        write(aside)
        with aside.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        _leave_free(path.parent)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text so, its folder with it.

    Raises:
        OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, partial(Path.write_text, data=text, encoding="utf-8"))


def _leave_free(folder: Path) -> None:
    if shutil.disk_usage(folder).free < KEEP_FREE.get():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _plain(value: Any) -> Any:
    """A number of NumPy's as Python's own."""
    return value.item()


def _bytes(tensor: Tensor) -> memoryview:
    if not tensor.numel():  # may have strides that no view allows
        return memoryview(b"")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _digest(tensors: Mapping[str, Tensor], written: str) -> str:
    """Of every stored byte: a flipped bit would leave a number that is wrong."""
    digest = hashlib.blake2b(written.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()
