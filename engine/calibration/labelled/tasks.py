"""A labelled set as a task for one model: prompts, splits, labels, and a report to look at first.

Knows nothing about states or training. :func:`make_task` is deterministic in its arguments.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from engine.calibration.labelled.rows import Problem, Row
from engine.calibration.labelled.spec import TaskSpec, check_spec, render, template_ending
from engine.calibration.labelled.splits import Example, split_examples
from engine.calibration.labelled.tables import Table
from engine.calibration.labelled.words import LabelToken, default_words, label_tokens
from engine.errors import OptionError, PromptError, shorten
from engine.model.language_model import LanguageModel
from engine.progress import Check, no_check

SPLITS: Final = ("train", "valid", "test")
MAX_CLASSES: Final = 100
_FEW: Final = 8
"""A class with fewer training rows than this is worth a warning."""


@dataclass(frozen=True)
class Lengths:
    """Tokens per prompt of one split."""

    least: int
    median: float
    most: int


@dataclass(frozen=True)
class TaskReport:
    """What to look at before anything runs."""

    rows: int
    """Read, all tables together."""
    problems: tuple[Problem, ...]
    """Rows left out, by line; of the training table, then of the others."""
    balance: Mapping[str, Mapping[str, int]]
    """Split → label → rows."""
    lengths: Mapping[str, Lengths]
    trimmed: int
    """Prompts whose text was cut at its end, so that the model can read them whole."""
    duplicates: Mapping[str, int]
    """``train`` and ``test``: rows beyond the first with a text of their own split; ``between``:
    training rows whose text stands in the test rows; ``contradictions``: texts with two labels.
    Texts are compared without case and spacing."""
    dropped: Mapping[str, int]
    """Reason → rows that were not used."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A labelled set as one model reads it. Every mapping is by split: train, valid, test."""

    spec: TaskSpec
    name: str
    label_names: tuple[str, ...]
    label_tokens: tuple[LabelToken, ...]
    """In the order of `label_names`."""
    texts: Mapping[str, tuple[str, ...]]
    prompts: Mapping[str, tuple[str, ...]]
    ids: Mapping[str, tuple[tuple[int, ...], ...]]
    """Token ids of each prompt."""
    labels: Mapping[str, np.ndarray]
    """Index into `label_names`, int64."""
    lines: Mapping[str, tuple[int, ...]]
    """Line of each row in its file."""
    report: TaskReport
    note: str = ""
    """What was done to it since: ``labels shuffled, seed 3``."""

    @property
    def classes(self) -> int:
        """How many labels."""
        return len(self.label_names)

    @property
    def label_words(self) -> tuple[str, ...]:
        """In the order of `label_names`."""
        return tuple(t.word for t in self.label_tokens)

    def size(self, split: str) -> int:
        """Rows of a split."""
        return len(self.labels[split])

    @cached_property
    def fingerprint(self) -> str:
        """A name for what is learned and tested: token ids, labels and label tokens."""
        digest = hashlib.blake2b(digest_size=16)
        for token in self.label_tokens:
            digest.update(f"{token.label}\0{token.ids}\0{token.id_used}\0{token.mean}\0".encode())
        for split in SPLITS:
            digest.update(f"{split} {len(self.ids[split])}".encode())
            for ids in self.ids[split]:
                digest.update(np.asarray((len(ids), *ids), dtype="<i8").tobytes())
            digest.update(self.labels[split].astype("<i8").tobytes())
        return digest.hexdigest()

    def row_keys(self, split: str) -> np.ndarray:
        """What each row of a split is, int64: equal token ids and an equal label, an equal key.

        Tasks drawn by different seeds from one file are told by it which rows they share.
        """
        keys = []
        for ids, label in zip(self.ids[split], self.labels[split], strict=True):
            name = self.label_names[int(label)]
            content = np.asarray(ids, dtype="<i8").tobytes() + name.encode()
            keys.append(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))
        return np.asarray(keys, dtype=np.uint64).astype(np.int64)

    def with_labels(self, train: np.ndarray, valid: np.ndarray, *, note: str) -> Task:
        """The same with other labels to learn from; the test rows keep theirs."""
        labels = {**self.labels, "train": train, "valid": valid}
        assert all(labels[s].shape == self.labels[s].shape for s in SPLITS)
        return replace(self, labels=labels, note=note)

    def to_dict(self) -> dict[str, Any]:
        """What identifies it: no texts."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "spec": self.spec.to_dict(),
            "labels": [asdict(token) for token in self.label_tokens],
            "sizes": {split: self.size(split) for split in SPLITS},
            "note": self.note,
        }


def shuffled_labels(task: Task, seed: int) -> Task:
    """The control: training and validation labels permuted, the test rows as they are.

    Both are permuted together, so that early stopping cannot find what training does not show.
    """
    both = np.concatenate([task.labels["train"], task.labels["valid"]])
    np.random.default_rng(seed).shuffle(both)
    cut = task.size("train")
    return task.with_labels(both[:cut], both[cut:], note=f"labels shuffled, seed {seed}")


def make_task(
    spec: TaskSpec,
    table: Table,
    model: LanguageModel,
    *,
    test: Table | None = None,
    valid: Table | None = None,
    check: Check = no_check,
) -> Task:
    """Rows → prompts, splits, labels.

    Splits are drawn by `spec.seed`, keep the classes' shares, and never put the same text into two
    of them (but for `keep_leaks` with a given test table).

    Args:
        spec: columns, template, label words, sizes.
        table: the labelled rows.
        model: whose tokenizer; the work must run on its thread.
        test: rows of their own for testing.
        valid: rows of their own for early stopping.
        check: raises to stop.

    Raises:
        OptionError: a column, template, size or label word that cannot be used.
    """
    check_spec(spec, table)
    found = {"train": _examples(spec, table)}
    if valid is not None:
        check_spec(spec, valid)
        found["valid"] = _examples(spec, valid)
    if test is not None:
        check_spec(spec, test)
        found["test"] = _examples(spec, test)
    problems = tuple(p for examples, bad in found.values() for p in bad)
    names = _label_names(spec, [e for examples, _ in found.values() for e in examples])
    parts = split_examples(spec, {s: examples for s, (examples, _) in found.items()}, names)
    plain = default_words(names)
    words = [spec.label_words.get(n) or word for n, word in zip(names, plain, strict=True)]
    tokens = label_tokens(
        model, names, words, ending=template_ending(spec.template), rule=spec.word_rule
    )
    index = {name: i for i, name in enumerate(names)}
    prompts: dict[str, tuple[str, ...]] = {}
    ids: dict[str, tuple[tuple[int, ...], ...]] = {}
    trimmed = 0
    for split in SPLITS:
        made = [_fit(spec, e.values, model, check) for e in parts.rows[split]]
        prompts[split] = tuple(prompt for prompt, _, _ in made)
        ids[split] = tuple(own for _, own, _ in made)
        trimmed += sum(cut for _, _, cut in made)
    balance = {s: {n: Counter(e.label for e in parts.rows[s])[n] for n in names} for s in SPLITS}
    report = TaskReport(
        rows=sum(len(t.rows) + len(t.problems) for t in (table, valid, test) if t is not None),
        problems=problems,
        balance=balance,
        lengths={s: _lengths(ids[s]) for s in SPLITS if ids[s]},
        trimmed=trimmed,
        duplicates=parts.duplicates,
        dropped=parts.dropped,
        warnings=_warnings(balance, tokens, trimmed, parts.duplicates),
    )
    return Task(
        spec=spec,
        name=spec.name,
        label_names=names,
        label_tokens=tokens,
        texts={s: tuple(e.text for e in parts.rows[s]) for s in SPLITS},
        prompts=prompts,
        ids=ids,
        labels={
            s: np.asarray([index[e.label] for e in parts.rows[s]], dtype=np.int64) for s in SPLITS
        },
        lines={s: tuple(e.line for e in parts.rows[s]) for s in SPLITS},
        report=report,
    )


def _examples(spec: TaskSpec, table: Table) -> tuple[list[Example], list[Problem]]:
    good: list[Example] = []
    bad = list(table.problems)
    for row in table.rows:
        made = _example(spec, row)
        if isinstance(made, Problem):
            bad.append(made)
        else:
            good.append(made)
    bad.sort(key=lambda p: p.line)
    if not good:
        raise OptionError(
            f"no row of {shorten(table.name)} has both a text and a label; check the columns."
        )
    return good, bad


def _example(spec: TaskSpec, row: Row) -> Example | Problem:
    values = {c: _clean(row.values[c]) for c in spec.text_columns}
    label = _clean(row.values[spec.label_column])
    text = " ".join(v for v in values.values() if v)
    if not text:
        return Problem(row.line, "no text")
    if not label:
        return Problem(row.line, "no label")
    if len(label) > 200:
        return Problem(row.line, f"a label of {len(label):,} characters, at most 200")
    return Example(row.line, values, text, label)


def _clean(cell: str) -> str:
    """Without surrounding space, and without what is no text (halves of surrogate pairs, NUL)."""
    return "".join(c for c in cell if c != "\x00" and not 0xD800 <= ord(c) <= 0xDFFF).strip()


def _label_names(spec: TaskSpec, examples: Sequence[Example]) -> tuple[str, ...]:
    """Those with words in the order in which they are given, then the others by name."""
    seen = {e.label for e in examples}
    if len(seen) > MAX_CLASSES:
        raise OptionError(
            f"column {shorten(spec.label_column)!r} holds {len(seen):,} different labels and at"
            f" most {MAX_CLASSES} can be told apart; check that it is the label column."
        )
    if len(seen) < 2:
        raise OptionError(
            f"column {shorten(spec.label_column)!r} holds only the label"
            f" {shorten(next(iter(seen)))!r}; two are needed at least."
        )
    known = [label for label in spec.label_words if label in seen]
    return (*known, *sorted(seen - set(known)))


def _fit(
    spec: TaskSpec, values: Mapping[str, str], model: LanguageModel, check: Check
) -> tuple[str, tuple[int, ...], bool]:
    """A row's prompt and ids; its longest text is cut at the end until the model can read it."""
    check()
    prompt = render(spec.template, spec.text_columns, values)
    ids = _ids(model, prompt, spec.bos)
    if ids is not None:
        return prompt, ids, False
    longest = max(values, key=lambda c: len(values[c]))
    whole = values[longest]
    low, high = 0, len(whole)  # the longest beginning that fits lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        cut = {**values, longest: whole[:middle].rstrip()}
        if _ids(model, render(spec.template, spec.text_columns, cut), spec.bos) is None:
            high = middle
        else:
            low = middle
    cut = {**values, longest: whole[:low].rstrip()}
    prompt = render(spec.template, spec.text_columns, cut)
    ids = _ids(model, prompt, spec.bos)
    if ids is None or low == 0:
        raise OptionError(
            f"this template leaves no room for a text within {model.max_tokens:,} tokens; shorten"
            " it."
        )
    return prompt, ids, True


def _ids(model: LanguageModel, prompt: str, bos: str) -> tuple[int, ...] | None:
    """Token ids, None where the prompt is too long."""
    if len(prompt) > model.limits.max_characters:
        return None
    # The tokenizer's own ids are asked for once: a prompt that is too long is no error here.
    try:
        return model.tokenize(prompt, bos=bos).ids
    except PromptError:
        if not prompt.strip():
            raise
        return None


def _lengths(ids: Sequence[tuple[int, ...]]) -> Lengths:
    counts = [len(own) for own in ids]
    return Lengths(min(counts), float(statistics.median(counts)), max(counts))


def _warnings(
    balance: Mapping[str, Mapping[str, int]],
    tokens: Sequence[LabelToken],
    trimmed: int,
    duplicates: Mapping[str, int],
) -> tuple[str, ...]:
    out = []
    for label, count in balance["train"].items():
        if count < _FEW:
            out.append(f"Label {label!r} has {count} training rows: little to learn from.")
    counts = [c for c in balance["train"].values() if c]
    if counts and max(counts) > 3 * min(counts):
        out.append(
            f"Labels are unbalanced ({min(counts):,} to {max(counts):,} training rows): compare"
            " macro-F1 rather than accuracy."
        )
    for token in tokens:
        if len(token.ids) > 1:
            out.append(f"The word of label {token.label!r} is not one token: {token.rule}.")
    if trimmed:
        out.append(f"{trimmed:,} texts are longer than the model reads and are cut at their end.")
    if duplicates["contradictions"]:
        out.append(f"{duplicates['contradictions']:,} texts stand there with two labels.")
    return tuple(out)
