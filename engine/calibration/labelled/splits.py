"""Rows into training, validation and test: seeded, by class, and no text in two of them.

Knows nothing about models.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.calibration.labelled.spec import TaskSpec
from engine.errors import OptionError


@dataclass(frozen=True)
class Example:
    """A row that has a text and a label."""

    line: int
    values: Mapping[str, str]
    text: str
    label: str

    @property
    def key(self) -> str:
        """The text without case and spacing: two rows with the same key are the same text."""
        return " ".join(self.text.casefold().split())


@dataclass
class Parts:
    """The rows of each split, and what happened on the way."""

    rows: dict[str, list[Example]]
    duplicates: dict[str, int]
    dropped: dict[str, int] = field(default_factory=dict)


def split_examples(
    sizes: TaskSpec, found: Mapping[str, Sequence[Example]], names: Sequence[str]
) -> Parts:
    """Draw the splits.

    Args:
        sizes: how large, and the seed.
        found: rows under ``train``, and under ``valid`` and ``test`` where they have tables.
        names: all labels, in order.

    Raises:
        OptionError: too few rows for what was asked.
    """
    draw = random.Random(sizes.seed)  # nosec B311  # a split, repeatable on purpose
    dropped: dict[str, int] = {}
    capped: dict[str, list[Example]] = {}
    for split, rows in found.items():
        kept, rest = _take(list(rows), min(sizes.max_rows, len(rows)), names, draw)
        capped[split] = kept
        if rest:
            dropped[f"beyond {sizes.max_rows:,} rows ({split})"] = len(rest)
    train = capped["train"]
    if "test" in capped:
        test = capped["test"]
        if sizes.test >= 1:
            test, rest = _take(test, min(int(sizes.test), len(test)), names, draw)
            if rest:
                dropped["test rows beyond the number asked for"] = len(rest)
    else:
        test, train = _take(train, _rows(sizes.test, len(train)), names, draw)
    keys = {e.key for e in test}
    between = sum(e.key in keys for e in train)
    if between and not sizes.keep_leaks:
        train = [e for e in train if e.key not in keys]
        dropped["training rows whose text stands in the test rows"] = between
    if "valid" in capped:
        valid = [e for e in capped["valid"] if sizes.keep_leaks or e.key not in keys]
        if sizes.valid >= 1:
            valid, _ = _take(valid, min(int(sizes.valid), len(valid)), names, draw)
    else:
        valid, train = _take(train, _valid_rows(sizes, len(train)), names, draw)
    own = {e.key for e in valid}
    train = [e for e in train if e.key not in own]
    if sizes.train is not None and sizes.train < len(train):
        train, rest = _take(train, sizes.train, names, draw)
        dropped["training rows beyond the number asked for"] = len(rest)
    if len({e.label for e in train}) < 2 or not test:
        raise OptionError(
            f"the split leaves {len(train)} training rows of"
            f" {len({e.label for e in train})} labels and {len(test)} test rows; give more rows or"
            " other sizes."
        )
    drawn = {"train": train, "valid": valid, "test": test}
    duplicates = {s: len(drawn[s]) - len({e.key for e in drawn[s]}) for s in ("train", "test")}
    duplicates["between"] = between
    duplicates["contradictions"] = _contradictions(e for part in found.values() for e in part)
    return Parts(drawn, duplicates, dropped)


def _valid_rows(sizes: TaskSpec, of: int) -> int:
    """A share is one of the rows that are used: with few training rows it is few, too."""
    if sizes.valid >= 1 or sizes.valid == 0 or sizes.train is None:
        return _rows(sizes.valid, of)
    beside = max(1, round(sizes.train * sizes.valid / (1 - sizes.valid)))
    return min(beside, _rows(sizes.valid, of))


def _rows(size: float | int, of: int) -> int:
    wanted = int(size) if size >= 1 else round(size * of)
    if wanted >= of:
        raise OptionError(f"{wanted:,} rows are to be set aside and there are {of:,}; ask less.")
    return wanted


def _take(
    rows: list[Example], count: int, names: Sequence[str], draw: random.Random
) -> tuple[list[Example], list[Example]]:
    """About `count` rows drawn so that classes keep their shares, and the rest; both in file order.

    Rows with the same text go the same way, so the number may be passed by a few.
    """
    if count >= len(rows):
        return rows, []
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    first: dict[str, str] = {}
    for i, row in enumerate(rows):
        label = first.setdefault(row.key, row.label)
        groups[label][row.key].append(i)
    sizes = {n: sum(len(g) for g in groups[n].values()) for n in names if n in groups}
    chosen: set[int] = set()
    for name, quota in _quotas(sizes, count).items():
        keys = list(groups[name])
        draw.shuffle(keys)
        got = 0
        for key in keys:
            if got >= quota:
                break
            chosen.update(groups[name][key])
            got += len(groups[name][key])
    kept = [row for i, row in enumerate(rows) if i in chosen]
    return kept, [row for i, row in enumerate(rows) if i not in chosen]


def _quotas(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` shared out in proportion, by largest remainders; the earlier label where equal."""
    total = sum(sizes.values())
    exact = {n: count * s / total for n, s in sizes.items()}
    quotas = {n: int(x) for n, x in exact.items()}
    left = count - sum(quotas.values())
    by_remainder = sorted(sizes, key=lambda n: (quotas[n] - exact[n], list(sizes).index(n)))
    for name in by_remainder[:left]:
        quotas[name] += 1
    return quotas


def _contradictions(rows: Iterable[Example]) -> int:
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row.key].add(row.label)
    return sum(len(own) > 1 for own in labels.values())
