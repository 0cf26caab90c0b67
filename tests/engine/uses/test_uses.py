"""What bases are for: verdicts of planted numbers, measured in parts, kept for each model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap
from tiny_models import Folders, Spaces

import engine
from engine.errors import ArtifactError, OptionError
from engine.frames.kinds import key_of
from engine.interventions.doses import Dose, Doses, Interval, measure_doses
from engine.interventions.many import Case, facts
from engine.progress import Steps, drain
from engine.trace.dial import DialCurve, DialRow, neighbours, wilson
from engine.trace.fields import FieldWords, field_words
from engine.uses import again, measure
from engine.uses.again import measured_again
from engine.uses.findings import QUESTIONS, findings
from engine.uses.measure import Uses, known_uses, measure_uses, predict_uses
from engine.uses.shipped import Made, Shipped, find_shipped, write_shipped
from engine.uses.words import FrameWords, Words


def share(value: float, wide: float = 0.05) -> Interval:
    return Interval(value, value - wide, value + wide)


def push(frame: str, turned: float, rest: float, less: float | None = None) -> Dose:
    none = None if less is None else share(less)
    apart = None if less is None else share(rest - 0.5, 0.01)
    return Dose(frame, 5, 0.3, 99, share(turned), turned, 1.0, share(rest), none, apart)


def swap(frame: str, layer: int, turned: float) -> Dose:
    return replace(push(frame, turned, 0.1), layer=layer, dose=None)


def doses(bases: float, less: float, random: float, rest: float = 0.5) -> Doses:
    pushes = (push("output", bases, rest, less), push("head", bases - less, 0.5),
              push("random", random, 0.2, 0.0))  # fmt: skip
    swaps = [swap(frame, layer, 0.9 if (frame, layer) == ("output", 0) else 0.0)
             for frame in ("output", "random") for layer in (0, 1)]  # fmt: skip
    return Doses(165, 99, {}, (5,), 5, 0.3, pushes, tuple(swaps))


def curve(bases: float, head: float, random: float) -> DialCurve:
    def row(alpha: float | None, value: float) -> DialRow:
        at, less = share(value), share(value - head, 0.03)
        paired = (less.value, less.low, less.high)
        return DialRow(
            alpha, (value,), ((at.low, at.high),), None, value, (at.low, at.high), paired
        )

    return DialCurve("m", 192, (row(0.0, head), row(1.0, bases), row(None, random)), 50, 0.1)


def words(bases: float, head: float, random: float) -> Words:
    rows = (FrameWords("output", share(0.9), share(bases), None),
            FrameWords("head", share(0.9), share(head), share(bases - head)),
            FrameWords("random", share(0.9), share(random), share(bases - random)))  # fmt: skip
    return Words("Sentiment", 200, 150, 0.5, (("good", "bad"),), rows)


@pytest.mark.parametrize(
    ("uses", "verdicts"),
    [
        (
            Uses("m", curve(0.4, 0.2, 0.0), doses(0.8, 0.2, 0.0, 0.3), words(0.9, 0.7, 0.5)),
            {"read": "better than head rows", "name": "better than head rows",
             "act": "better than head rows", "spare": "yes, less than head rows",
             "swap": "at the embedding only", "keep": "better than head rows"},
        ),
        (
            Uses("m", curve(0.2, 0.4, 0.0), doses(0.8, 0.0, 0.0), words(0.9, 0.9, 0.5)),
            {"read": "worse than head rows", "name": "worse than head rows",
             "act": "yes, no better than head rows", "spare": "as much as head rows",
             "swap": "at the embedding only", "keep": "yes, no better than head rows"},
        ),
        (
            Uses("m", curve(0.42, 0.4, 0.0)),
            {"read": "not told apart from head rows", "name": "yes, no better than head rows",
             "act": ""},
        ),
        (  # too near to be told apart by intervals that overlap, apart word by word
            Uses("m", curve(0.44, 0.4, 0.0)),
            {"read": "not told apart from head rows", "name": "better than head rows"},
        ),
        (
            Uses("m", curve(0.2, 0.1, 0.15), doses(0.1, 0.1, 0.1), words(0.9, 0.6, 0.9)),
            dict.fromkeys(("read", "name", "act", "keep"), "no more than chance"),
        ),
        (
            Uses("m", None, doses(0.8, -0.1, 0.0, 0.9), words(0.52, 0.6, 0.5)),
            {"read": "", "act": "worse than head rows", "spare": "no, more than head rows",
             "keep": "no more than chance"},
        ),
    ],
)  # fmt: skip
def test_a_verdict_is_what_the_controls_leave_of_it(uses: Uses, verdicts: dict[str, str]) -> None:
    found = {one.key: one for one in findings(uses)}
    assert list(found) == list(QUESTIONS)
    assert {key: found[key].verdict for key in verdicts} == verdicts
    assert all(bool(one.verdict) == bool(one.sentence) for one in found.values())


@pytest.mark.parametrize(
    ("alpha", "ridge", "value", "ending"),
    [
        (0.2, None, 0.9, "of 3 places of the dial is α 0.2 with 90.0 % (85.0 to 95.0), more than"
                         " bases and head rows."),
        (1.0, 0.1, 0.75, "of 3 places of the dial is α 1 with ridge 0.1 with 75.0 % (70.0 to 80.0),"
                         " more than head rows."),
        (0.2, None, 0.5, "; no other of 3 places of the dial does better."),
    ],
)  # fmt: skip
def test_the_dials_best_place_is_named_with_what_it_can_be_told_from(
    alpha: float, ridge: float | None, value: float, ending: str
) -> None:
    base = curve(0.7, 0.6, 0.0)
    at = share(value)
    ends = (at.low, at.high)
    more = DialRow(alpha, (value,), (ends,), ridge, value, ends)
    found = {
        one.key: one.sentence for one in findings(Uses("m", replace(base, rows=(*base.rows, more))))
    }
    assert found["read"].endswith(ending)
    assert found["name"].endswith(ending)


def test_a_best_place_whose_interval_meets_both_ends_is_told_from_neither() -> None:
    (said,) = (one.sentence for one in findings(Uses("m", curve(0.68, 0.7, 0.0)))
               if one.key == "name")  # fmt: skip
    assert said.endswith("is α 0 with 70.0 % (65.0 to 75.0), not told apart from either end.")


def test_parts_are_kept_as_they_end_and_over_a_restart(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> engine.LatentSpace:
        return engine.load(str(folders["llama"]), device="cpu", cache_dir=tmp_path, threads=1)

    def no_words(space: engine.LatentSpace) -> Steps[Words]:
        raise OptionError("no words here.")
        yield

    space = opened()
    ids = space.tokenize("The cat sat").ids
    order = space.model.logits(ids)[-1].argsort(descending=True)
    monkeypatch.setattr(measure, "facts", lambda: (Case("The cat sat", f"#{int(order[2])}"),))
    monkeypatch.setitem(measure.PARTS, "words", no_words)  # type: ignore[misc]
    assert known_uses(space) == Uses(space.model.fingerprint)
    whole = predict_uses(space)
    steps = measure_uses(space)
    for step in steps:
        if step.note.startswith("part 2"):
            break
    steps.close()
    half = known_uses(space)
    assert half.dial is not None
    assert 0 < predict_uses(space) < whole
    found = drain(measure_uses(space))
    assert found.doses is not None
    assert found.doses.used == 1
    assert found.lacking == {"words": "no words here."}
    assert found.missing == ()
    assert predict_uses(space) == pytest.approx(space.predict_work(0, 0))

    again = known_uses(opened())
    assert again == found
    (kept,) = tmp_path.glob("uses-*.json")
    kept.write_text(kept.read_text().replace('"share"', '"shard"'))
    damaged = known_uses(opened())
    assert (damaged.doses, damaged.missing) == (None, ("doses", "words"))


def test_neighbours_are_paired_word_by_word(spaces: Spaces) -> None:
    """By hand: each word's share in a frame less its share by head rows, drawn together."""
    space = spaces["llama"]
    ids = tuple(range(20, 50))
    words = FieldWords(ids, tuple(n // 5 for n in range(30)))
    frames = [space.frame(name) for name in ("output", "head")]
    own = []
    for frame in frames:
        b = frame.vectors(ids).double()
        unit = b / b.norm(dim=1, keepdim=True)
        cosine = unit @ unit.T
        own.append([
            sum(words.fields[j] == words.fields[i] for j in sorted(
                (j for j in range(30) if j != i), key=lambda j, i=i: -float(cosine[i, j]))[:4]) / 4
            for i in range(30)
        ])  # fmt: skip
    share, interval, less = neighbours(*frames, words)
    assert share == pytest.approx(np.mean(own[0]))
    assert interval is not None
    assert less is not None
    apart = np.subtract(*own)
    assert less[0] == pytest.approx(apart.mean())
    wanted = bootstrap((apart,), np.mean, n_resamples=4000, rng=1, method="percentile")
    assert less[1:] == pytest.approx(wanted.confidence_interval, abs=0.02)
    assert neighbours(frames[1], frames[1], words)[2] == (0.0, 0.0, 0.0)


def test_what_ships_stands_in_until_it_is_measured_here(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound to the fingerprint; a part that was measured here goes before; what ships is never
    written down as measured here."""
    space = engine.load(str(folders["llama"]), device="cpu", cache_dir=tmp_path, threads=1)
    model = space.model.fingerprint
    made = Made("2026-01-01", "cpu", "float32", 1, 9.0, {"torch": "2"})
    planted = Shipped(
        model, made, replace(curve(0.4, 0.2, 0.0), model=model), doses(0.8, 0.2, 0.0, 0.3),
        words(0.9, 0.7, 0.5),
    )  # fmt: skip
    monkeypatch.setattr("engine.uses.shipped.FOLDER", tmp_path)
    find_shipped.cache_clear()
    try:
        assert known_uses(space) == Uses(model)
        write_shipped(planted)
        find_shipped.cache_clear()
        found = known_uses(space)
        assert (found.shipped, found.made, found.missing) == (("dial", "doses", "words"), made, ())
        assert (found.dial, found.doses, found.words) == (
            planted.dial, planted.doses, planted.words)  # fmt: skip
        assert find_shipped("0" * 32) is None
        whole = predict_uses(space, again=True)
        assert predict_uses(space) < whole
        assert drain(measure_uses(space)) == found  # nothing is left to measure
        monkeypatch.setattr(measure, "facts", lambda: ())
        steps = measure_uses(space, again=True)
        for step in steps:
            if step.note.startswith("part 3"):
                break
        steps.close()
        half = known_uses(space)
        assert half.shipped == ("words",)
        assert half.dial is not None
        assert half.dial != planted.dial
        assert half.lacking["doses"]
        (kept,) = tmp_path.glob("uses-*.json")
        assert json.loads(kept.read_text())["words"] is None
    finally:
        find_shipped.cache_clear()


def test_a_part_measured_again_agrees_and_what_was_changed_is_told(
    spaces: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = spaces.fresh("llama")
    ids = space.tokenize("The cat sat").ids
    order = space.model.logits(ids)[-1].argsort(descending=True)
    given = (Case("The cat sat", f"#{int(order[2])}"),)
    monkeypatch.setattr(again, "facts", lambda: given)
    found = replace(
        Uses(space.model.fingerprint),
        dial=drain(space.measure_dial()),
        doses=drain(measure_doses(space, given)),
    )
    document = json.loads(json.dumps(found.to_dict()))
    same = drain(measured_again(space, document))
    assert same is not None
    assert not same.differs
    assert same.numbers > 100
    document["doses"]["pushes"][-1]["probability"] += 0.01  # of the last layer: not read again
    assert drain(measured_again(space, document)) == same
    for one in document["doses"]["pushes"]:
        one["probability"] += 0.01
    told = drain(measured_again(space, document))
    assert told is not None
    assert "probability" in told.differs
    assert drain(measured_again(spaces["gpt2"], document)) is None
    with pytest.raises(ArtifactError, match="no measurement of uses"):
        drain(measured_again(space, {"dial": 3, "doses": None}))


@pytest.mark.real
@pytest.mark.slow
def test_what_ships_for_the_default_model_is_what_it_is_measured_to_be(
    smollm2: engine.LatentSpace,
) -> None:
    """Neighbours of every place of the dial, and the pushes of ten facts, against the file."""
    ships = find_shipped(smollm2.model.fingerprint)
    assert ships is not None
    words = field_words(smollm2.model)
    for row in ships.dial.rows:
        frame = "random" if row.alpha is None else key_of("dial", row.alpha, row.ridge)
        share, _, less = neighbours(smollm2.frame(frame), smollm2.frame("head"), words)
        assert share == pytest.approx(row.together, abs=1e-3)
        assert less == pytest.approx(row.less_head, abs=1e-3)
    assert ships.doses.facts == len(facts())
    few = drain(measure_doses(smollm2, facts()[:24], only=True))
    assert few is not None
    for one in few.pushes:
        whole = ships.doses.at(one.frame)
        low, high = wilson(round(one.share.value * few.used), few.used)
        assert low <= whole.share.value <= high
