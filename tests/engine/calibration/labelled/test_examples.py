"""The two example sets: whole, balanced, varied, and neither trivial nor noise."""

from __future__ import annotations

import csv
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

import engine

FOLDER = Path(engine.__file__).parent / "examples"
SETS = {
    "topics": ({"world", "sports", "business", "technology"}, 100),
    "sentiment": ({"positive", "negative"}, 250),
}
"""Labels of each set and the fewest sentences of each label."""

LENGTHS = (5, 45)
"""Fewest and most words of a sentence."""

SAME_GRAMS = 0.2
"""Largest Jaccard overlap of two sentences' word 3-grams; two clear paraphrases have more."""

LEAK = 0.02
"""Largest share of sentences that hold a label of their set as a word."""

SAME_START = 0.35
"""Largest share of a label's sentences that begin with the same word."""

SAME_FIVE = 3
"""Most sentences of a set that may share one run of five words."""

Rows = list[tuple[str, str]]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


@pytest.fixture(scope="module", params=sorted(SETS))
def example(request: pytest.FixtureRequest) -> tuple[str, Rows]:
    with (FOLDER / f"{request.param}.csv").open(encoding="utf-8", newline="") as file:
        table = csv.reader(file, strict=True)
        assert next(table) == ["text", "label"]
        lines = list(table)
    assert all(len(line) == 2 for line in lines)
    return request.param, [(text, label) for text, label in lines]


def test_labels_are_known_and_balanced(example: tuple[str, Rows]) -> None:
    """Each label of the set has the same number of sentences, and enough of them."""
    name, rows = example
    labels, least = SETS[name]
    counts = Counter(label for _, label in rows)
    assert set(counts) == labels
    assert len(set(counts.values())) == 1
    assert min(counts.values()) >= least


def test_every_beginning_of_the_file_is_balanced(example: tuple[str, Rows]) -> None:
    """Whoever reads the first n rows gets each label as often, give or take one."""
    name, rows = example
    for n in range(8, len(rows), 7):
        counts = Counter(label for _, label in rows[:n])
        assert max(counts.values()) - min(counts[label] for label in SETS[name][0]) <= 1


def test_texts_are_clean(example: tuple[str, Rows]) -> None:
    """One line each, no space at the ends or doubled, no control sign, within the lengths."""
    for text, _ in example[1]:
        assert text == text.strip()
        assert "  " not in text
        assert text.isprintable()
        assert LENGTHS[0] <= len(text.split()) <= LENGTHS[1], text


def test_lengths_vary(example: tuple[str, Rows]) -> None:
    """There are short and long sentences under every label, and not at one label's expense."""
    name, rows = example
    means = []
    for label in SETS[name][0]:
        lengths = np.array([len(text.split()) for text, own in rows if own == label])
        assert np.percentile(lengths, 10) <= 10
        assert np.percentile(lengths, 95) >= 20
        assert lengths.max() >= 35
        means.append(lengths.mean())
    assert max(means) / min(means) < 1.2


def test_no_two_sentences_are_nearly_the_same() -> None:
    """Over both sets no pair shares more than a fifth of its runs of three words."""
    texts = []
    for name in SETS:
        with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            texts += [row["text"] for row in csv.DictReader(file)]
    assert len({tuple(words(text)) for text in texts}) == len(texts)
    runs = [grams(text, 3) for text in texts]
    for (one, first), (two, second) in combinations(enumerate(runs), 2):
        shared = len(first & second)
        if shared:
            assert shared / len(first | second) < SAME_GRAMS, (texts[one], texts[two])


def test_no_pattern_is_repeated(example: tuple[str, Rows]) -> None:
    """No run of five words and no first word recurs as a template's would."""
    name, rows = example
    runs = Counter(run for text, _ in rows for run in grams(text, 5))
    assert max(runs.values()) <= SAME_FIVE, runs.most_common(3)
    for label in SETS[name][0]:
        starts = Counter(words(text)[0] for text, own in rows if own == label)
        assert max(starts.values()) <= SAME_START * sum(starts.values())


def test_labels_do_not_stand_in_the_text(example: tuple[str, Rows]) -> None:
    """Hardly a sentence names a label, so that reading the label off is no way to solve the set."""
    name, rows = example
    naming = [text for text, _ in rows if SETS[name][0] & set(words(text))]
    assert len(naming) <= LEAK * len(rows), naming


@pytest.mark.slow
def test_a_bag_of_words_learns_something_but_not_all(example: tuple[str, Rows]) -> None:
    """Held-out accuracy of a word count is above chance by far and below perfection by far."""
    name, rows = example
    texts, labels = (list(part) for part in zip(*rows, strict=True))
    method = make_pipeline(
        CountVectorizer(ngram_range=(1, 2), binary=True), LogisticRegression(max_iter=1000)
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    right = np.mean(cross_val_predict(method, texts, labels, cv=folds) == np.array(labels))
    chance = 1 / len(SETS[name][0])
    deviation = (chance * (1 - chance) / len(rows)) ** 0.5
    assert right > chance + 5 * deviation
    assert right < 0.9


def test_length_alone_does_not_tell_the_label(example: tuple[str, Rows]) -> None:
    """The number of words and of signs leaves a classifier close to chance."""
    name, rows = example
    signs = np.array(
        [[len(text.split()), len(text), text.count(","), text[-1] in ".?!"] for text, _ in rows],
        dtype=float,
    )
    signs = (signs - signs.mean(0)) / signs.std(0)
    labels = [label for _, label in rows]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    right = np.mean(cross_val_predict(LogisticRegression(), signs, labels, cv=folds) == labels)
    assert right < 1 / len(SETS[name][0]) + 0.12
