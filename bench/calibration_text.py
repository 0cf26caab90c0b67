"""The parts of a run of `bench.calibration` as a results file: Markdown and JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import exponent
from bench.report import hardware
from engine.calibration.evidence.evaluation import summarise
from engine.calibration.evidence.findings import counted, signed
from engine.calibration.evidence.methods import METHODS

RESULTS = Path(__file__).with_name("results")
EXAMPLES = (100, 200, 400, 800, 1600)
CLASSES = (2, 4, 8, 16, 32)
GROWING = ("knn-prompting", "knn-lm", "class-mean", "linear-probe", "calibration-sm")


def exponents(found: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, float, float]]:
    """(growing with, method, part, exponent, r²) by least squares on logarithms."""
    out = []
    for what in ("examples", "classes"):
        for name in GROWING:
            own = [p for p in found if p["what"] == what and p["method"] == name]
            for part in ("train", "fit", "infer"):
                values = [p[part] for p in own]
                if len(own) > 1 and all(v is not None and v > 0 for v in values):
                    slope, r2 = exponent([float(p["size"]) for p in own], values)
                    out.append((what, name, part, slope, r2))
    return out


_SAME = ("kind", "model", "methods", "seeds", "settings", "adapters", "context", "title")


def joined(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts, those tables made one that differ in nothing but their sets, in the order given."""
    out: list[dict[str, Any]] = []
    for part in parts:
        alike = (p for p in out if part["kind"] == "table" and _alike(p, part))
        first = next(alike, None)
        if first is None:
            out.append(part)
            continue
        whole = first | {name: first[name] | part[name] for name in ("runs", "left_out")}
        whole |= {name: first[name] + part[name] for name in ("lines", "cpu", "wall")}
        whole["remarks"] = list(dict.fromkeys([*first["remarks"], *part["remarks"]]))
        out[out.index(first)] = whole
    return out


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = [{line.name for line in part.get("lines", ())} for part in (one, other)]
    return not names[0] & names[1] and all(one.get(k) == other.get(k) for k in _SAME)


def _summed(part: dict[str, Any]) -> dict[str, Any]:
    """A table with its intervals and sentences, which come from the rows' outcomes."""
    if part["kind"] != "table":
        return part
    names = ("lines", "methods", "seeds", "runs", "left_out", "settings")
    found = summarise(part["model"], *(part[name] for name in names))
    return part | {"evaluation": found.to_dict(), "outcomes": _outcomes(part)}


def _outcomes(part: dict[str, Any]) -> dict[str, Any]:
    """Each test row's class and answers as digits, so that intervals can be computed anew.

    `rows` numbers the rows of a task, seed by seed: equal numbers are the same row.
    """
    out: dict[str, Any] = {}
    for (method, name), runs in part["runs"].items():
        task = out.setdefault(name, {"rows": [], "truth": [], "predicted": {}})
        distinct = dict.fromkeys(int(row) for run in runs for row in run.rows)
        number = {row: i for i, row in enumerate(distinct)}
        task["rows"] = [[number[int(row)] for row in run.rows] for run in runs]
        task["truth"] = ["".join(map(str, run.truth)) for run in runs]
        task["predicted"][method] = ["".join(map(str, run.predicted)) for run in runs]
    return out


def write(given: argparse.Namespace) -> None:
    """Parts → bench/results/calibration_*.md and .json."""
    parts = [_summed(p) for p in joined([pickle.loads(path.read_bytes()) for path in given.parts])]
    words, slug = hardware()
    today = datetime.date.today().isoformat()
    tables = [p for p in parts if p["kind"] == "table"]
    grown = [p for p in parts if p["kind"] == "growth"]
    whole = [p for p in parts if p["kind"] == "whole"]
    lines = [f"# Calibration and its competitors, {today}", "", f"- machine: {words}"]
    if tables:
        first = tables[0]["evaluation"]
        task = first["tasks"][0]
        versions = ", ".join(f"{n} {v}" for n, v in first["versions"].items())
        lines += [
            f"- versions: {versions}",
            f"- rows of each set, drawn by the seed: {task['train']} to train, {task['valid']} to"
            f" choose settings and stop, {task['test']} to test; seeds draw the"
            " split, the demonstrations and first values",
            "- intervals: 95 % bootstrap of two levels: seeds, and the distinct test rows of all"
            " seeds together, for they draw from one test file and share rows; differences paired",
            "- seconds: processor time of one thread, which is what the clock shows on a machine"
            " with nothing else to do (this one was shared); the texts' reading is charged to"
            " every method as if it were alone; sums over the sets, means over the seeds",
            "- calibration's default temperature and start were chosen on held-out parts of the"
            " training files of these sets (docs/decisions/0009), never on their test files",
        ]
    for part in tables:
        lines += _table_text(part)
    for part in grown:
        lines += _growth_text(part)
    for part in whole:
        lines += _whole_text(part)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"calibration_{slug}_{today}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    plain = {
        "machine": words,
        "date": today,
        "tables": [
            p["evaluation"]
            | {
                "title": p["title"],
                "remarks": p["remarks"],
                "cpu_seconds": p["cpu"],
                "outcomes": p["outcomes"],
            }
            for p in tables
        ],
        "growth": [p | {"exponents": exponents(p["points"])} for p in grown],
        "whole_prompts": [row for p in whole for row in p["rows"]],
    }
    path.with_suffix(".json").write_text(json.dumps(plain) + "\n", encoding="utf-8")
    print(f"written: bench/results/{path.name} and .json")


def _table_text(part: dict[str, Any]) -> list[str]:
    found = part["evaluation"]
    model = found["model"]
    names = [t["name"] for t in found["tasks"]]
    out = [
        "",
        f"## {part.get('title', '')}{model['name']} ({model['parameters']:,} parameters,"
        f" d = {model['width']}, v = {model['vocabulary']:,})",
        "",
        f"{part['cpu'] / 60:.1f} min of processor time, {part['wall'] / 60:.1f} min on the clock;"
        f" {counted(len(found['seeds']), 'seed')}; LoRA and IA3 on {part['adapters'][0]} rows,"
        f" {part['adapters'][1]} epochs; prompts of at most {part.get('context') or 512} tokens."
        " Chance (largest class): "
        + ", ".join(f"{t['name']} {100 * t['chance']:.1f}" for t in found["tasks"])
        + ".",
        "",
    ]
    for finding in found["findings"]:
        mark = "" if finding["verdict"] == "said" else f"**{finding['verdict']}** "
        out.append(f"- {mark}{finding['text']}")
    out += [f"- {remark}" for remark in part.get("remarks", ())]
    out += ["", "Accuracy in %, mean over the seeds, with its interval; F1 is macro-F1.", ""]
    head = ["method", *names, "mean", "F1", "train s", "infer s", "peak MiB", "stored KiB"]
    out += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for method in found["methods"]:
        cells = [method["title"]]
        for name in names:
            cell = method["tasks"].get(name)
            cells.append("not run" if cell is None else _percent(cell["accuracy"]))
        average = method["average"]
        if average is None:
            cells += [""] * 6
        else:
            own = method["tasks"].values()
            cells += [
                f"**{_percent(average['accuracy'])}**",
                f"{100 * average['macro_f1']['value']:.1f}",
                f"{average['seconds_train']:.1f}",
                f"{average['seconds_infer']:.1f}",
                f"{max(c['peak_bytes'] for c in own) / 2**20:.0f}",
                f"{sum(c['stored_bytes'] for c in own) / len(own) / 2**10:.1f}",
            ]
        out.append("| " + " | ".join(cells) + " |")
    reasons = {r for m in found["methods"] for r in m["left_out"].values()}
    out += ["", *(f"- not run: {r}" for r in sorted(reasons))]
    out += ["Differences in accuracy, first minus second, in points:", ""]
    out += ["| first | second | mean | " + " | ".join(names) + " |"]
    out += ["|---|---|---:|" + "---:|" * len(names)]
    for one in found["differences"]:
        cells = [_points(one["per_task"][n]) if n in one["per_task"] else "" for n in names]
        pair = " | ".join(METHODS[one[side]].title for side in ("first", "second"))
        out.append(f"| {pair} | **{_points(one['mean'])}** | {' | '.join(cells)} |")
    return out


def _percent(one: dict[str, float]) -> str:
    return f"{100 * one['value']:.1f} ({100 * one['low']:.1f}–{100 * one['high']:.1f})"


def _points(one: dict[str, float]) -> str:
    return f"{signed(one['value'])} ({signed(one['low'])} to {signed(one['high'])})"


def _growth_text(part: dict[str, Any]) -> list[str]:
    out = [
        "",
        f"## How time grows ({part['model']})",
        "",
        f"Training rows {', '.join(map(str, EXAMPLES))} of SUBJ (100 test rows); classes"
        f" {', '.join(map(str, CLASSES))}, the most frequent fine labels of TREC, 320 training"
        " rows. One demonstration per class, calibration of 100 epochs without early stopping."
        " Seconds ∝ size^exponent by least squares on logarithms. *train* has the reading of the"
        " texts in it, *fit* has not.",
        "",
        "| growing with | method | part | exponent | r² | seconds, smallest to largest |",
        "|---|---|---|---:|---:|---:|",
    ]
    for what, name, piece, slope, r2 in exponents(part["points"]):
        own = [p for p in part["points"] if p["what"] == what and p["method"] == name]
        values = " ".join(f"{p[piece]:.3g}" for p in own)
        title = METHODS[name].title
        out.append(f"| {what} | {title} | {piece} | {slope:.2f} | {r2:.3f} | {values} |")
    return out


def _whole_text(part: dict[str, Any]) -> list[str]:
    out = [
        "",
        f"## kNN prompting without a shared beginning ({part['rows'][0]['model']})",
        "",
        "Ours runs the demonstrations once for all prompts. Whole prompts, as the method's own code"
        " runs them, give the same answers; seconds of processor time, seed 0:",
        "",
        "| set | shots | shared | whole prompts | calibration [sm] | its share of whole prompts |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in part["rows"]:
        share = row["calibration"] / row["whole"]
        out.append(
            f"| {row['task']} | {row['shots']} | {row['shared']:.1f} | {row['whole']:.1f} |"
            f" {row['calibration']:.1f} | {share:.2f} |"
        )
    return out
