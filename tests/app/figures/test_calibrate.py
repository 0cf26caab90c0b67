"""The geometry of the Calibrate page's figures, and what its numbers are turned into."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from calibrate_fixture import ablation, comparison, competitors, history
from hypothesis import given
from hypothesis import strategies as st

from app.calibrate.result import learning, story
from app.calibrate.standings import by_words
from app.calibrate.tables import ablation as ablation_table
from app.calibrate.tables import competitors as competitor_table
from app.calibrate.words import between, excerpt, points, share, when
from app.figures.calibrate import LINES, Series, chart, dot, label_colour, movement, ticks
from app.jobs.panel import curves
from app.maps.files.drawing import LINES as MAP_LINES
from app.web.words import seconds, size


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    """At least three, all inside, evenly spaced by 1, 2 or 5 times a power of ten."""
    high = low + span
    if high - low < 1e-9 * max(1.0, abs(low)):
        return
    found = ticks(low, high)
    assert len(found) >= 3
    slack = 1e-6 * (high - low)
    assert all(low - slack <= t <= high + slack for t in found)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) - min(steps) <= 1e-6 * max(steps) + 1e-9 * max(map(abs, found))
    digits = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6)
    assert min(abs(digits - one) for one in (1, 2, 5, 10)) < 1e-3


def test_ticks_of_nothing_are_none() -> None:
    assert ticks(1.0, 1.0) == []
    assert ticks(2.0, 1.0) == []
    assert ticks(0.0, math.nan) == []


def test_a_value_stands_where_it_belongs() -> None:
    """Percent from the left, cut at the ends of the axis, and the cut is said."""
    one = dot(0.25, 0.1, 0.5)
    assert (one.at, one.low, one.high, one.clipped) == ("25", "10", "50", False)
    assert dot(-0.5, -0.75, 0.0, start=-1.0).at == "25"
    beyond = dot(1.2, 0.9, 1.5)
    assert (beyond.at, beyond.high, beyond.clipped) == ("100", "100", True)


def test_a_curve_runs_where_its_values_are() -> None:
    """Positions are linear in the values, upward is smaller, and a gap is left out."""
    one = chart(
        [Series("a", [0, 1, 2, 3, 4], [0.0, 0.5, None, math.nan, 1.0], dotted=True)],
        label="", x_title="", y_title="", y_range=(0.0, 1.0),
    )  # fmt: skip
    assert one.lines[0].path == "0,100 25,50 100,0"
    assert len(one.lines[0].dots) == 3
    assert [t.text for t in one.x_ticks] == ["0", "1", "2", "3", "4"] or len(one.x_ticks) >= 3


def test_a_band_goes_up_one_side_and_down_the_other() -> None:
    one = chart(
        [Series("a", [0, 1], [0.5, 0.5], [0.25, 0.25], [0.75, 1.0])],
        label="", x_title="", y_title="", y_range=(0.0, 1.0),
    )  # fmt: skip
    assert one.lines[0].band == "0,25 100,0 100,75 0,75"


def test_a_chart_of_one_point_is_drawn() -> None:
    one = chart([Series("a", [3.0], [0.4])], label="", x_title="", y_title="")
    assert one.lines[0].path
    assert "nan" not in one.lines[0].path


@pytest.mark.parametrize("shape", [1.0, 4 / 3, 2.0])
def test_the_map_has_one_scale_for_everything(shape: float) -> None:
    """Distances on the picture are in the same proportion as in the plane: both directions,
    before and after, and the anchors."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(0, 1, (30, 2)), rng.normal(3, 2, (30, 2))
    anchors = rng.normal(0, 4, (3, 2))
    made = movement(
        before, after, anchors, labels=[i % 3 for i in range(30)], names=["a", "b", "c"],
        right_before=[True] * 30, right_after=[False] * 30, shape=shape,
    )  # fmt: skip
    drawn = [
        *((float(p.x0) * shape, -float(p.y0)) for p in made.points),
        *((float(p.x1) * shape, -float(p.y1)) for p in made.points),
        *((float(a.x) * shape, -float(a.y)) for a in made.anchors),
    ]
    plane = np.concatenate([before, after, anchors])
    picture = np.asarray(drawn)
    ratio = np.linalg.norm(picture[1:] - picture[0], axis=1)
    ratio /= np.linalg.norm(plane[1:] - plane[0], axis=1)
    assert ratio == pytest.approx(ratio[0], rel=0.02)  # positions are written to 0.01 percent
    assert all(0 <= float(v) <= 100 for p in made.points for v in (p.x0, p.y0, p.x1, p.y1))
    assert all(p.right0 and not p.right1 for p in made.points)


def test_a_large_map_is_thinned_evenly() -> None:
    rows = np.arange(2000.0)[:, None].repeat(2, axis=1)
    made = movement(
        rows, rows, rows[:2], labels=[0] * 2000, names=["a", "b"], right_before=[True] * 2000,
        right_after=[True] * 2000, most=100,
    )  # fmt: skip
    assert len(made.points) == 100
    assert made.count == 2000
    gaps = np.diff([p.row for p in made.points])
    assert gaps.max() - gaps.min() <= 1


def test_numbers_are_written_as_people_read_them() -> None:
    assert share(0.8263) == "83\u202f%"
    assert share(None) == share(math.nan) == "–"
    assert points(-0.0123) == "−1.2"
    assert points(1e-9) == points(-1e-9) == "±0.0"
    assert between({"low": 0.5, "high": 0.75}) == "50 to 75\u202f%"
    assert between({"value": 0.5}) == ""
    assert [seconds(x) for x in (0.25, 12.34, 150.0, 7200.0)] == [
        "250 ms", "12.3 s", "2 min 30 s", "2.0 h",
    ]  # fmt: skip
    assert [size(x) for x in (12, 2048, 3.5 * 2**20, 20 * 2**30)] == [
        "12 B", "2.0 KiB", "3.5 MiB", "20 GiB",
    ]  # fmt: skip
    assert when("2026-11-03T09:05:06+00:00") == "3 November 2026, 09:05 UTC"
    assert excerpt("a\n  b") == "a b"
    assert excerpt("x" * 300, 10) == "x" * 9 + "…"


# ---- what the comparison is made into -----------------------------------------------------------


def changed(**parts: object) -> dict[str, object]:
    return {**comparison(), **parts}


def levels(found: dict[str, object]) -> dict[str, str]:
    told = story(found, lambda prompt: None)
    return {check.question: check.level for check in told.checks}


def part(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def test_a_gain_is_only_called_one_when_its_interval_is_above_zero() -> None:
    for low, high, level in ((0.1, 0.3, "ok"), (-0.1, 0.3, "note"), (-0.3, -0.1, "fail")):
        gain = part((low + high) / 2, low, high)
        own = {**comparison()["baseline"], "difference": gain}
        assert levels(changed(baseline=own))["Did it help?"] == level
        old = changed(difference={"accuracy": gain})  # saved before there was a baseline
        del old["baseline"], old["thresholds"]
        assert levels(old)["Did it help?"] == level


def test_the_gain_is_over_the_best_without_training_and_names_it() -> None:
    """From 38 to 82 % is no gain where the model says 80.5 itself; below chance is said."""
    own = {"name": "logits", "title": "the model's own answer", "accuracy": part(0.8, 0.7, 0.9),
           "difference": part(0.01, -0.04, 0.06)}  # fmt: skip
    told = story(changed(baseline=own), lambda prompt: None)
    first = told.checks[0]
    assert (first.level, first.answer) == ("note", "Not beyond the model's own answer")
    assert "the model's own answer 80" in first.figure
    for gap, level in ((part(0.3, 0.2, 0.4), "ok"), (part(0.0, -0.1, 0.1), "note")):
        alone = {"accuracy": part(0.8, 0.7, 0.9), "difference": gap}
        gained = {**own, "difference": part(0.3, 0.2, 0.4)}
        found = story(changed(thresholds=alone, baseline=gained), lambda prompt: None).checks[0]
        assert found.level == level
        assert ("removal of a bias" in found.note) == (level == "note")
    below = story(changed(chance=0.99), lambda prompt: None)
    assert below.checks[0].answer == "No: it reads below chance"
    assert all("below chance" in row.what for row in below.standings)


def test_untaught_words_and_left_out_classes_are_told() -> None:
    """The card's answer follows the intervals; words can be edited; the table has each class."""
    words = ["globe", "football", "trade", "device"]
    sets = [{"words": words, "cosine": 0.4, "before": 0.3, "after": 0.8}]
    measured = {
        "sets": sets, "before": part(0.3, 0.2, 0.4), "after": part(0.8, 0.7, 0.9), "taught": 0.82,
        "random": part(0.3, 0.2, 0.4), "shuffled": None, "chance": 0.5, "note": "Of 9.",
        "random_difference": part(0.5, 0.4, 0.6), "sentence": "It reads.",
    }  # fmt: skip
    question = "Do the bases matter?"
    for gap, after, level in (
        (part(0.5, 0.4, 0.6), part(0.8, 0.7, 0.9), "ok"),
        (part(0.0, -0.1, 0.1), part(0.8, 0.7, 0.9), "note"),
        (part(-0.2, -0.3, -0.1), part(0.8, 0.7, 0.9), "fail"),
        (None, part(0.8, 0.7, 0.9), "ok"),
        (part(0.5, 0.4, 0.6), part(0.55, 0.45, 0.6), "fail"),
    ):
        one = {**measured, "random_difference": gap, "after": after}
        assert levels(changed(untaught=one))[question] == level
        # Whatever other words say, that random directions learn the taught ones has its sentence.
        for low, plain in ((-0.1, True), (0.1, False)):
            gained = part(0.2, low, 0.3)
            random = {"name": "random-bases", "title": "R", "accuracy": part(0.7, 0.6, 0.8),
                      "difference": gained, "at_chance": False}  # fmt: skip
            told = story(changed(untaught=one, controls=[random]), lambda prompt: None)
            assert ("meaning was not why" in told.checks[-1].note) == plain
    shown = by_words(measured, ["world", "sports", "business", "technology"])
    assert shown.given.splitlines()[:2] == ["world = globe", "sports = football"]
    assert [row.name for row in shown.standings] == [
        "Before", "After calibration", "The taught words", "Trained to random bases",
    ]  # fmt: skip
    assert shown.sets == ((", ".join(words), "0.40", share(0.3), share(0.8)),)
    classes = [{"label": "world", "before": 0.6, "after": 0.7, "random": 0.5}]
    means = {name: part(0.6, 0.5, 0.7) for name in ("before", "after", "random")}
    told = story(changed(left_out={"classes": classes, "sentence": "S.", **means}), lambda _: None)
    assert told.left_out is not None
    assert told.left_out.rows[0] == ("world", "0.60", "0.70", "0.50")
    assert told.left_out.rows[-1][0] == "mean"
    assert story(comparison(), lambda _: None).left_out is None


def test_several_splits_take_the_place_of_one() -> None:
    """Headline, the first card and the last go by the mean over all splits, and say so."""
    splits = {
        "seeds": [42, 43, 44], "tested": 31, "baseline": "the nearest label basis",
        "untrained": part(0.4, 0.3, 0.5), "after": part(0.42, 0.3, 0.55),
        "difference": part(0.02, -0.1, 0.14), "per_split": [[0.4, 0.5], [0.4, 0.3], [0.4, 0.46]],
        "untaught": part(0.5, 0.4, 0.6), "untaught_random": part(0.45, 0.3, 0.6),
        "untaught_difference": part(0.05, -0.1, 0.2), "sentence": "Over 3 splits.",
    }  # fmt: skip
    told = story(changed(splits=splits), lambda prompt: None)
    assert (told.headline.before, told.headline.after) == (share(0.4), share(0.42))
    assert "3 splits" in told.headline.what
    assert "31 texts" in told.headline.what
    assert "the nearest label basis" in told.headline.baseline
    first, last = told.checks[0], told.checks[-1]
    assert (first.level, first.answer) == ("note", "Not beyond the nearest label basis")
    assert "over 3 splits" in first.figure
    assert last.level == "note"
    assert "over 3 splits" in last.figure
    assert told.splits is not None
    assert told.splits.rows[1] == ("43", share(0.4), share(0.3))
    assert story(comparison(), lambda _: None).splits is None


def test_figures_of_a_start_are_marked_wherever_they_stand() -> None:
    """Best epoch 0: above the sentence, beside the figure, at the curve, in the tables."""
    warning = "No epoch lowered the validation loss (best epoch 0)."
    found = changed(warning=warning, sentence=f"{warning} Calibration reads 9 %.")
    found["controls"] = [{**c, "kept_start": 1, "runs": 2} for c in found["controls"]]  # type: ignore[attr-defined]
    told = story(found, lambda prompt: None)
    assert told.warning == warning
    assert told.sentence == "Calibration reads 9 %."
    marked = [row.name for row in told.standings if "best epoch 0" in row.what]
    assert marked == ["After calibration", "Shuffled labels", "Random bases"]
    curve = learning(history(5), 0, 1.0)
    assert curve is not None
    assert "kept its start" in curve.sentence
    table = competitors()
    table["methods"][7]["tasks"]["topics"]["kept_start"] = 1
    rows = [r for _, _, group in competitor_table(table, "").groups for r in group]
    assert [r.name for r in rows if r.mark] == ["Calibration (cosine)"]
    grid = ablation()
    grid["rows"][2]["kept_start"] = 3
    made = ablation_table(grid)
    assert made.marked
    assert sum(c.text.endswith("*") for _, _, cells in made.rows for c in cells if c) == 1
    assert not ablation_table(ablation()).marked


def test_the_linear_probe_is_only_beaten_beyond_the_interval() -> None:
    for low, high, text in (
        (0.01, 0.1, "Yes, better"),
        (-0.1, 0.1, "No difference can be told"),
        (-0.1, -0.01, "No: the probe is better"),
    ):
        probe = {"accuracy": part(0.8, 0.7, 0.9), "difference": part(0.0, low, high)}
        told = story(changed(probe=probe), lambda prompt: None)
        assert next(c.answer for c in told.checks if "probe" in c.question) == text


def test_the_controls_are_named_when_they_say_no() -> None:
    """A control above chance, and random bases that do as well, stand on top of the page."""
    shuffled = {"name": "shuffled-labels", "title": "S", "accuracy": part(0.7, 0.6, 0.8)}
    random = {"name": "random-bases", "title": "R", "accuracy": part(0.7, 0.6, 0.8)}
    for gap, chance, level in (
        (part(0.3, 0.2, 0.4), True, "ok"),
        (part(0.3, 0.2, 0.4), False, "note"),
        (part(0.0, -0.1, 0.1), False, "fail"),
    ):
        one = {**shuffled, "difference": gap, "at_chance": chance}
        assert levels(changed(controls=[one]))["Better than shuffled labels?"] == level
    for gap, level in (
        (part(0.2, 0.1, 0.3), "ok"),
        (part(0.0, -0.1, 0.1), "note"),
        (part(-0.2, -0.3, -0.1), "fail"),
    ):
        one = {**random, "difference": gap, "at_chance": False}
        assert levels(changed(controls=[one]))["Do the bases matter?"] == level


def test_the_story_loses_no_text() -> None:
    """Confusions, flips and the map count the same texts as the rows."""
    found = comparison()
    told = story(found, lambda prompt: "/there")
    rows = found["rows"]
    for matrix, key in zip(told.confusions, ("before", "after"), strict=True):
        counted = sum(int(cell.text) for _, cells in matrix.rows for cell in cells)
        right = sum(row[f"predicted_{key}"] == row["label"] for row in rows)
        assert counted == len(rows)
        assert matrix.right_text == f"{right} of {len(rows)} right"
        diagonal = sum(int(c.text) for _, cells in matrix.rows for c in cells if c.right)
        assert diagonal == right
    for flips in told.flips:
        assert flips.count == sum(row["flip"] == flips.key for row in rows)
        shown = [row for row in rows if row["flip"] == flips.key]
        shown.sort(key=lambda row: -row["probability_after"])
        assert [one.text for one in flips.rows] == [r["text"] for r in shown[: len(flips.rows)]]
        assert all(one.href == "/there" for one in flips.rows)
    assert told.map is not None
    assert [p.row for p in told.map.figure.points] == list(range(len(rows)))
    assert [one["text"] for one in told.map.texts] == [row["text"] for row in rows]


def test_what_gets_worse_is_marked() -> None:
    """An error that falls is better; an accuracy that falls is worse."""
    found = comparison()
    worse = {**found, "before": found["after"], "after": found["before"]}

    def marks(one: dict[str, object]) -> dict[str, bool]:
        told = story(one, lambda prompt: None)
        return {row.name: row.worse for _, rows in told.groups for row in rows}

    good, bad = marks(found), marks(worse)
    for name in ("accuracy", "macro-F1", "calibration error", "cosine to the own basis"):
        assert not good[name]
        assert bad[name]


def test_the_curve_of_a_training_names_the_kept_epoch() -> None:
    told = learning(history(60), 41, 3.4)
    assert told is not None
    assert "epoch 41" in told.sentence
    assert "60 epochs" in told.sentence
    assert told.loss.mark == f"{100 * 41 / 60:.2f}"
    assert [line.name for line in told.loss.lines] == ["training", "validation"]
    assert learning([], None, 0.0) is None
    first, _ = curves([{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": 0.5}])
    assert len(first.lines[0].path.split()) == 2
    assert first.lines[1].path == ""


def test_every_method_stands_in_the_table_or_says_why_not() -> None:
    found = competitors()
    made = competitor_table(found, "calibration-sm")
    every = [row for _, _, rows in made.groups for row in rows]
    names = [row.name for row in every]
    titles = [m["title"] for m in found["methods"] if m["tasks"]]
    assert sorted(names) == sorted(titles)
    assert [row.name for row in every if row.this] == ["Calibration (cosine)"]
    assert made.left_out == ("IA3: the package peft is not installed.",)
    assert [level for level, _, _ in made.findings] == ["ok", "note", "fail"]
    _, control, _ = made.groups[-1]
    assert control


def test_the_ablation_table_holds_each_combination_where_it_belongs() -> None:
    found = ablation()
    made = ablation_table(found)
    assert len(made.rows) * len(made.losses) * len(made.readings) == len(found["rows"])
    flat = [cell for _, _, cells in made.rows for cell in cells]
    values = sorted(share(row["accuracy"]["value"]) for row in found["rows"])
    assert sorted(cell.text for cell in flat if cell) == values
    best = max(row["accuracy"]["value"] for row in found["rows"])
    assert {cell.text for cell in flat if cell and cell.best} == {share(best)}
    assert [control for _, control, _ in made.rows].count(True) == 1


def test_a_label_has_the_colour_that_it_has_on_the_map() -> None:
    """The pages that show labelled texts agree; the eighth label takes the one that is left."""
    assert tuple(label_colour(i) for i in range(len(MAP_LINES))) == MAP_LINES
    assert sorted(label_colour(i) for i in range(LINES)) == list(range(LINES))
    assert label_colour(LINES) == label_colour(0)
