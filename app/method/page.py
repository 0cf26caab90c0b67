"""The Method page: every formula with its meaning, its source in the paper and its code."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response

import engine
from app.method.formulas import ENTRIES
from app.method.terms import TERMS, Term
from app.web.rendering import Page, link, render
from engine.explanation import Explanation
from engine.frames.kinds import FRAMES
from engine.frames.kinds.kind import FrameKind
from engine.reading.geometries import GEOMETRIES
from engine.reading.geometries.geometry import Geometry

router = APIRouter(include_in_schema=False)
PAGE = Page("Method", "/method", router, reference=True)


@dataclass(frozen=True)
class MethodPage:
    """What ``method/page.html`` shows."""

    entries: Mapping[str, Explanation]
    code: Mapping[str, list[tuple[str, str]]]
    """(place in the source, link to it) by formula."""
    frames: tuple[FrameKind, ...]
    """Those with an entry of their own."""
    geometries: tuple[Geometry, ...]
    terms: Mapping[str, Term]


@dataclass(frozen=True)
class SourcePage:
    """What ``method/source.html`` shows."""

    module: str
    file: str
    summary: str
    lines: tuple[str, ...]
    modules: tuple[tuple[str, str], ...]
    """(name, link) of every module that can be read."""


@functools.cache
def modules() -> Mapping[str, str]:
    """The engine's modules and packages, the only source that is shown, each with its file.

    The file is named as people look for it: ``engine/maps/quality.py``.
    """
    found = pkgutil.walk_packages(engine.__path__, f"{engine.__name__}.")
    return {
        one.name.removeprefix("engine."): one.name.replace(".", "/")
        + ("/__init__.py" if one.ispkg else ".py")
        for one in sorted(found, key=lambda one: one.name)
    }


RENAMED: Mapping[str, str] = {
    "maps.compute": "maps.result",
    "maps.projection": "maps.axes",
    "maps.studio": "maps.maker",
    "models": "model.language_model",
    "plain": "json_number",
    "curves": "trace.cell",
    "divergence": "reading.similarity",
    "resolution": "reading.similarity",
    "running": "reading.read",
    "trace_states": "trace.options",
}
"""Modules whose last name is another one than in addresses that people may have kept."""


def module_of(name: str) -> str | None:
    """The module that a short or former name means: the only one whose words hold the name's.

    Words are what dots part, or else dots and underscores; they come in the same order, and the
    last is the last.
    So ``losses`` and ``calibration.losses`` are ``calibration.training.losses``, and
    ``trace_options`` is ``trace.options``.
    """
    if name in RENAMED:
        return RENAMED[name]
    for between in (r"[.]", r"[._]+"):
        wanted = re.split(between, name)
        found = [module for module in modules() if _holds(re.split(between, module), wanted)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _holds(words: list[str], wanted: list[str]) -> bool:
    rest = iter(words)
    return words[-1] == wanted[-1] and all(word in rest for word in wanted)


@functools.cache
def line_of(module: str, name: str) -> int:
    """The line on which a name of an engine module is defined."""
    value: object = importlib.import_module(f"engine.{module}")
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, property):
        value = value.fget
    assert isinstance(value, type) or callable(value)
    found: type | Callable[..., object] = value
    return inspect.getsourcelines(inspect.unwrap(found))[1]


@functools.cache
def source(module: str) -> tuple[str, ...]:
    """The lines of an engine module."""
    return tuple(inspect.getsource(importlib.import_module(f"engine.{module}")).splitlines())


def code_links(request: Request, entry: Explanation) -> list[tuple[str, str]]:
    """Where a formula is computed, as links into our own source."""
    return [
        (
            f"{modules()[module]} · {name}",
            link(request, f"/method/source/{module}") + f"#L{line_of(module, name)}",
        )
        for module, name in entry.code
    ]


@router.get("/method", response_class=HTMLResponse)
async def method_page(request: Request) -> HTMLResponse:
    """Every formula, with its meaning, its source and its code."""
    context = MethodPage(
        entries={entry.key: entry for entry in ENTRIES},
        code={entry.key: code_links(request, entry) for entry in ENTRIES},
        frames=tuple(one for one in FRAMES.values() if one.explanation is not None),
        geometries=tuple(GEOMETRIES.values()),
        terms=TERMS,
    )
    return render(request, "method/page.html", context)


ModuleName = Annotated[str, Path(max_length=60, pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+){0,2}$")]


@router.get("/method/source/{module}", response_class=HTMLResponse)
async def source_page(request: Request, module: ModuleName) -> Response:
    """One module of the engine, with a line to link to for each of its lines."""
    if module not in modules():
        meant = module_of(module)
        if meant is None:
            raise HTTPException(404, "There is no such module in the engine.")
        return RedirectResponse(link(request, f"/method/source/{meant}"), 308)
    lines = source(module)
    summary = (importlib.import_module(f"engine.{module}").__doc__ or "").strip().split("\n")[0]
    every = tuple((name, link(request, f"/method/source/{name}")) for name in modules())
    context = SourcePage(module, modules()[module], summary, lines, every)
    return render(request, "method/source.html", context)
