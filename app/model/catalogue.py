"""The models that may be opened: what the operator listed, and the one the server started with.

An entry is a name and where the model lies. The web passes the name only, and it is looked up here:
no text from outside becomes a folder or a hub id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from app.settings import Settings
from engine.errors import OptionError, shorten
from engine.loading import SHIPPED, default_source
from engine.model.origin import HUB_FILE, SMOLLM2, name_of

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FORM = (
    "write NAME=FOLDER, NAME=FILE.gguf, NAME=smollm2, NAME=HUB_ID@COMMIT or"
    " NAME=hub:HUB_ID@COMMIT:FILE.gguf, the commit in full (40 hexadecimal digits)"
)


class CatalogueError(OptionError):
    """The list of models cannot be used; the message is a sentence for the operator."""


@dataclass(frozen=True)
class Entry:
    """A model that may be opened."""

    name: str
    """What people call it; one of its own."""
    source: str | None
    """A folder, a GGUF file, a hub id, or the name of a model that is packaged or ships; None: it
    was handed over loaded."""
    revision: str | None
    """The hub's commit, tag or branch; a commit for all but the model of the start."""
    listed: bool = True
    """Whether it is on the operator's list, and not only what the server starts with."""
    trusted: bool = False
    """Whether the setting about remote code holds for it: for the model of the start alone."""
    ready: bool = False
    """Whether it was handed over loaded, so that nobody knows from where to open it again."""

    @property
    def origin(self) -> str:
        """Where it is from, for people: never the folder's place, which is the operator's."""
        if self.ready:
            return "handed over when the server started"
        if self.source is None or self.source == SHIPPED:
            return "ships with Lexiscope"
        if self.source == SMOLLM2.name:
            return f"the package {SMOLLM2.distribution} {SMOLLM2.version}"
        if _is_here(self.source):
            file = self.source.lower().endswith(".gguf")
            return f"a {'GGUF file' if file else 'folder'} on this server"
        if self.source.startswith("hub:"):
            return self.source.removeprefix("hub:")
        return f"{self.source} at {self.revision[:12] if self.revision else 'the newest revision'}"

    def without_place(self, sentence: str) -> str:
        """The sentence with the entry's name for its folder's place, which is the operator's."""
        if self.source is None or not _is_here(self.source):
            return sentence
        folder = Path(self.source).expanduser()
        places = {self.source, str(folder), str(folder.absolute()), str(folder.resolve())}
        for place in sorted(places, key=len, reverse=True):
            sentence = sentence.replace(shorten(place, 80), self.name).replace(place, self.name)
        return sentence

    def settings(self, settings: Settings) -> Settings:
        """The server's settings with this model in them."""
        return settings.model_copy(
            update={
                "model": self.source,
                "revision": self.revision,
                "trust_remote_code": settings.trust_remote_code and self.trusted,
            }
        )


@dataclass(frozen=True)
class Catalogue:
    """All entries by name."""

    entries: Mapping[str, Entry]
    start: Entry
    """The one that the server opens when it starts."""

    def get(self, name: str) -> Entry | None:
        """The entry of that name, or None."""
        return self.entries.get(name)


def catalogue_of(settings: Settings, ready_name: str | None = None) -> Catalogue:
    """The list of models that the settings give.

    Args:
        settings: ``models`` is the list; ``model`` is one of its names, or a folder or hub id that
            is listed as well, under a name of its own.
        ready_name: of a model that is handed over loaded; it is the one of the start.

    Raises:
        CatalogueError: an entry that is not of the form, or a name that stands twice.
    """
    entries: dict[str, Entry] = {}
    for text in settings.models:
        entry = _entry(text)
        if entry.name in entries:
            raise CatalogueError(
                f"The name {entry.name} stands twice in LEXISCOPE_MODELS; give each model a name "
                "of its own."
            )
        entries[entry.name] = entry
    start = _start(settings, entries, ready_name)
    if start.source == SMOLLM2.name and settings.model is None and SHIPPED not in entries:
        entries[SHIPPED] = Entry(SHIPPED, SHIPPED, None)
    return Catalogue(MappingProxyType({start.name: start, **entries, start.name: start}), start)


def absent(settings: Settings) -> list[str]:
    """A sentence for each folder of the list that is not there now; it may come later."""
    return [
        f"The folder of the model {entry.name} in LEXISCOPE_MODELS is not there: {entry.source}."
        for entry in map(_entry, settings.models)
        if entry.source and _is_here(entry.source)
        and not Path(entry.source).expanduser().exists()
    ]  # fmt: skip


def _start(settings: Settings, entries: Mapping[str, Entry], ready_name: str | None) -> Entry:
    source, revision = settings.model, settings.revision
    if source is None and ready_name is None:
        source = default_source()
    for entry in entries.values() if ready_name is None else ():
        if entry.name == source or (entry.source, entry.revision) == (source, revision):
            return replace(entry, trusted=True)
    name = as_name(ready_name or _shown(source))
    if name in entries:
        raise CatalogueError(
            f"The model that the server starts with is called {name}, and so is another one in "
            "LEXISCOPE_MODELS; name that one otherwise."
        )
    return Entry(name, source, revision, listed=False, trusted=True, ready=ready_name is not None)


def _shown(source: str | None) -> str:
    if source is None:
        return SHIPPED
    if source == SMOLLM2.name:
        return name_of(Path(SMOLLM2.file))
    return Path(source).expanduser().resolve().name if _is_here(source) else source


def as_name(text: str) -> str:
    """A text as the name of an entry: its last part, other signs than a name has as hyphens."""
    last = text.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-")[:64] or "model"


def _entry(text: str) -> Entry:
    name, equals, source = (part.strip() for part in text.partition("="))
    if not equals or not source:
        raise CatalogueError(f"The entry {_short(text)} of LEXISCOPE_MODELS is no model; {_FORM}.")
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise CatalogueError(
            f"The name {_short(name)} in LEXISCOPE_MODELS cannot be used; a name has 1 to 64 "
            "letters, digits, dots, hyphens and underscores."
        )
    hub_id, at, commit = source.rpartition("@")
    if source == SMOLLM2.name or _is_here(source):
        return Entry(name, source, None)
    if (file := HUB_FILE.fullmatch(source)) and _COMMIT.fullmatch(file[2].lower()):
        return Entry(name, source, file[2].lower())
    if not at or not _HUB_ID.fullmatch(hub_id) or not _COMMIT.fullmatch(commit.lower()):
        raise CatalogueError(
            f"The model {name} in LEXISCOPE_MODELS is neither a folder that is there nor a hub id "
            f"with its commit; {_FORM}."
        )
    return Entry(name, hub_id, commit.lower())


def _is_here(source: str) -> bool:
    """Whether a source is meant as a place on this machine: written as a path, or there."""
    if source.startswith((".", "/", "~")) or "\\" in source:
        return True
    try:
        return Path(source).exists()
    except (OSError, ValueError):
        return False


def _short(text: str) -> str:
    seen = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:40])
    return repr(seen)
