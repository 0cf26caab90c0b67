"""The window of a map, polygons and searches."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import Cancelled, OptionError
from engine.maps.border import draw_border, join, window
from engine.maps.selection import find_expression, find_text, inside_polygon


def test_one_far_point_is_at_the_border_and_nobody_is_lost() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((500, 2)).astype(np.float32)
    x[17] = [80, -3]
    kind = np.zeros(500, np.uint8)
    border = draw_border(x, window(x, kind), shared=False)
    assert border.indices.tolist() == [17]
    assert border.count + int((~border.outside).sum()) == 500
    inside = ~border.outside
    np.testing.assert_array_equal(border.clipped[inside], x[inside])
    assert border.clipped[17, 0] == np.float32(border.high[0])
    assert border.clipped[17, 1] == x[17, 1]  # straight to the nearest place of the border
    assert (border.high - border.low < 30).all()
    for axis, (low, high) in enumerate(border.range):
        assert low < border.clipped[:, axis].min()
        assert high > border.clipped[:, axis].max()


def test_a_small_kind_far_from_the_bulk_stays_in_the_window() -> None:
    """A prompt's states lie elsewhere than the bases; only its own outlier is at the border."""
    generator = np.random.default_rng(1)
    bulk = generator.standard_normal((1000, 2))
    path = generator.standard_normal((9, 2)) * 0.5 + [40, 40]
    path[0] = [900, 900]
    x = np.concatenate([bulk, path]).astype(np.float32)
    kind = np.r_[np.zeros(1000), np.full(9, 2)].astype(np.uint8)
    border = draw_border(x, window(x, kind), shared=False)
    assert border.indices.tolist() == [1000]


def test_a_heavy_tail_is_not_taken_for_outliers() -> None:
    generator = np.random.default_rng(2)
    x = np.concatenate(
        [0.01 * generator.standard_normal((3000, 2)), generator.standard_normal((1000, 2))]
    ).astype(np.float32)
    border = draw_border(x, window(x, np.zeros(4000, np.uint8)), shared=False)
    assert border.count < 0.01 * 4000


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_or_equal_points_have_a_window(n: int) -> None:
    x = np.full((n, 2), 3.0, np.float32)
    border = draw_border(x, window(x, np.zeros(n, np.uint8)), shared=True)
    assert border.count == 0
    assert all(low < 3 < high for low, high in border.range)


def test_joined_windows_hold_each() -> None:
    a = (np.array([0.0, 0.0]), np.array([1.0, 1.0]))
    b = (np.array([-1.0, 0.5]), np.array([0.5, 2.0]))
    low, high = join([a, b])
    assert low.tolist() == [-1, 0]
    assert high.tolist() == [1, 2]


def winding(point: np.ndarray, corners: np.ndarray) -> bool:
    """Whether the outline turns round a point: summed angles, another rule than even-odd, equal
    for outlines that do not cross themselves."""
    rays = corners - point
    angles = np.arctan2(rays[:, 1], rays[:, 0])
    steps = np.diff(np.r_[angles, angles[:1]])
    steps = (steps + np.pi) % (2 * np.pi) - np.pi
    return bool(abs(steps.sum()) > np.pi)


def test_a_polygon_selects_what_it_winds_around() -> None:
    generator = np.random.default_rng(3)
    points = generator.uniform(-2, 2, (2000, 2))
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    star = np.c_[np.cos(angle), np.sin(angle)] * np.where(np.arange(24) % 2, 0.6, 1.7)[:, None]
    found = inside_polygon(points, star.tolist())
    wanted = [i for i, p in enumerate(points) if winding(p, star)]
    assert found.tolist() == wanted
    assert 0 < len(wanted) < 2000


@pytest.mark.parametrize(
    "polygon",
    [
        [[0, 0], [1, 1]],
        [[0, 0]] * 501,
        [[0, 0], [1, 1], [float("nan"), 2]],
        [["a", 1]] * 3,
        [[1]] * 3,
    ],
)
def test_a_polygon_that_is_none_is_refused(polygon: list[list[float]]) -> None:
    with pytest.raises(OptionError):
        inside_polygon(np.zeros((3, 2)), polygon)


TEXTS = ["cat", " Cat", "dog", "", "ΣΊΣΥΦΟΣ", "\x00a.b", "category", "a" * 60]


def test_searches_find_what_a_plain_loop_finds() -> None:
    import re

    assert find_text(TEXTS, "CAT").tolist() == [0, 1, 6]
    assert find_text(TEXTS, "σίσυφος").tolist() == [4]
    for expression in ("^ ?[Cc]at$", r"a\.b", "o|Σ", r"\x00"):
        wanted = [i for i, t in enumerate(TEXTS) if re.search(expression, t)]
        assert find_expression(TEXTS, expression).tolist() == wanted
    for bad in ("", "x" * 201):
        with pytest.raises(OptionError):
            find_text(TEXTS, bad)
    for bad in ("", "(", "x" * 201, "*a"):
        with pytest.raises(OptionError):
            find_expression(TEXTS, bad)


def test_a_large_vocabulary_is_searched_whole() -> None:
    """More text than a pipe holds, in and out."""
    texts = [f"word number {i} {'é' * 20}" for i in range(60_000)]
    found = find_expression(texts, r" \d*7 ")
    assert found.tolist() == list(range(7, 60_000, 10))


@pytest.mark.slow
def test_an_expression_that_never_ends_is_stopped() -> None:
    with pytest.raises(OptionError, match="was stopped"):
        find_expression(TEXTS, "(a|a)*(a|a)*(a|a)*$x", seconds=1)


def test_a_search_that_nobody_waits_for_is_stopped() -> None:
    def gone() -> None:
        raise Cancelled("gone")

    with pytest.raises(Cancelled):
        find_expression(TEXTS, "(a|a)*(a|a)*(a|a)*$x", seconds=60, check=gone)
