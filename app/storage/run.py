"""One kept run: what was asked and all that its page showed, as a value and as one file.

The file is safetensors: the arrays, and in its header all the rest as JSON. It names no path and no
class; what may stand in it is what the annotations of a value say (`app.storage.codec`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from app.storage.codec import freeze, thaw
from app.web.export import DAMAGED, LARGEST_FILE, counted
from app.web.words import size
from engine.errors import ArtifactError, LexiscopeError
from engine.trace.result import ModelInfo

FORMAT: Final = 1
_HEADER: Final = "lexiscope"
_PARTS: Final = ("run", "value", "states")


@dataclass(frozen=True)
class Run:
    """What was asked, of which model, and when."""

    kind: str
    """One of the kinds that the app knows."""
    prompt: str
    other: str
    """What stands beside it: another prompt; empty where nothing does."""
    reading: str
    """How it was read or what was done, in words."""
    question: dict[str, tuple[str, ...]]
    """The address of the page that asks it again, without what only changes the view."""
    model: ModelInfo
    versions: dict[str, str]
    created: float = 0.0
    """When it was kept, seconds since 1970."""

    @property
    def id(self) -> str:
        """The same for the same question to the same model, weights and version."""
        asked = sorted((name, list(values)) for name, values in self.question.items())
        facts = [self.model.fingerprint, self.model.dtype, self.model.device]
        text = json.dumps([self.kind, *facts, self.versions.get("lexiscope"), asked])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class KeptStates:
    """The states of a prompt, from which it can be read in other ways."""

    ids: tuple[int, ...]
    raw: NDArray[np.float32]
    """layer × token × residual width."""


@dataclass(frozen=True)
class Kept:
    """A run with all that its page showed."""

    run: Run
    value: Any
    states: KeptStates | None


@dataclass(frozen=True)
class Strip:
    """A cell of a run's last column."""

    label: str
    heat: int
    """0 to 6: how strong its colour is."""
    agrees: bool
    """Whether it names the answer."""


@dataclass(frozen=True)
class RunKind:
    """What may be kept, and how it is looked at."""

    title: str
    """In a list."""
    path: str
    """Of the page that shows it."""
    value: type
    strip: Callable[[Any], Sequence[Strip]]
    """Its last column, the embedding first."""
    check: Callable[[Run, Any], object]
    """Draws it; raises on what cannot be drawn."""


@dataclass(frozen=True)
class RunView:
    """A run as it stands in a list."""

    id: str
    kind: str
    title: str
    prompt: str
    other: str
    reading: str
    model: str
    fingerprint: str
    created: str
    bytes: int
    has_states: bool
    """Whether another prompt can be compared with it."""
    strip: tuple[Strip, ...]
    problem: str
    """Why it cannot be opened; empty where it can."""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON contract."""
        plain = dict(vars(self))
        plain["strip"] = [vars(cell) for cell in self.strip]
        return plain


def pack(runs: Iterable[Kept]) -> bytes:
    """Runs as one file: `unpack` reads it back, bit for bit."""
    arrays: dict[str, NDArray[Any]] = {}
    documents = []
    for n, one in enumerate(runs):
        parts = {}
        for name in _PARTS:
            parts[name], own = freeze(getattr(one, name))
            arrays |= {f"{n}.{name}.{key}": array for key, array in own.items()}
        documents.append(parts)
    text = json.dumps({"format": FORMAT, "runs": documents}, separators=(",", ":"))
    return bytes(safetensors.save(arrays, metadata={_HEADER: text}))


def unpack(body: bytes, kinds: Mapping[str, RunKind]) -> list[Kept]:
    """The runs of a file, each drawn once: what cannot be shown is no run.

    Raises:
        ArtifactError: it is none, damaged, or of another version.
    """
    if len(body) > LARGEST_FILE:
        raise ArtifactError(
            f"the file has {size(len(body))}; at most {size(LARGEST_FILE)} are read."
        )
    try:
        found = list(_unpacked(body, kinds))
        for one in found:
            kinds[one.run.kind].check(one.run, one.value)
    except ArtifactError:
        raise
    except (*DAMAGED, SafetensorError, LexiscopeError, AssertionError) as error:
        raise ArtifactError(
            "this is no file of Lexiscope's history, or it is damaged"
            f" ({type(error).__name__}); export the run again."
        ) from None
    return found


def _unpacked(body: bytes, kinds: Mapping[str, RunKind]) -> Iterator[Kept]:
    length = int.from_bytes(body[:8], "little")
    if not 0 < length <= len(body) - 8:
        raise ValueError("no header")
    header = json.loads(counted(body[8 : 8 + length]))
    document = json.loads(counted(header["__metadata__"][_HEADER].encode()))
    if document["format"] != FORMAT:
        raise ArtifactError("this file is of another version of Lexiscope; update this one.")
    arrays: defaultdict[str, dict[str, NDArray[Any]]] = defaultdict(dict)
    for name, array in safetensors.load(body).items():
        part, _, key = name.rpartition(".")
        arrays[part][key] = array
    for n, parts in enumerate(document["runs"]):
        run, value, states = (partial(thaw, arrays=arrays[f"{n}.{name}"]) for name in _PARTS)
        asked = run(Run, parts["run"])
        held = None if parts["states"] is None else states(KeptStates, parts["states"])
        if held is not None and (held.raw.ndim != 3 or held.raw.shape[1] != len(held.ids)):
            raise ValueError(f"states are {held.raw.shape}")
        yield Kept(asked, value(kinds[asked.kind].value, parts["value"]), held)
