"""Calibration against its competitors on five data sets, and how time grows.

The whole table takes long, so it is a command of its own, in parts that can run side by side:

python -m bench.calibration table --model models/small --data DIR --out A.pickle
python -m bench.calibration growth --model models/small --data DIR --out G.pickle
python -m bench.calibration prompts --model models/small --data DIR --out P.pickle
python -m bench.calibration write A.pickle B.pickle G.pickle

`python -m bench --only calibration` runs a small part of the same: two sets, one seed.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.calibration_text import CLASSES, EXAMPLES, GROWING, write
from bench.report import Goal, Section
from bench.setting import Setting
from engine import LatentSpace, load
from engine.calibration.evidence.evaluation import (
    TaskSource,
    evaluate,
    model_line,
    prepare,
    summarise,
)
from engine.calibration.evidence.evaluation_result import Evaluation
from engine.calibration.evidence.findings import percent, points
from engine.calibration.evidence.methods import METHODS, methods_named, run_method
from engine.calibration.evidence.protocol import MethodContext, MethodSettings
from engine.calibration.labelled.known import known_spec
from engine.calibration.labelled.rows import Row
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import Table, read_table
from engine.calibration.labelled.tasks import Task, make_task
from engine.checkpoints import Checkpoints
from engine.progress import Steps, drain

SETS = ("agnews", "sst2", "subj", "trec", "mr")
TITLES = {"agnews": "AG News", "sst2": "SST-2", "subj": "SUBJ", "trec": "TREC", "mr": "MR"}
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "datasets"


def source(space: LatentSpace, folder: Path, sizes: dict[str, int]) -> Callable[[int], Task]:
    """A data set whose rows are drawn by the seed."""
    tables = [read_table(folder / f"{part}.jsonl") for part in ("train", "test")]

    def draw(seed: int) -> Task:
        spec = known_spec(folder.name, seed=seed, **sizes)
        return make_task(
            replace(spec, name=TITLES[folder.name]), tables[0], space.model, test=tables[1]
        )

    return draw


def table(given: argparse.Namespace) -> None:
    """All methods on all sets for one model; every run is kept and none is done again."""
    space = load(given.model, device="cpu", offline=True, threads=given.threads)
    sizes = {"train": given.rows, "valid": given.valid, "test": given.test}
    settings = MethodSettings(
        adapter_rows=given.adapter_rows,
        adapter_epochs=given.adapter_epochs,
        adapter_batch=8,
        context_tokens=given.context,
        clock="processor",
    )
    seeds = tuple(range(given.seeds))
    lines, runs, left_out = [], {}, {}
    cpu, wall = time.process_time(), time.perf_counter()
    for name in given.sets.split(","):
        found = _told(
            evaluate(
                space,
                [source(space, given.data / name, sizes)],
                [given.methods],
                seeds,
                settings=settings,
                kept=Checkpoints(given.out.with_suffix(".runs")),
            )
        )
        lines += found.tasks
        runs |= {key: list(cell.per_seed) for key, cell in found.cells.items()}
        left_out |= found.left_out
        whole = summarise(
            model_line(space),
            lines,
            [m.name for m in methods_named(given.methods)],
            seeds,
            runs,
            left_out,
            settings,
        )
        kept = {
            "kind": "table",
            "model": model_line(space),
            "lines": lines,
            "methods": whole.methods,
            "seeds": seeds,
            "runs": runs,
            "left_out": left_out,
            "settings": settings,
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "adapters": (given.adapter_rows, given.adapter_epochs),
            "context": given.context,
            "title": given.title,
            "remarks": given.remark,
        }
        given.out.write_bytes(pickle.dumps(kept))
    for finding in whole.findings:
        print(f"[{finding.verdict}] {finding.text}", flush=True)


def _told(steps: Steps[Evaluation]) -> Evaluation:
    """Drain, with a line per part."""
    said = ""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result: Evaluation = end.value
            return result
        if step.note != said:
            said = step.note
            print(f"{step.done}/{step.total} {said}", file=sys.stderr, flush=True)


def growth(given: argparse.Namespace) -> None:
    """Seconds against training rows (SUBJ) and against classes (fine labels of TREC)."""
    space = load(given.model, device="cpu", offline=True, threads=given.threads)
    out: dict[str, Any] = {"kind": "growth", "model": space.model.name, "points": []}
    if given.out.exists():  # what was measured before an interruption stands
        out = pickle.loads(given.out.read_bytes())
    done = {(p["what"], p["size"]) for p in out["points"]}
    for count in EXAMPLES:
        if ("examples", count) in done:
            continue
        draw = source(space, given.data / "subj", {"train": count, "valid": 50, "test": 100})
        out["points"] += _grown(space, draw(0), "examples", count)
        given.out.write_bytes(pickle.dumps(out))
    fine = fine_labels(given.data / "trec" / "train.jsonl", max(CLASSES))
    words = single_words(space, max(CLASSES))
    for count in CLASSES:
        if ("classes", count) in done:
            continue
        task = classes_task(space, fine, words, count)
        out["points"] += _grown(space, task, "classes", count)
        given.out.write_bytes(pickle.dumps(out))


def fine_labels(path: Path, count: int) -> Table:
    """TREC's rows of its most frequent fine labels, labelled by them."""
    found = read_table(path)
    tally: dict[str, int] = {}
    for row in found.rows:
        tally[row.values["fine"]] = tally.get(row.values["fine"], 0) + 1
    kept = sorted(tally, key=lambda label: (-tally[label], label))[:count]
    rows = tuple(
        Row(r.line, {"text": r.values["text"], "label": f"c{kept.index(r.values['fine']):02d}"})
        for r in found.rows
        if r.values["fine"] in kept
    )
    return Table("trec-fine", ("text", "label"), rows, ())


def single_words(space: LatentSpace, count: int) -> list[str]:
    """Words of the vocabulary that are one token: time does not depend on which."""
    texts = [space.vocabulary.texts[i] for i in range(space.model.vocabulary)]
    words = [t.strip() for t in texts if t.startswith(" ") and t.strip().isalpha() and len(t) > 4]
    return list(dict.fromkeys(w.lower() for w in words if w.strip().islower()))[:count]


def classes_task(space: LatentSpace, fine: Table, words: Sequence[str], count: int) -> Task:
    """As many rows whatever the classes."""
    labels = [f"c{i:02d}" for i in range(count)]
    rows = tuple(r for r in fine.rows if r.values["label"] in labels)
    spec = TaskSpec(
        name=f"trec-fine-{count}",
        template="Question: {text}\nType:",
        label_words=dict(zip(labels, words, strict=False)),
        train=320,
        valid=50,
        test=100,
        seed=0,
    )
    return make_task(spec, replace(fine, rows=rows), space.model)


def _grown(space: LatentSpace, task: Task, what: str, count: int) -> list[dict[str, Any]]:
    base = MethodSettings()
    # Without early stopping, so that every size trains equally long.
    settings = replace(
        base, shots=1, clock="processor", calibration=replace(base.calibration, patience=0)
    )
    context = drain(prepare(space, task, seed=0, settings=settings))
    out = []
    for name in GROWING:
        best: dict[str, Any] | None = None
        for _ in range(2):  # the quicker of two: nearer to a machine with nothing else to do
            fresh = MethodContext(space, task, context.states, 0, settings, context.state_seconds)
            outcome = drain(run_method(METHODS[name], fresh))
            reads = METHODS[name].needs == "states"
            fit = outcome.seconds_train - (context.train_seconds if reads else 0.0)
            point = {
                "what": what,
                "size": count,
                "method": name,
                "train": outcome.seconds_train,
                "fit": fit if reads else None,
                "infer": outcome.seconds_infer,
            }
            if best is None or fit < best["_fit"]:
                best = point | {"_fit": fit}
        assert best is not None
        out.append(best)
        print(what, count, name, {k: v for k, v in best.items() if k != "_fit"}, flush=True)
    return out


def prompts(given: argparse.Namespace) -> None:
    """kNN prompting with and without running the shared beginning once."""
    space = load(given.model, device="cpu", offline=True, threads=given.threads)
    rows = []
    for name in ("trec", "mr"):
        task = source(space, given.data / name, {"train": 500, "valid": 125, "test": 300})(0)
        row: dict[str, Any] = {"model": space.model.name, "task": task.name}
        for key, share in (("shared", True), ("whole", False)):
            settings = MethodSettings(share_prefix=share, clock="processor")
            context = drain(prepare(space, task, seed=0, settings=settings))
            outcome = drain(run_method(METHODS["knn-prompting"], context))
            row |= {key: outcome.seconds, "shots": outcome.settings["shots"]}
        row["calibration"] = drain(run_method(METHODS["calibration-sm"], context)).seconds
        print(row, flush=True)
        rows.append(row)
        given.out.write_bytes(pickle.dumps({"kind": "whole", "rows": rows}))


def calibration(setting: Setting) -> Section:
    """Two sets, one seed, no adapters: a part of the table that `make bench` can afford."""
    out = Section(
        "Calibration against kNN prompting and the linear probe",
        "SST-2 and TREC, the model that ships, 200 rows to train, 100 to test, seed 0, prompts of"
        " at most 512 tokens; accuracy"
        " with its interval, seconds with the texts' reading.",
        ("method", "accuracy %", "train s", "infer s"),
    )
    if not (DATA / "sst2").is_dir():
        out.notes.append("not run: the data sets are not on this machine")
        return out
    space = load(device="cpu", offline=True, threads=setting.threads)
    sizes = {"train": 200, "valid": 50, "test": 100}
    tasks: list[TaskSource] = [source(space, DATA / name, sizes) for name in ("sst2", "trec")]
    names = ["zero-shot,knn-prompting,linear-probe,calibration-sm,calibration-sm-gt"]
    settings = MethodSettings(context_tokens=512)  # what this model was trained on
    found = drain(evaluate(space, tasks, names, [0], settings=settings))
    for name in found.methods:
        mean = found.averages[name]
        out.add(
            METHODS[name].title,
            percent(mean.accuracy),
            f"{mean.seconds_train:.2f}",
            f"{mean.seconds_infer:.2f}",
        )
    ours, theirs = (found.averages[m] for m in ("calibration-sm", "knn-prompting"))
    gains = {(d.first, d.second): d.mean for d in found.differences}
    against = gains["calibration-sm", "knn-prompting"]
    out.goals += [
        Goal("accuracy over kNN prompting's", against.value, 0.0, True, points(against)),
        Goal("seconds over kNN prompting's", ours.seconds / theirs.seconds, 0.5),
    ]
    return out


def main() -> int:
    """Parse and run a part."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.calibration", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(required=True)
    for name, work in (("table", table), ("growth", growth), ("prompts", prompts)):
        part = commands.add_parser(name)
        part.add_argument("--model", required=True)
        part.add_argument("--data", type=Path, default=DATA)
        part.add_argument("--out", type=Path, required=True)
        part.add_argument("--threads", type=int, default=1)
        part.set_defaults(work=work)
        if name == "table":
            part.add_argument("--sets", default=",".join(SETS))
            part.add_argument("--methods", default="all")
            part.add_argument("--rows", type=int, default=500)
            part.add_argument("--valid", type=int, default=125)
            part.add_argument("--test", type=int, default=300)
            part.add_argument("--seeds", type=int, default=3)
            part.add_argument("--adapter-rows", type=int, default=200)
            part.add_argument("--adapter-epochs", type=int, default=3)
            part.add_argument("--context", type=int, help="tokens of a prompt at most")
            part.add_argument("--title", default="", help="in front of the model's name")
            part.add_argument("--remark", action="append", default=[], help="a line of the report")
    last = commands.add_parser("write")
    last.add_argument("parts", nargs="+", type=Path)
    last.set_defaults(work=write)
    given = parser.parse_args()
    given.work(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
