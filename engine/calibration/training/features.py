"""The last-position states of a task's prompts: computed once, kept on disk by content.

Every state is stored under what it depends on: the model's fingerprint, the layer, the token ids.
So another split, seed, sub-sample or method over the same texts finds it, and work that was
stopped goes on where it was. Files hold up to :data:`CHUNK_TEXTS` texts each and are written
aside, flushed and renamed: a reader sees a whole file or none. A damaged file is computed anew.

Knows nothing about labels.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.calibration.labelled.tasks import SPLITS, Task
from engine.checkpoints import write_aside
from engine.errors import BudgetExceeded, LayerError, NonFiniteError
from engine.model.language_model import LanguageModel
from engine.model.texts import layer_number, text_states
from engine.progress import Progress, Steps, relabelled
from engine.space import LatentSpace

CHUNK_TEXTS: Final = 256
MAX_CACHE_BYTES: Final = 4 * 2**30
"""Of all kept states; beyond it the files that were read longest ago go."""
_FORMAT: Final = "1"
_KEY_BYTES: Final = 16


@dataclass(frozen=True)
class TaskStates:
    """What the model makes of every prompt of a task. On the CPU."""

    layers: tuple[int, ...]
    """Those that were asked for, as numbers in [0, L]."""
    layer: int
    """The one that :attr:`normed` is of: the last that was asked for."""
    lengths: Mapping[str, tuple[int, ...]]
    """Split → tokens of each prompt."""
    seconds: float
    """Spent on it now."""
    computed: int
    """Texts that the model ran for now."""
    cached: int
    """Texts found on the disk."""
    task: str
    """The task's fingerprint."""
    model: str
    """The model's fingerprint."""
    _normed: Mapping[int, Mapping[str, Tensor]]
    _blocks: int

    @property
    def normed(self) -> Mapping[str, Tensor]:
        """Split → n × d float32: the states of :attr:`layer` after the final norm."""
        return self.at(self.layer)

    @property
    def last(self) -> Mapping[str, Tensor]:
        """Split → n × d float32: what the head reads, whichever layers were asked for. The model's
        own answer comes from here."""
        return self.at(self._blocks)

    def of_rows(self, rows: Mapping[str, NDArray[np.int64]], *, task: str) -> TaskStates:
        """The same of some rows of each split, as states of another task."""
        normed = {
            layer: {s: own[torch.from_numpy(rows[s])] for s, own in splits.items()}
            for layer, splits in self._normed.items()
        }
        lengths = {s: tuple(own[i] for i in rows[s]) for s, own in self.lengths.items()}
        return replace(self, task=task, lengths=lengths, _normed=normed)

    def only(self, layer: int) -> TaskStates:
        """The same of one layer, and of the last: what is copied of it stays small."""
        layer = layer if layer >= 0 else layer + self._blocks + 1
        normed = {one: self.at(one) for one in (layer, self._blocks)}
        return replace(self, layers=(layer,), layer=layer, _normed=normed)

    def at(self, layer: int) -> Mapping[str, Tensor]:
        """Split → n × d float32 after the final norm, of any layer that was asked for, or the last.

        Raises:
            LayerError: it was not.
        """
        if layer < 0:
            layer += self._blocks + 1
        if layer not in self._normed:
            raise LayerError(
                f"the states of layer {layer} were not taken; there are"
                f" {', '.join(str(x) for x in self.layers)}."
            )
        return self._normed[layer]


def task_states(
    space: LatentSpace,
    task: Task,
    *,
    layers: Sequence[int] = (-1,),
    cache_dir: Path | None = None,
    batch_tokens: int = 2048,
) -> Steps[TaskStates]:
    """Run every prompt through the model once, or find its state on the disk.

    One step is one batch of the model. Work that was stopped gives the same bits when it goes on.
    Otherwise the result depends on what lay on the disk by rounding only: a state that other work
    had computed in another batch may differ in the last bits.

    Args:
        space: whose model; called on the thread that owns it.
        task: its prompts.
        layers: which layers, −1 is the last; the last of them is what `normed` gives.
        cache_dir: where states are kept; None keeps none.
        batch_tokens: size of a batch.

    Raises:
        LayerError: a layer that is not there.
        NonFiniteError: the model gives NaN or infinity for a prompt.
        BudgetExceeded: the states do not fit the memory budget.
    """
    begin = time.perf_counter()
    model = space.model
    asked = tuple(layer_number(x, model.blocks + 1) for x in layers)
    # The last layer in any case: the same passes give it, and the model's own answer needs it.
    numbers = tuple(dict.fromkeys((*asked, model.blocks)))
    wanted: dict[bytes, tuple[int, ...]] = {}
    for split in SPLITS:
        for ids in task.ids[split]:
            wanted.setdefault(_key(ids), ids)
    _check_memory(model, len(wanted), len(numbers))
    # States that padding had changed are found no more.
    name = model.fingerprint if model.pads else f"{model.fingerprint}-alone"
    store = _Store(cache_dir, name, numbers)
    # Chunks are made of all texts, whatever was found: work that was stopped goes on with the same
    # batches. Those of like length are together, so little is padded.
    order = sorted(wanted, key=lambda key: (len(wanted[key]), key))
    found = store.find(set(wanted))
    missing = {key for key in wanted if any(key not in at for at in found.values())}
    done = len(wanted) - len(missing)
    yield Progress(done, len(wanted), "reading the texts", {"cached": float(done)})
    for start in range(0, len(order), CHUNK_TEXTS):
        keys = [key for key in order[start : start + CHUNK_TEXTS] if key in missing]
        if not keys:
            continue
        steps = text_states(
            model, [wanted[k] for k in keys], layers=numbers, batch_tokens=batch_tokens
        )
        states = yield from relabelled(steps, partial(_further, done, len(wanted)))
        by_layer = {layer: states.at(layer).cpu() for layer in numbers}
        # What lay on the disk for some of the layers stays: its bits never change.
        for layer, at in found.items():
            fresh = [row for row, key in enumerate(keys) if key not in at]
            store.put(layer, [keys[row] for row in fresh], by_layer[layer][fresh])
            for row in fresh:
                at[keys[row]] = by_layer[layer][row]
        done += len(keys)
    if missing:
        store.trim()
    normed: dict[int, dict[str, Tensor]] = {}
    width = model.anatomy.residual_width
    for layer in numbers:
        normed[layer] = {}
        for split in SPLITS:
            rows = [found[layer][_key(ids)] for ids in task.ids[split]]
            raw = torch.stack(rows) if rows else torch.empty(0, width)
            normed[layer][split] = _read_out(model, raw)
            _check_finite(normed[layer][split], task, split, layer)
        yield Progress(done, len(wanted), f"final norm of layer {layer}")
    return TaskStates(
        layers=tuple(dict.fromkeys(asked)),
        layer=asked[-1],
        lengths={s: tuple(len(ids) for ids in task.ids[s]) for s in SPLITS},
        seconds=time.perf_counter() - begin,
        computed=len(missing),
        cached=len(wanted) - len(missing),
        task=task.fingerprint,
        model=model.fingerprint,
        _normed=normed,
        _blocks=model.blocks,
    )


def _further(before: int, total: int, step: Progress) -> Progress:
    return Progress(before + step.done, total, "reading the texts")


def _check_memory(model: LanguageModel, texts: int, layers: int) -> None:
    """Refuse what would fill the memory: states before and after the final norm are held."""
    need = 8 * texts * layers * (model.anatomy.residual_width + model.width)
    free = psutil.virtual_memory().available
    if need > free:
        raise BudgetExceeded(
            f"the states of {texts:,} texts at {layers} layers need {need / 2**30:,.1f} GiB and"
            f" {free / 2**30:,.1f} GiB are free; take fewer texts or layers."
        )


def _read_out(model: LanguageModel, raw: Tensor) -> Tensor:
    device = model.anatomy.weight.device
    parts = [
        model.read_out(raw[start : start + 1024].to(device)).cpu()
        for start in range(0, len(raw), 1024)
    ]
    return torch.cat(parts) if parts else torch.empty(0, model.width)


def _check_finite(states: Tensor, task: Task, split: str, layer: int) -> None:
    bad = (~torch.isfinite(states).all(1)).nonzero().reshape(-1)
    if len(bad):
        line = task.lines[split][int(bad[0])]
        raise NonFiniteError(
            f"the model gives NaN or infinite values for {len(bad):,} texts at layer {layer}, first"
            f" for the one at line {line} ({split}); leave them out or load a sound checkpoint."
        )


def _key(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.asarray(ids, dtype="<i8").tobytes(), digest_size=_KEY_BYTES).digest()


class _Store:
    """States on disk: per model a folder, per layer a folder, in it files of keys and states."""

    def __init__(self, folder: Path | None, fingerprint: str, layers: Sequence[int]) -> None:
        self._layers = layers
        self._root = None if folder is None else folder / "states"
        self._folders: dict[int, Path] = {}
        if self._root is not None:
            self._folders = {x: self._root / fingerprint / f"layer-{x}" for x in layers}

    def find(self, keys: set[bytes]) -> dict[int, dict[bytes, Tensor]]:
        """Layer → key → state, of what is there."""
        return {layer: self._read(self._folders.get(layer), keys) for layer in self._layers}

    @staticmethod
    def _read(folder: Path | None, keys: set[bytes]) -> dict[bytes, Tensor]:
        out: dict[bytes, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")) if folder is not None else ():
            with suppress(OSError, SafetensorError, KeyError, ValueError):
                with safe_open(path, framework="pt") as file:
                    meta = file.metadata() or {}
                    if meta.get("format") != _FORMAT:
                        continue
                    packed = file.get_tensor("keys").numpy().tobytes()
                    size = _KEY_BYTES
                    own = [packed[i : i + size] for i in range(0, len(packed), size)]
                    rows = [i for i, key in enumerate(own) if key in keys and key not in out]
                    if not rows:
                        continue
                    states = file.get_tensor("states")
                    if meta.get("digest") != _digest(packed, states):
                        continue
                os.utime(path)  # read just now, for `trim`
                # Chosen rows are copied, so that a file of many is not held for a few.
                for i, state in zip(rows, states[torch.tensor(rows)].unbind(), strict=True):
                    out[own[i]] = state
        return out

    def put(self, layer: int, keys: Sequence[bytes], states: Tensor) -> None:
        """Keep a chunk of a layer. A folder that cannot be written is no error: it is not kept."""
        folder, rows = self._folders.get(layer), states.contiguous()
        if folder is None or not keys:
            return
        packed = b"".join(keys)
        name = hashlib.blake2b(packed, digest_size=12).hexdigest()
        parts = {"keys": torch.frombuffer(bytearray(packed), dtype=torch.uint8), "states": rows}
        meta = {"format": _FORMAT, "digest": _digest(packed, rows)}
        with suppress(OSError, SafetensorError):
            folder.mkdir(parents=True, exist_ok=True)
            write_aside(folder / f"{name}.safetensors", partial(save_file, parts, metadata=meta))

    def trim(self, limit: int = MAX_CACHE_BYTES) -> None:
        """Delete what was read longest ago until no more than `limit` bytes of states are kept."""
        if self._root is None:
            return
        with suppress(OSError):
            paths = self._root.glob("*/layer-*/*.safetensors")
            files = [(p.stat().st_mtime, p.stat().st_size, p) for p in paths]
            held = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if held <= limit:
                    return
                path.unlink(missing_ok=True)
                held -= size


def _digest(packed: bytes, states: Tensor) -> str:
    """Of every stored byte: a flipped bit would leave a finite number that is wrong."""
    digest = hashlib.blake2b(packed, digest_size=16)
    digest.update(states.contiguous().numpy().data)
    return digest.hexdigest()
