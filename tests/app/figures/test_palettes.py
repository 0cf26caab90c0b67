"""Colours that are told apart whatever eyes see them, and read on every ground, dark as light.

Colour blindness is simulated by Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB;
a distance is CIE 1976 ΔE*ab under D65, of which about 2.3 is just noticeable.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest

from app.figures.theme import DARK, LIGHT, Theme

Vector = npt.NDArray[np.float64]
EYES: Final[dict[str, Vector]] = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
TO_XYZ: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip
CLASSES, STEP, SIDES = 14.0, 5.0, 20.0
"""Least distances: of two classes, of two neighbours on a scale, of a scale's two sides."""
GROUNDS: Final = {id(LIGHT): ("#ffffff", "#f7f7f4", "#f0f1ed"), id(DARK): ("#0f1316", "#171d22")}
BOTH = pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
EACH = pytest.mark.parametrize("eyes", EYES)


def linear(colour: str) -> Vector:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    out: Vector = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return out


def lab(colour: str, eyes: str) -> Vector:
    """CIE L*a*b* of what these eyes see."""
    xyz = TO_XYZ @ np.clip(EYES[eyes] @ linear(colour), 0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def apart(first: str, other: str, eyes: str) -> float:
    return float(np.linalg.norm(lab(first, eyes) - lab(other, eyes)))


def contrast(first: str, other: str) -> float:
    low, high = sorted(float(TO_XYZ[1] @ linear(one)) for one in (first, other))
    return (high + 0.05) / (low + 0.05)


def test_the_simulation_does_what_is_known_of_it() -> None:
    """White stays white; red and green come near for two of them, blue and green for the third."""
    assert lab("#ffffff", "all cones") == pytest.approx([100, 0, 0], abs=1e-3)
    assert lab("#ff0000", "all cones") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    for eyes in EYES:
        assert lab("#ffffff", eyes) == pytest.approx([100, 0, 0], abs=0.1)
    brown, olive = "#826400", "#4a7410"  # once two of our lines
    assert apart(brown, olive, "all cones") > 30
    assert apart(brown, olive, "protanopia") < 5


@BOTH
@EACH
def test_no_two_classes_look_alike(colours: Theme, eyes: str) -> None:
    near = min((apart(a, b, eyes), a, b) for a, b in itertools.combinations(colours.lines, 2))
    assert near[0] >= CLASSES, near


@BOTH
@EACH
def test_a_scale_of_quantities_goes_one_way_in_steps_that_are_seen(
    colours: Theme, eyes: str
) -> None:
    seen = [lab(one, eyes) for one in colours.sequential]
    lightness = [one[0] for one in seen]
    assert lightness in (sorted(lightness), sorted(lightness, reverse=True))
    assert min(apart(a, b, eyes) for a, b in itertools.pairwise(colours.sequential)) >= STEP
    sides = zip(colours.diverging[:3], colours.diverging[::-1][:3], strict=True)
    assert min(apart(below, above, eyes) for below, above in sides) >= SIDES


@BOTH
def test_words_and_lines_are_read_on_every_ground(colours: Theme) -> None:
    """WCAG AA for all, AAA for the text itself, in the dark as in the light."""
    for ground in GROUNDS[id(colours)]:
        assert contrast(colours.ink, ground) >= 7
        for colour in (colours.muted, colours.mark, *colours.lines):
            assert contrast(colour, ground) >= 4.5, (colour, ground)
