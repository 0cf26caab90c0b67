"""Parts of the bench's table that were made one by one are the table that one run makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planted_tasks import table
from tiny_models import Folders

from bench.calibration_text import joined
from engine import LatentSpace, load
from engine.calibration.evidence.evaluation import evaluate, model_line, summarise
from engine.calibration.evidence.evaluation_result import Evaluation
from engine.calibration.evidence.protocol import MethodSettings
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tasks import Task, make_task
from engine.progress import drain

METHODS = ("zero-shot", "class-mean")
SETTINGS = MethodSettings()


def task(space: LatentSpace, name: str, seed: int) -> Task:
    spec = TaskSpec(name=name, template="{text}\nIt:", seed=seed, train=30, valid=10, test=20)
    return make_task(spec, table(60, seed=len(name)), space.model)


def part(space: LatentSpace, found: Evaluation, seeds: tuple[int, ...]) -> dict[str, Any]:
    return {
        "kind": "table", "model": model_line(space), "lines": list(found.tasks),
        "methods": METHODS, "seeds": seeds, "settings": SETTINGS, "left_out": {},
        "runs": {key: list(cell.per_seed) for key, cell in found.cells.items()},
        "adapters": (60, 3), "context": 192, "title": "", "remarks": ["said once"],
        "cpu": 1.0, "wall": 2.0,
    }  # fmt: skip


def test_parts_of_a_table_are_joined_where_only_their_sets_differ(
    folders: Folders, tmp_path: Path
) -> None:
    space = load(str(folders["llama"]), device="cpu", cache_dir=tmp_path, threads=1)

    def run(seeds: tuple[int, ...], *names: str) -> Evaluation:
        tasks = [lambda seed, name=name: task(space, name, seed) for name in names]
        return drain(evaluate(space, tasks, METHODS, seeds, settings=SETTINGS))

    seeds = (0, 1)
    one, two = (part(space, run(seeds, name), seeds) for name in ("first", "second one"))
    other = part(space, run((0,), "second one"), (0,))
    whole, apart = joined([one, two, other])
    assert apart is other
    assert (whole["cpu"], whole["wall"], whole["remarks"]) == (2.0, 4.0, ["said once"])
    assert joined([one, one]) == [one, one]  # the same set twice is not one table
    names = ("model", "lines", "methods", "seeds", "runs", "left_out", "settings")
    made, at_once = summarise(*(whole[name] for name in names)), run(seeds, "first", "second one")
    assert [line.name for line in made.tasks] == ["first", "second one"]
    for method in METHODS:
        assert made.averages[method].accuracy == at_once.averages[method].accuracy
        assert made.averages[method].macro_f1 == at_once.averages[method].macro_f1
