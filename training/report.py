"""The model report: what a model folder is worth, beside what it has to beat.

Bits per byte beside another real model, `xz` and two Kneser–Ney n-grams; continuations; semantic
neighbours in every frame; what the last-layer states know of labels. `training.report_text` writes
it in words. `make model-report` runs it and puts the result into the model's card.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.loading import load
from training.config import CONFIGS
from training.data import documents, split_files, write_json
from training.evaluate import TextScore, continuations, score, weights_digest
from training.neighbours import chosen_words, neighbours
from training.ngrams import fit_ngrams, sample
from training.probes import probe_tables
from training.report_text import into_card, markdown

SOURCES: Final = {"prose": "corpus/gutenberg-prose", "textbooks": "corpus/openstax-ccby"}
"""Training sources below the shared folder, by the names of `training.config`."""
FOREIGN: Final = {
    "wikitext2-valid": "eval/wikitext2/valid.txt.xz",
    "wikitext2-test": "eval/wikitext2/test.txt.xz",
}
PEER: Final = "models/stories260K-llama"
DATASETS: Final = "datasets"
ROWS: Final = {"train": 1800, "valid": 200, "test": 1000}
"""Rows of each labelled set: all that the smallest of them has to train on."""


def measure(
    folder: Path,
    shared: Path,
    *,
    window: int | None = None,
    tokens: int = 40,
    ngram_bytes: int = 40_000_000,
    seed: int = 0,
    config: str = "small",
    again: bool = False,
) -> dict[str, Any]:
    """Everything that can be measured here.

    Args:
        folder: the model.
        shared: the folder with texts, data sets and the other model; may be absent.
        window: tokens the model reads at a time; `None` is all it declares.
        tokens: length of a continuation.
        ngram_bytes: training text of the n-grams.
        seed: of sampling, rows and intervals.
        config: whose shares of the sources the n-grams are fitted on.
        again: score texts anew that `evaluation.json` has the score of.

    Returns:
        JSON-able figures; `absent` is one sentence where something could not be measured.
    """
    clock = _Clock()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    window = window or int(model.config.max_position_embeddings)
    report: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": weights_digest(folder),
        "window_tokens": window,
        "continuation_tokens": tokens,
        "sampling": {"temperature": 0.8, "top_k": 40, "seed": seed},
        "continuations": continuations(model, tokenizer, tokens, seed),
    }
    clock.done("continuations")
    places, absent = _places(shared)
    report["absent"] = absent
    if not absent:
        texts = {name: _held_out(place) for name, place in places.items()}
        known = {} if again else known_scores(folder, window)
        report["texts"] = _texts(model, tokenizer, texts, window, known, clock)
        _peer(shared / PEER, texts, report, clock)
        training_text = sample(
            {name: places[name] for name in SOURCES}, CONFIGS[config].weights, ngram_bytes
        )
        report["ngrams"] = []
        for ngram in fit_ngrams(training_text, tokenizer, model.config.vocab_size):
            report["ngrams"].append(ngram.to_dict())
            for name, documents_of in texts.items():
                row = report["texts"][name].setdefault("ngram_bits_per_byte", {})
                row[ngram.name] = ngram.bits_per_byte(documents_of)
            clock.done(ngram.name)
        del training_text
    del model
    space = load(folder, seed=seed)
    frames = neighbours(space)
    report["neighbours"] = {
        "asked": len(chosen_words(space)),
        "frames": {name: found.to_dict() for name, found in frames.items()},
    }
    clock.done("neighbours")
    if not absent:
        report["labels"] = []
        for table in probe_tables(space, shared / DATASETS, seed=seed, **ROWS):
            report["labels"].append(table.to_dict())
            clock.done(table.name)
    report["seconds"] = clock.seconds
    return report


class _Clock:
    """Seconds of each part, said as it ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = round(now - self._last, 1)
        self._last = now
        print(f"{part}: {self.seconds[part]} s", flush=True)


def _places(shared: Path) -> tuple[dict[str, Path], str]:
    """Where the texts lie, or one sentence that says what is not there."""
    places = {name: shared / path for name, path in (SOURCES | FOREIGN).items()}
    needed = [*places.values(), shared / PEER, shared / DATASETS]
    missing = [path.relative_to(shared).as_posix() for path in needed if not path.exists()]
    if not missing:
        return places, ""
    return {}, (
        f"Not measured, because {shared.as_posix()} lacks {', '.join(missing)}: bits per byte,"
        " n-grams and labels; continuations and neighbours need the model alone."
    )


def _held_out(place: Path) -> list[str]:
    train, valid = split_files(place)
    return [text for file in valid or train for text in documents(file)]


def known_scores(folder: Path, window: int) -> dict[str, dict[str, Any]]:
    """Scores by text that `training.evaluate` or a report wrote of these very weights.

    Empty where there are none, or where they are of other weights or another window.
    """
    file = folder / "evaluation.json"
    if not file.exists():
        return {}
    known = json.loads(file.read_text(encoding="utf-8"))
    same = known.get("weights") == weights_digest(folder) and known.get("window_tokens") == window
    return dict(known["texts"]) if same else {}


def _texts(
    model: Any,
    tokenizer: Any,
    texts: Mapping[str, Sequence[str]],
    window: int,
    known: Mapping[str, Mapping[str, Any]],
    clock: _Clock,
) -> dict[str, dict[str, Any]]:
    fields = [field.name for field in dataclasses.fields(TextScore)]
    rows: dict[str, dict[str, Any]] = {}
    for name, some in texts.items():
        size = sum(len(text.encode()) for text in some)
        found = known.get(name, {})
        if found.get("utf8_bytes") == size:
            rows[name] = {field: found[field] for field in fields}
        else:
            rows[name] = asdict(score(model, tokenizer, some, window))
        clock.done(name)
    return rows


def _peer(
    folder: Path, texts: Mapping[str, Sequence[str]], report: dict[str, Any], clock: _Clock
) -> None:
    """The other model on the same texts, with as long a window as it was trained for."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    window = int(model.config.max_position_embeddings)
    report["peer"] = {
        "name": folder.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "window_tokens": window,
    }
    for name, some in texts.items():
        found = score(model, tokenizer, some, window)
        report["texts"][name]["peer_bits_per_byte"] = found.bits_per_byte
    clock.done(folder.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures a model folder; writes report.json and report.md, and on request its card."""
    parser = argparse.ArgumentParser(prog="python -m training.report", description=main.__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/small"))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--window", type=int, help="tokens read at a time; all the model declares")
    parser.add_argument("--tokens", type=int, default=40, help="length of a continuation")
    parser.add_argument("--ngram-bytes", type=int, default=40_000_000)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/report"))
    parser.add_argument(
        "--again", action="store_true", help="score texts anew that evaluation.json has scores of"
    )
    parser.add_argument(
        "--card", action="store_true", help="write README.md and evaluation.json of the model too"
    )
    options = parser.parse_args(arguments)
    report = measure(
        options.model,
        options.shared,
        window=options.window,
        tokens=options.tokens,
        ngram_bytes=options.ngram_bytes,
        seed=options.seed,
        config=options.config,
        again=options.again,
    )
    write_json(options.out / "report.json", report)
    text = markdown(report)
    (options.out / "report.md").write_text(text, encoding="utf-8")
    print(text)
    if options.card and report["absent"]:
        print("The card was left as it is, because it holds more than was measured now.")
    elif options.card:
        card = options.model / "README.md"
        card.write_text(into_card(card.read_text(encoding="utf-8"), text), encoding="utf-8")
        # Seconds say something of the machine, not of the model.
        kept = {key: value for key, value in report.items() if key not in ("seconds", "absent")}
        write_json(options.model / "evaluation.json", kept)


if __name__ == "__main__":
    main()
