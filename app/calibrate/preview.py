"""Step 2 of the Calibrate page: what the model will read, and what to look at before it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.calibrate.words import thin
from app.figures.calibrate import label_colour
from engine.calibration.evidence.repeated import FEW
from engine.calibration.labelled.rows import Problem
from engine.calibration.labelled.tables import Table
from engine.calibration.labelled.tasks import SPLITS, Task

PROMPTS = 4
"""Prompts that step 2 shows: one for each of the first labels."""


PROMPT_EXCERPT = 700
"""Characters of a prompt that step 2 shows."""


BAD_ROWS = 50
"""Rows left out that the page lists by line."""


_DOUBLE = {
    "train": "{} stand twice among the texts to learn from",
    "test": "{} stand twice among the texts to test",
    "between": "{} of the texts to learn from stand in the test as well",
    "contradictions": "{} texts carry two labels",
}


@dataclass(frozen=True)
class LabelRow:
    """A label, the word that stands for it and the tokens of that word."""

    label: str
    word: str
    colour: int
    tokens: tuple[tuple[str, bool], ...]
    """(visible text, whether it is the one whose basis is used)."""
    rule: str
    count: str
    """Rows to learn from."""
    share: str
    """Of the largest class in training, in percent, for a bar."""


@dataclass(frozen=True)
class LeftOut:
    """Rows of the chosen set that cannot be used."""

    text: str
    lines: tuple[tuple[str, str], ...]
    """(line, reason) of the first."""
    more: str
    """A sentence about those that are not listed, or empty."""


@dataclass(frozen=True)
class Preview:
    """What the model will read."""

    labels: tuple[LabelRow, ...]
    prompts: tuple[tuple[int, str, str], ...]
    """Some as the model reads them: the colour of the label, the prompt, the token that should come
    next."""
    checks: tuple[tuple[Literal["ok", "note"], str, str], ...]
    """Each look at the data: what came out, its name, what was seen."""
    sizes: tuple[tuple[str, str], ...]
    tokens: str
    few: str
    """A warning where one split tests too few texts to say much; else empty."""


def preview(task: Task) -> Preview:
    """What the model will read, with what to look at before anything runs."""
    report = task.report
    largest = max(report.balance["train"].values(), default=0) or 1
    labels = tuple(
        LabelRow(
            label=token.label,
            word=token.word,
            colour=label_colour(i),
            tokens=tuple(
                (text, token.mean or id == token.id_used)
                for id, text in zip(token.ids, token.texts, strict=True)
            ),
            rule=token.rule,
            count=f"{report.balance['train'][token.label]}",
            share=f"{100 * report.balance['train'][token.label] / largest:.0f}",
        )
        for i, token in enumerate(task.label_tokens)
    )
    prompts = []
    for i, token in enumerate(task.label_tokens[:PROMPTS]):
        row = next((r for r, y in enumerate(task.labels["train"]) if y == i), None)
        if row is None:
            continue
        prompt = task.prompts["train"][row]
        if len(prompt) > PROMPT_EXCERPT:
            half = PROMPT_EXCERPT // 2
            prompt = f"{prompt[:half]} … {prompt[-half:]}"
        at = token.ids.index(token.id_used)
        prompts.append((label_colour(i), prompt, token.texts[at]))
    total = sum(len(ids) for split in SPLITS for ids in task.ids[split])
    return Preview(
        labels,
        tuple(prompts),
        _checks(task),
        tuple(
            (name, thin(task.size(split)))
            for split, name in zip(SPLITS, ("to learn from", "to stop by", "to test"), strict=True)
        ),
        thin(total),
        _few(task.size("test")),
    )


def _few(tests: int) -> str:
    if not 0 < tests < FEW:
        return ""
    return (
        f"Only {thin(tests)} text{'s' if tests != 1 else ''} will be tested: one of them is"
        f" {100 / tests:.0f} points of accuracy, so a single split says little. Repeat it on"
        " several, each drawn anew, for a mean with its interval."
    )


def left_out(
    table: Table, bad: int, text_columns: Sequence[str], label_column: str
) -> LeftOut | None:
    """Rows that cannot be used, whatever else keeps the set from running; None where all can.

    Args:
        table: the set; columns that it does not have are passed over.
        bad: how many rows of its file could not be read, also where the table lists fewer.
        text_columns: where the texts stand.
        label_column: where the label stands.
    """
    found = [*table.problems, *_empty(table, text_columns, label_column)]
    count = max(bad, len(table.problems)) + len(found) - len(table.problems)
    if not count:
        return None
    found.sort(key=lambda one: one.line)
    lines = tuple((f"{one.line}", one.reason) for one in found[:BAD_ROWS])
    one = count == 1
    return LeftOut(
        f"{thin(count)} row{'' if one else 's'} of this set cannot be used and"
        f" {'is' if one else 'are'} left out",
        lines,
        f"These are the first {len(lines)} of {thin(count)}." if count > len(lines) else "",
    )


def _empty(table: Table, text_columns: Sequence[str], label_column: str) -> list[Problem]:
    texts = [column for column in text_columns if column in table.columns]
    found = []
    for row in table.rows:
        if texts and not any(row.values[column].strip() for column in texts):
            found.append(Problem(row.line, "no text"))
        elif label_column in table.columns and not row.values[label_column].strip():
            found.append(Problem(row.line, "no label"))
    return found


def _checks(task: Task) -> tuple[tuple[Literal["ok", "note"], str, str], ...]:
    """Each look at the data; one that found something is a note."""
    report, lengths = task.report, task.report.lengths["train"]
    counts = report.balance["train"].values()
    low, high = min(counts), max(counts)
    balance = f"{low} texts to learn from for each label."
    if low != high:
        balance = f"{low} to {high} texts to learn from per label."
    cut = f" {report.trimmed} texts were cut to what the model can read." if report.trimmed else ""
    double = [_DOUBLE.get(k, k + ": {}").format(n) for k, n in report.duplicates.items() if n]
    dropped = [f"{count} {reason}" for reason, count in report.dropped.items() if count]
    left, bad = len(report.problems), []
    if left:
        rows = "rows" if left != 1 else "row"
        bad.append(f"{left} {rows} could not be used, listed under the set.")
    if dropped:
        bad.append(f"Left out: {'; '.join(dropped)}.")
    looks = (
        ("Balance", high > 1.5 * max(low, 1), balance),
        (
            "Length",
            report.trimmed > 0,
            f"{lengths.least} to {lengths.most} tokens, half of them at most"
            f" {lengths.median:g}.{cut}",
        ),
        (
            "Duplicates",
            bool(double),
            "; ".join(double) + "." if double else "No text stands twice.",
        ),
        ("Bad rows", bool(bad), " ".join(bad) or f"None; all {report.rows} rows can be used."),
        *(("Mind", True, str(warning)) for warning in report.warnings),
    )
    return tuple(("note" if odd else "ok", name, said) for name, odd, said in looks)
