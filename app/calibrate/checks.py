"""The questions that decide what a gain is worth, answered from a comparison's saved figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from app.calibrate.words import Numbers, between, points, share

_Level = Literal["ok", "note", "fail"]
_Said = tuple[_Level, str, str]


@dataclass(frozen=True)
class Check:
    """One of the questions that decide what a gain is worth."""

    level: _Level
    sign: str
    question: str
    answer: str
    figure: str
    """The number behind the answer."""
    note: str = ""
    """What is easily misunderstood, in a sentence."""


def checks(comparison: Numbers) -> tuple[Check, ...]:
    """Is the gain real, does a linear probe do as well, what do the controls say?"""
    found = [_helped(comparison)]
    probe = comparison.get("probe")
    if probe:
        gap = probe["difference"]
        found.append(
            _answered(
                "Better than a linear probe?",
                gap,
                f"{points(gap['value'])} points, {_signed(gap)}",
                above=("ok", "✓", "Yes, better"),
                below=("note", "−", "No: the probe is better"),
                around="No difference can be told",
            )
        )
    controls = {str(one["name"]): one for one in comparison["controls"]}
    if "shuffled-labels" in controls:
        found.append(_control(controls["shuffled-labels"]))
    taught, asked = controls.get("random-bases"), _asked(comparison)
    if asked is not None:
        found.append(_matters(asked, taught))
    elif taught is not None:
        found.append(_bases(taught))
    return tuple(found)


def _helped(comparison: Numbers) -> Check:
    """Against the best without training; what was saved without it knows the bases only.

    Over all splits where there are several. What thresholds do as well is bias removal.
    """
    baseline = comparison.get("baseline") or {
        "title": "the nearest label basis",
        "accuracy": comparison["before"]["accuracy"],
        "difference": comparison["difference"]["accuracy"],
    }
    title, gap = str(baseline["title"]), baseline["difference"]
    reached, after = baseline["accuracy"]["value"], comparison["after"]["accuracy"]
    splits, over = comparison.get("splits"), ""
    if splits:
        title, gap, after = str(splits["baseline"]), splits["difference"], splits["after"]
        reached, over = splits["untrained"]["value"], f", over {len(splits['seeds'])} splits"
    figure = f"{points(gap['value'])} points, {_signed(gap)}{over}; {title} {share(reached)}"
    if after["high"] < float(comparison["chance"]):
        return Check("fail", "✗", "Did it help?", "No: it reads below chance", figure)
    thresholds = comparison.get("thresholds")
    if gap["low"] > 0 and thresholds and thresholds["difference"]["low"] <= 0:
        alone = share(thresholds["accuracy"]["value"])
        return Check(
            "note", "≈", "Did it help?", "Yes, but thresholds do as much", figure,
            f"One threshold per class on the untrained head cosines reaches {alone}: what was"
            " gained is the removal of a bias.",
        )  # fmt: skip
    return _answered(
        "Did it help?",
        gap,
        figure,
        above=("ok", "✓", f"Yes, it beats {title}"),
        below=("fail", "✗", f"No: {title} is better"),
        around=f"Not beyond {title}",
    )


def _answered(
    question: str, gap: Numbers, figure: str, *, above: _Said, below: _Said, around: str
) -> Check:
    """The answer by the side of zero on which the whole interval of a difference lies."""
    if gap["low"] > 0 or gap["high"] < 0:
        level, sign, answer = above if gap["low"] > 0 else below
        return Check(level, sign, question, answer, figure)
    return Check("note", "≈", question, around, figure)


def _control(control: Numbers) -> Check:
    """What training on shuffled labels gives: nothing of a real gain may be left in it."""
    question, part = "Better than shuffled labels?", control["accuracy"]
    gap = control.get("difference")
    figure = f"shuffled {share(part['value'])}, {between(part)}"
    if gap:
        figure = f"{points(gap['value'])} points, {_signed(gap)}; shuffled {share(part['value'])}"
    if control["at_chance"]:
        return Check("ok", "✓", question, "Yes: they give chance", figure)
    if gap and gap["low"] > 0:
        return Check("note", "i", question, "Yes, but they are above chance", figure)
    return Check("fail", "✗", question, "No: distrust the gain", figure)


_MATTER = "Do the bases matter?"
_PLAIN = (
    "On the taught words random directions do as well: there the method worked, and the words'"
    " meaning was not why."
)


def _bases(control: Numbers) -> Check:
    """Whether the same module, trained to random directions, reads the labels as well."""
    gap, random = control["difference"], share(control["accuracy"]["value"])
    found = _answered(
        _MATTER,
        gap,
        f"{points(gap['value'])} points, {_signed(gap)}; random ones {random}",
        above=("ok", "✓", "Yes, random ones do worse"),
        below=("fail", "✗", "No: random ones do better"),
        around="Random ones do as well",
    )
    return found if gap["low"] > 0 else replace(found, note=_PLAIN)


def _asked(comparison: Numbers) -> Numbers | None:
    """Readings by words that were never taught, over all splits where there are several."""
    splits, measured = comparison.get("splits"), comparison.get("untaught")
    if splits and splits.get("untaught"):
        return {
            "after": splits["untaught"],
            "random": splits["untaught_random"],
            "random_difference": splits["untaught_difference"],
            "chance": comparison["chance"],
            "over": f", over {len(splits['seeds'])} splits",
        }
    found: Numbers | None = measured or None
    return found


def _matters(measured: Numbers, taught: Numbers | None) -> Check:
    """Whether other words than the taught ones read the moved states, more than random ones."""
    part, gap, random = measured["after"], measured["random_difference"], measured["random"]
    figure = f"by words never taught {share(part['value'])}, {between(part)}"
    note = _PLAIN if taught is not None and taught["difference"]["low"] <= 0 else ""
    if part["low"] <= measured["chance"]:
        answer = "No: other words read nothing"
        return Check("fail", "✗", _MATTER, answer, figure + measured.get("over", ""), note)
    if gap is None:
        return Check("ok", "✓", _MATTER, "Other words read it too", figure, note)
    figure += f"; random {share(random['value'])}, {points(gap['value'])} points apart"
    found = _answered(
        _MATTER,
        gap,
        figure + measured.get("over", ""),
        above=("ok", "✓", "Yes: words never taught read it too"),
        below=("fail", "✗", "No: random ones do better"),
        around="Not told apart from random ones",
    )
    return replace(found, note=note)


def _signed(part: Numbers) -> str:
    return f"{points(part['low'])} to {points(part['high'])}"
