"""The sheets keep to one scale of type and one of room."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

CSS = Path(__file__).resolve().parents[3] / "static" / "css"
SHEETS = [CSS / f"{name}.css" for name in ("lexiscope", "calibrate", "generate", "map")]
ROOM = re.compile(
    r"(?<![\w-])((?:scroll-)?(?:margin|padding)[a-z-]*|(?:row-|column-)?gap): ([^;}]+)"
)
TYPE = re.compile(r"(?<![\w-])(font-size|font): ([^;}]+)")
STEP = r"var\(--(?:space-\d+|gap)\)"
# Beside a step: nothing, what the layout finds, a share of the text's own size, and an element
# that is put over a point by half its own size.
ROOMS = re.compile(
    rf"^(?:(?:{STEP}|calc\(-1 \* {STEP}\)|clamp\({STEP}, [\d.]+vw, {STEP}\)|-?0|auto|[\d.]+em"
    r"|[\d.]+vh|-1px|-9px)(?:\s+|$))+$"
)
SIZES = re.compile(r"var\(--text-\d+\)|[\d.]+em\b|\b125%|\binherit\b|^0$")


def scales() -> tuple[list[float], list[float]]:
    sheet = SHEETS[0].read_text(encoding="utf-8")
    return (
        [float(x) for x in re.findall(r"--text-\d+: ([\d.]+)rem", sheet)],
        [float(x) for x in re.findall(r"--space-\d+: ([\d.]+)rem", sheet)],
    )


def test_the_scales_rise_by_steps_that_can_be_seen() -> None:
    text, space = scales()
    assert len(text) <= 9
    assert len(space) <= 11
    for scale, least in ((text, 1.06), (space, 1.2)):
        assert all(b / a >= least for a, b in pairwise(scale))


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.stem)
def test_every_size_is_a_step_of_a_scale(sheet: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", sheet.read_text(encoding="utf-8"), flags=re.S)
    rooms = [f"{name}: {value}" for name, value in ROOM.findall(text) if not ROOMS.match(value)]
    sizes = [f"{name}: {value}" for name, value in TYPE.findall(text) if not SIZES.search(value)]
    assert rooms == []
    assert sizes == []
    numbers = set(re.findall(r"var\(--(?:text|space)-\d+\)", text))
    known = {f"var(--{name}-{n})" for name, scale in zip(("text", "space"), scales(), strict=True)
             for n in range(1, len(scale) + 1)}  # fmt: skip
    assert numbers <= known
