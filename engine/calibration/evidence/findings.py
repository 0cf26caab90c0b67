"""What a table says, in plain sentences with their figures; goals with a verdict.

Sentences are drawn from the figures alone: whatever came out is said as it came out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from engine.calibration.evidence.baselines import UNTRAINED
from engine.calibration.evidence.evaluation_result import (
    Average,
    Cell,
    Difference,
    Finding,
    Verdict,
)
from engine.calibration.evidence.metrics import Interval
from engine.calibration.training.losses import LOSS_NAMES

OURS: Final = "calibration-sm"
"""The method that sentences call calibration."""


def signed(share: float) -> str:
    """A difference of shares in points, as ``+3.2`` or ``−0.4``."""
    text = f"{100 * share:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def points(interval: Interval) -> str:
    """A difference of shares as ``+3.2 points (+0.4 to +6.1)``."""
    value, low, high = (signed(x) for x in (interval.value, interval.low, interval.high))
    return f"{value} points ({low} to {high})"


def loss_words(loss: str) -> str:
    """A loss in words, with its code: ``own basis only [sm-gt]``."""
    return f"{LOSS_NAMES[loss]} [{loss}]"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``1 data set``, ``5 data sets``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(interval: Interval) -> str:
    """A share as ``71.2 % (68.0 to 74.1)``."""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def side(interval: Interval) -> str:
    """Whether an interval of differences lies above, below or around zero."""
    if interval.low > 0:
        return "above"
    return "below" if interval.high < 0 else "around"


def draw_conclusions(
    titles: Mapping[str, str],
    cells: Mapping[tuple[str, str], Cell],
    averages: Mapping[str, Average],
    differences: Sequence[Difference],
    chance: Mapping[str, float],
) -> tuple[Finding, ...]:
    """The findings of an evaluation, the most asked for first."""
    by_pair = {(d.first, d.second): d for d in differences}
    out: list[Finding] = []
    out += _headline(averages, by_pair, chance)
    out += _kept_their_start(titles, cells)
    out += _bias(averages, by_pair)
    out += _against_knn_prompting(averages, by_pair)
    out += _against_probe(averages, by_pair)
    out += _variants(by_pair)
    out += _bases(averages, by_pair)
    out += _shuffled(cells, chance)
    if averages:
        best = max(averages, key=lambda m: averages[m].accuracy.value)
        out.append(
            Finding(
                f"The highest mean accuracy is that of {titles[best]}:"
                f" {percent(averages[best].accuracy)}."
            )
        )
    return tuple(out)


_PLACES: Final = {"above": "more than", "below": "less than", "around": "on a par with"}


def _headline(
    averages: Mapping[str, Average],
    pairs: Mapping[tuple[str, str], Difference],
    chance: Mapping[str, float],
) -> list[Finding]:
    """Calibration, the best without training, and the linear probe, in whole per cents."""
    if OURS not in averages:
        return []
    ours = averages[OURS].accuracy
    # Name, accuracy, and calibration minus it; of equals the first.
    untrained = [
        (title, averages[m].accuracy.value, pairs[OURS, m].mean)
        for m, title in (
            ("zero-shot", UNTRAINED["logits"]),
            ("zero-shot-cosine", UNTRAINED["bases"]),
        )
        if m in averages and (OURS, m) in pairs
    ]
    if chance:
        largest = float(np.mean(list(chance.values())))
        gap = Interval(ours.value - largest, ours.low - largest, ours.high - largest)
        untrained.append((UNTRAINED["largest"], largest, gap))
    said = []
    if untrained:
        title, reached, gap = max(untrained, key=lambda one: one[1])
        said.append(f"{_PLACES[side(gap)]} {title} ({100 * reached:.0f} %), the best untrained")
    pair = pairs.get((OURS, "linear-probe"))
    if pair is not None and "linear-probe" in averages:
        probe = 100 * averages["linear-probe"].accuracy.value
        said.append(f"{_PLACES[side(pair.mean)]} the linear probe ({probe:.0f} %)")
    words = f"Calibration reaches {100 * ours.value:.0f} %"
    return [Finding(f"{words}, {', and '.join(said)}." if said else f"{words}.")]


def _bias(
    averages: Mapping[str, Average], pairs: Mapping[tuple[str, str], Difference]
) -> list[Finding]:
    """Whether thresholds on untrained cosines do as well."""
    pair = pairs.get((OURS, "head-thresholds"))
    if pair is None or "head-thresholds" not in averages:
        return []
    ending = {
        "above": "it does more than remove a bias",
        "below": "less than removing a bias would give",
        "around": "what it gains is no more than bias removal",
    }[side(pair.mean)]
    return [
        Finding(
            "One threshold per class on the untrained head cosines reaches"
            f" {percent(averages['head-thresholds'].accuracy)}. Calibration minus thresholds:"
            f" {points(pair.mean)}; {ending}."
        )
    ]


def _kept_their_start(
    titles: Mapping[str, str], cells: Mapping[tuple[str, str], Cell]
) -> list[Finding]:
    """A warning for each method whose figures hold nothing trained; one control never does."""
    out = []
    for method in dict.fromkeys(m for m, _ in cells if m != "shuffled-labels"):
        own = [cell for (m, _), cell in cells.items() if m == method]
        kept, runs = sum(c.kept_start for c in own), sum(len(c.per_seed) for c in own)
        if kept:
            out.append(
                Finding(
                    f"{titles[method]}: in {kept} of {counted(runs, 'run')} no epoch lowered"
                    " the validation loss (best epoch 0), so its figures are those of the start;"
                    " set a lower learning rate.",
                    "open",
                )
            )
    return out


def _against_knn_prompting(
    averages: Mapping[str, Average], pairs: Mapping[tuple[str, str], Difference]
) -> list[Finding]:
    pair = pairs.get(("calibration-sm", "knn-prompting"))
    if pair is None or not {"calibration-sm", "knn-prompting"} <= averages.keys():
        return []
    ours, theirs = averages["calibration-sm"], averages["knn-prompting"]
    where = side(pair.mean)
    ending = {
        "above": "a gain that the rows bear out",
        "below": "a loss that the rows bear out",
        "around": "a difference that chance alone could make",
    }[where]
    seconds = [ours.seconds, theirs.seconds]
    share = seconds[0] / seconds[1] if seconds[1] > 0 else float("inf")
    return [
        Finding(
            f"Calibration ({loss_words('sm')}) is right on {percent(ours.accuracy)} of the test"
            f" rows on the average, kNN prompting on {percent(theirs.accuracy)}. Calibration minus"
            f" kNN prompting: {points(pair.mean)}, {ending}.",
            "met" if pair.mean.value >= 0 else "missed",
            "calibration at least as good as kNN prompting on the average",
        ),
        Finding(
            f"Calibration takes {seconds[0]:,.1f} s for all tasks and kNN prompting"
            f" {seconds[1]:,.1f} s, reading the texts included: {share:.2f} of its time.",
            "met" if share <= 0.5 else "missed",
            "at most half of kNN prompting's wall time",
        ),
    ]


def _against_probe(
    averages: Mapping[str, Average], pairs: Mapping[tuple[str, str], Difference]
) -> list[Finding]:
    pair = pairs.get(("calibration-sm", "linear-probe"))
    if pair is None or "linear-probe" not in averages:
        return []
    verdict: Verdict
    where = side(pair.mean)
    if where == "above":
        words, verdict = "it beats the probe", "met"
    elif where == "below":
        words, verdict = "it does not reach the probe", "missed"
    else:
        words, verdict = "the two are on a par within the interval", "met"
    return [
        Finding(
            f"The linear probe on the same rows reaches"
            f" {percent(averages['linear-probe'].accuracy)}. Calibration minus linear probe:"
            f" {points(pair.mean)}; {words}.",
            verdict,
            "on a par with the linear probe within its interval, or better",
        )
    ]


def _variants(pairs: Mapping[tuple[str, str], Difference]) -> list[Finding]:
    pair = pairs.get(("calibration-sm-gt", "calibration-sm"))
    if pair is None:
        return []
    words = {
        "above": "better, as in the paper's Table 6",
        "below": "worse, unlike the paper's Table 6, where it is 0.9 points better",
        "around": "no difference beyond chance; the paper's Table 6 has it 0.9 points better",
    }[side(pair.mean)]
    return [
        Finding(
            f"Calibration by the other loss, {loss_words('sm-gt')}, minus calibration:"
            f" {points(pair.mean)}, {words}."
        )
    ]


def _bases(
    averages: Mapping[str, Average], pairs: Mapping[tuple[str, str], Difference]
) -> list[Finding]:
    out = []
    for control, words in (("random-bases", "random bases"), ("head-rows", "raw head rows")):
        pair = pairs.get(("calibration-sm", control))
        if pair is None or control not in averages:
            continue
        ending = {
            "above": "the semantic bases matter",
            "below": "the semantic bases are worse than the control",
            "around": "what is gained is not owed to the semantic bases",
        }[side(pair.mean)]
        out.append(
            Finding(
                f"The same module trained to {words} reaches"
                f" {percent(averages[control].accuracy)}. Semantic bases minus {words}:"
                f" {points(pair.mean)}; {ending}."
            )
        )
    return out


def _shuffled(cells: Mapping[tuple[str, str], Cell], chance: Mapping[str, float]) -> list[Finding]:
    own = {t: cells["shuffled-labels", t] for t in chance if ("shuffled-labels", t) in cells}
    if not own:
        return []
    above = [t for t, cell in own.items() if cell.accuracy.low > chance[t]]
    if above:
        return [
            Finding(
                f"Trained on shuffled labels, calibration is above chance on {', '.join(above)}:"
                " something else than the labels is learned there.",
                "missed",
                "shuffled labels at chance",
            )
        ]
    return [
        Finding(
            f"Trained on shuffled labels, calibration is at or below chance"
            f" {'on the data set' if len(own) == 1 else f'on all {len(own)} data sets'} (chance is"
            " always guessing the largest class).",
            "met",
            "shuffled labels at chance",
        )
    ]
