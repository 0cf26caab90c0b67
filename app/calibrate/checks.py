"""The questions that decide what a gain is worth, answered from a comparison's saved figures."""

from __future__ import annotations

from dataclasses import dataclass
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


def checks(comparison: Numbers) -> tuple[Check, ...]:
    """Is the gain real, does a linear probe do as well, what do the controls say?"""
    found = [_helped(comparison)]
    thresholds, probe = comparison.get("thresholds"), comparison.get("probe")
    if thresholds:
        gap, alone = thresholds["difference"], share(thresholds["accuracy"]["value"])
        found.append(
            _answered(
                "More than bias removal?",
                gap,
                f"{points(gap['value'])} points, {_signed(gap)}; thresholds on the untrained head"
                f" cosines {alone}",
                above=("ok", "✓", "Yes, more than thresholds"),
                below=("note", "−", "No: thresholds reach more"),
                around="No: thresholds do as well",
            )
        )
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
    if comparison.get("untaught"):
        found.append(_untaught(comparison["untaught"]))
    found += [_control(c) for c in comparison["controls"] if c["name"] == "shuffled-labels"]
    found += [_bases(c) for c in comparison["controls"] if c["name"] == "random-bases"]
    return tuple(found)


def _helped(comparison: Numbers) -> Check:
    """Against the best without training; what was saved without it knows the bases only."""
    baseline = comparison.get("baseline") or {
        "title": "the nearest label basis",
        "accuracy": comparison["before"]["accuracy"],
        "difference": comparison["difference"]["accuracy"],
    }
    title, gap = str(baseline["title"]), baseline["difference"]
    reached = share(baseline["accuracy"]["value"])
    figure = f"{points(gap['value'])} points, {_signed(gap)}; {title} {reached}"
    after, chance = comparison["after"]["accuracy"], float(comparison["chance"])
    if after["high"] < chance:
        return Check("fail", "✗", "Did it help?", "No: it reads below chance", figure)
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
    question, part, gap = "And on shuffled labels?", control["accuracy"], control.get("difference")
    figure = f"{share(part['value'])}, {between(part)}"
    if control["at_chance"]:
        return Check("ok", "✓", question, "Chance, as it should be", figure)
    if gap and gap["low"] > 0:
        figure += f"; {points(gap['value'])} points with the true ones"
        return Check("note", "i", question, "Above chance, but clearly less", figure)
    return Check("fail", "✗", question, "As good: distrust the gain", figure)


def _bases(control: Numbers) -> Check:
    """Whether the same module, trained to random directions, reads the labels as well."""
    gap, random = control["difference"], share(control["accuracy"]["value"])
    return _answered(
        "Do the bases matter, on the taught words?",
        gap,
        f"{points(gap['value'])} points, {_signed(gap)}; random ones {random}",
        above=("ok", "✓", "Yes, random ones do worse"),
        below=("fail", "✗", "No: random ones do better"),
        around="Random ones do as well",
    )


def _untaught(measured: Numbers) -> Check:
    """Whether other words than the taught ones read the moved states, more than random ones."""
    question, part = "Does it read words it was never taught?", measured["after"]
    figure = f"{share(part['value'])}, {between(part)}"
    gap, random = measured["random_difference"], measured["random"]
    if part["low"] <= measured["chance"]:
        return Check("fail", "✗", question, "No: not above chance", figure)
    if gap is None:
        return Check("ok", "✓", question, "Yes, above chance", figure)
    figure += f"; random bases {share(random['value'])}, {points(gap['value'])} points apart"
    return _answered(
        question,
        gap,
        figure,
        above=("ok", "✓", "Yes, and random bases do not"),
        below=("fail", "✗", "Random bases do better"),
        around="Not told apart from random bases",
    )


def _signed(part: Numbers) -> str:
    return f"{points(part['low'])} to {points(part['high'])}"
