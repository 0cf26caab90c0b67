"""The report in words: rounding, verdicts read off the figures, the card."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from engine.frames.kinds import FRAMES
from training.data import write_json
from training.evaluate import weights_digest
from training.report import known_scores, measure
from training.report_text import BEGIN, END, into_card, markdown, passes

pytestmark = pytest.mark.slow

INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}


def text_row(bits: float) -> dict[str, Any]:
    return {
        "utf8_bytes": 1000,
        "loss": 3.0001,
        "bits_per_byte": bits,
        "xz_bits_per_byte": 2.0009,
        "peer_bits_per_byte": 3.0,
        "ngram_bits_per_byte": {"byte 8-gram": 1.9, "token 4-gram": 1.8},
    }


def frame(low: float, high: float) -> dict[str, Any]:
    words = [{"field": "animals", "word": "dog", "nearest": [" cat", "`"], "found": True}]
    share = {"value": (low + high) / 2, "low": low, "high": high}
    return {"share": share, "by_field": {"animals": [1, 1]}, "words": words}


@pytest.fixture
def report() -> dict[str, Any]:
    method = {"accuracy": INTERVAL, "note": ""}
    level = {"value": 0.0, "low": -0.1, "high": 0.1}
    return {
        "absent": "",
        "window_tokens": 256,
        "continuation_tokens": 40,
        "sampling": {"temperature": 0.8, "top_k": 40, "seed": 0},
        "continuations": [{"prompt": "Once", "greedy": " upon\na time", "sampled": " more"}],
        "texts": {"prose": text_row(1.7001), "wikitext2-test": text_row(1.85)},
        "peer": {"name": "peer", "parameters": 260032, "window_tokens": 512},
        "ngrams": [
            {"name": "byte 8-gram", "trained_symbols": 100, "trained_bytes": 40_000_000},
            {"name": "token 4-gram", "trained_symbols": 30, "trained_bytes": 40_000_000},
        ],
        "neighbours": {
            "asked": 1,
            "frames": {"output": frame(0.7, 0.9), "head": frame(0.7, 0.9), "random": frame(0, 0.1)},
        },
        "labels": [
            {
                "name": "AG News",
                "sizes": {"train": 10, "valid": 2, "test": 5},
                "chance": 0.3,
                "methods": [
                    {"method": "bag of words", "over_words": level, **method},
                    {"method": "linear probe", "over_words": level, **method},
                ],
            }
        ],
    }


def test_a_floor_is_passed_where_fewer_bits_are_needed(report: dict[str, Any]) -> None:
    """The verdict on each floor follows from the figures of each text."""
    assert passes(report) == {
        "`xz -9e`": ["prose", "wikitext2-test"],
        "byte 8-gram": ["prose", "wikitext2-test"],
        "token 4-gram": ["prose"],
        "peer": ["prose", "wikitext2-test"],
    }
    text = markdown(report)
    assert "**It does not beat token 4-gram on WikiText-2 test.**" in text
    assert "It beats byte 8-gram on every text." in text


def test_rounding_is_against_the_model(report: dict[str, Any]) -> None:
    """Its own bits are rounded up and what it is held against is rounded down."""
    row = next(
        line for line in markdown(report).splitlines() if line.startswith("| held-out prose")
    )
    assert row == "| held-out prose | 1,000 | 3.001 | **1.701** | 2.000 | 1.900 | 1.800 | 3.000 |"


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.1, 0.2, "above the bag"), (-0.2, -0.1, "below the bag"), (-0.1, 0.1, "level with the bag")],
)
def test_verdicts_on_labels_follow_the_interval(
    report: dict[str, Any], low: float, high: float, says: str
) -> None:
    """A difference is one only where its interval leaves zero out."""
    over = report["labels"][0]["methods"][1]["over_words"]
    over.update(low=low, high=high, value=(low + high) / 2)
    assert f"- Linear probe: {says} of words on AG News." in markdown(report)


def test_verdicts_on_frames_follow_the_intervals(report: dict[str, Any]) -> None:
    """Control and frames are told apart by their intervals only."""
    text = markdown(report)
    assert "clearly above the random control" in text
    assert "So few words do not tell the four trained frames apart." in text
    other = copy.deepcopy(report)
    other["neighbours"]["frames"]["random"] = frame(0.6, 0.8)
    other["neighbours"]["frames"]["head"] = frame(0.1, 0.2)
    text = markdown(other)
    assert "not clearly above the random control" in text
    assert "differ by more than so few words can blur" in text


def test_tables_are_whole(report: dict[str, Any]) -> None:
    """Every table's rows have as many cells as its head, whatever a token or a text holds."""
    width = 0
    for line in markdown(report).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = line.count("|")
        assert width in (0, cells), line
        width = cells


def test_the_card_keeps_all_but_the_report() -> None:
    """What stands around the marks stays, what stands between them goes; twice is once."""
    card = f"# Name\n\n{BEGIN}\nold\n{END}\n\n## Limits\n"
    once = into_card(card, "new")
    assert once == f"# Name\n\n{BEGIN}\n\nnew\n{END}\n\n## Limits\n"
    assert into_card(once, "new") == once


@pytest.mark.parametrize("card", ["none", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_card_without_marks_is_refused(card: str) -> None:
    """The message says which lines are wanted."""
    with pytest.raises(ValueError, match="A card must hold the line"):
        into_card(card, "new")


def test_without_the_shared_folder_one_sentence_says_so(small_model: Path, tmp_path: Path) -> None:
    """What needs the model alone is measured; what needs texts is named as not measured."""
    report = measure(small_model, tmp_path, tokens=2)
    assert report["absent"].count(". ") == 0
    assert "corpus/gutenberg-prose" in report["absent"]
    assert not {"texts", "peer", "ngrams", "labels"} & set(report)
    assert len(report["continuations"]) == 10
    assert set(report["neighbours"]["frames"]) == set(FRAMES)
    text = markdown(report)
    assert text.startswith("Not measured, because")
    assert "## Semantic neighbours" in text


def test_scores_are_taken_only_of_the_same_weights(tmp_path: Path) -> None:
    """What is written of these weights and this window is known; of others it is not."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert known_scores(tmp_path, 256) == {}
    texts = {"prose": {"loss": 1.0}}
    figures = {"weights": weights_digest(tmp_path), "window_tokens": 256, "texts": texts}
    write_json(tmp_path / "evaluation.json", figures)
    assert known_scores(tmp_path, 256) == texts
    assert known_scores(tmp_path, 128) == {}
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert known_scores(tmp_path, 256) == {}


def test_the_shipped_figures_are_of_the_shipped_weights(small_model: Path) -> None:
    """The card's JSON belongs to the weights beside it, and the card can be written anew."""
    known = json.loads((small_model / "evaluation.json").read_text(encoding="utf-8"))
    assert known["weights"] == weights_digest(small_model)
    card = (small_model / "README.md").read_text(encoding="utf-8")
    assert into_card(card, "new").count("new") >= 1


def test_the_card_says_what_the_figures_say(small_model: Path) -> None:
    """The report in the card is the one that its JSON gives."""
    known = json.loads((small_model / "evaluation.json").read_text(encoding="utf-8"))
    card = (small_model / "README.md").read_text(encoding="utf-8")
    assert into_card(card, markdown({"absent": "", **known})) == card
