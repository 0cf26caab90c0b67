"""Files that were changed on their way: each is read, or refused in a sentence; nothing dies."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from asgi import PROMPT, load_tiny
from hostile_files import mutate

import app as app_package
from app.calibrate.parsing import Orders, load_table, parse
from app.maps.files.export import FORMATS, drawing_of, read, write
from app.storage.store import Store, verify
from engine import LatentSpace
from engine.calibration.labelled.rows import Row
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import Table
from engine.calibration.labelled.tasks import make_task
from engine.calibration.training.artifact import INFO, WEIGHTS, load_calibration, read_info, save
from engine.calibration.training.calibrated import Calibration
from engine.calibration.training.features import task_states
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.errors import BudgetExceeded, InputError, LexiscopeError
from engine.maps import MapOptions
from engine.maps import verify as verify_map
from engine.progress import drain, no_check

pytestmark = pytest.mark.slow

FILES = int(os.environ.get("LEXISCOPE_TEST_MUTATED_FILES", "300"))
"""Uploads of each kind; `make soak` takes a hundred thousand."""
ARTIFACTS = int(os.environ.get("LEXISCOPE_TEST_MUTATED_ARTIFACTS", "200"))
"""Saved things: a quarter each of calibrations, whose digest was or was not set right, maps and
label sets."""
ROOT = Path(app_package.__file__).parents[1]
MEMORY = 64 * 2**20
"""Bytes that a hostile upload may cost the process that serves."""


def told(error: LexiscopeError) -> None:
    """One sentence of a bearable length."""
    assert "\n" not in str(error)
    assert str(error).rstrip().endswith((".", ")"))
    assert len(str(error)) < 600


# Uploads

READER = textwrap.dedent(
    """
    import faulthandler, io, json, random, resource, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from hostile_files import mutate
    import numpy, pyarrow, pyarrow.parquet as parquet
    from engine.calibration.labelled.tables import read_table
    from engine.errors import LexiscopeError
    import psutil

    place, count = Path(sys.argv[2]) / "file", int(sys.argv[3])
    limit = psutil.Process().memory_info().vms + 2 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    texts = [f"some words, number {i} \\u00e9" for i in range(40)]
    labels = [("cat", "dog")[i % 2] for i in range(40)]
    csv = "text,label\\n" + "".join(f'"{t}",{l}\\n' for t, l in zip(texts, labels))
    lines = "".join(json.dumps({"text": t, "label": l, "n": 1.5}) + "\\n"
                    for t, l in zip(texts, labels))
    wholes = {"csv": csv.encode(), "jsonl": lines.encode()}
    for name, more in {
        "plain": {"compression": "none"},
        "packed": {"compression": "zstd", "row_group_size": 7},
        "pages": {"data_page_size": 64, "use_dictionary": False, "version": "1.0"},
    }.items():
        table = pyarrow.table({
            "text": pyarrow.array(texts), "label": pyarrow.array(labels).dictionary_encode(),
            "n": numpy.arange(40.0), "list": [[i] for i in range(40)],
        })
        out = io.BytesIO()
        parquet.write_table(table, out, **more)
        wholes[name] = out.getvalue()
    chance = random.Random(7)
    seen = {}
    for kind, whole in wholes.items():
        place.write_bytes(whole)
        ending = kind if kind in ("csv", "jsonl") else "parquet"
        assert len(read_table(place, "a." + ending).rows) == 40
        share = count if ending != "parquet" else -(-count // 3)
        for n in range(share):
            body = mutate(whole, chance)
            place.write_bytes(body)
            print(kind, n, flush=True)  # what it was reading when it died
            try:
                read_table(place, "a." + ending, max_rows=1000, max_cell=10_000)
                how = "read"
            except LexiscopeError as error:
                assert str(error).endswith((".", ")")) and "\\n" not in str(error), error
                how = "refused"
            except (MemoryError, ArithmeticError, LookupError, TypeError, RuntimeError) as error:
                how = "wrapped"  # app.calibrate.parsing makes a sentence of it
            seen.setdefault(ending, {}).setdefault(how, 0)
            seen[ending][how] += 1
    print(json.dumps(seen))
    """
)


def test_no_mutated_upload_ends_its_reader(tmp_path: Path) -> None:
    """CSV, JSON lines and Parquet in one process, which would die of the first crash."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", READER, str(Path(__file__).parents[1]),
         str(tmp_path), str(FILES)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    *before, last = done.stdout.splitlines()
    assert done.returncode == 0, (before[-1:], last, done.stderr[-3000:])
    seen = json.loads(last)
    for kind in ("csv", "jsonl", "parquet"):
        counts = seen[kind]
        assert sum(counts.values()) >= FILES
        assert counts["refused"] > 0  # the changes are not all harmless
        assert counts["read"] > 0


def orders(source: Path, target: Path, **more: Any) -> Orders:
    target.mkdir()
    given: dict[str, Any] = {
        "source": str(source), "target": str(target), "name": source.name,
        "max_bytes": 20_000_000, "max_rows": 200_000, "max_cell": 32_000, "seconds": 60.0,
        "memory": 2**30,
    }  # fmt: skip
    return Orders(**(given | more))


BOMBS = [
    "word_for_a_dictionary", "one_large_value", "many_row_groups", "many_columns", "nested",
    "lying_footer",
]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_a_sentence_and_the_server_no_memory(tmp_path: Path, bomb: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    source = tmp_path / "bomb.parquet"
    made = subprocess.run(  # elsewhere: what it takes to make one is not what it costs to refuse it
        [sys.executable, str(Path(__file__).parents[1] / "hostile_files.py"), bomb, str(source)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert source.stat().st_size < 20_000_000
    process = psutil.Process()
    before = process.memory_info().rss
    try:
        head = parse(orders(source, tmp_path / "out"))
    except (InputError, BudgetExceeded) as error:
        told(error)
    else:
        assert len(load_table(tmp_path / "out").rows) == head["rows"] <= 200_000
    assert process.memory_info().rss - before <= MEMORY
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 41_000_000


# What was saved


@pytest.fixture(scope="module")
def own(model_folder: Path, cache: Path) -> LatentSpace:
    """A space of this module's thread."""
    return load_tiny(model_folder, cache)


@pytest.fixture(scope="module")
def calibration(own: LatentSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small calibration as the engine writes it."""
    rows = tuple(
        Row(i + 2, {"text": f"The {kind} sat {i}", "label": kind})
        for i in range(40)
        for kind in ("cat", "dog")
    )
    table = Table("rows", ("text", "label"), rows, ())
    task = make_task(TaskSpec(), table, own.model)
    states = drain(task_states(own, task))
    made = drain(calibrate(own, states, task, CalibrationOptions(epochs=1)))
    assert isinstance(made, Calibration)
    return save(made, tmp_path_factory.mktemp("saved") / "one", extra={"accuracy": 0.5})


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON document stand."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    if isinstance(value, list):
        for i, one in enumerate(value[:4]):
            yield from leaves(one, (*path, i))


STRANGE: list[Any] = [
    None, True, -1, 0, 1e308, "", "x" * 300, "\ud800", [], {}, [[]], {"a": 1}, 10**30, "../..",
    [None], -0.5,
]  # fmt: skip


def strange(document: Any, chance: random.Random) -> Any:
    """The same document with a few values that do not belong there."""
    out = json.loads(json.dumps(document))
    for _ in range(chance.choice((1, 1, 3))):
        *before, last = chance.choice(list(leaves(out)))
        place = out
        for step in before:
            place = place[step]
        if chance.random() < 0.25 and isinstance(place, dict):
            del place[last]
        else:
            place[last] = chance.choice(STRANGE)
    return out


def test_no_mutated_calibration_is_more_than_a_sentence(
    own: LatentSpace, calibration: Path, tmp_path: Path
) -> None:
    chance = random.Random(9)
    info = json.loads((calibration / INFO).read_text(encoding="utf-8"))
    refused = 0
    for turn in range(ARTIFACTS // 2):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(calibration, folder)
        if turn % 3 == 0:
            (folder / WEIGHTS).write_bytes(mutate((folder / WEIGHTS).read_bytes(), chance))
            if turn % 2:  # by somebody who sets the digest right
                digest = hashlib.blake2b((folder / WEIGHTS).read_bytes(), digest_size=16)
                document = info | {"weights_digest": digest.hexdigest()}
                (folder / INFO).write_text(json.dumps(document), encoding="utf-8")
        elif turn % 3 == 1:
            (folder / INFO).write_bytes(mutate((folder / INFO).read_bytes(), chance))
        else:
            text = json.dumps(strange(info, chance))
            (folder / INFO).write_text(text, encoding="utf-8")
        try:
            read_info(folder)
            opened = load_calibration(folder, own)
            opened.check_model(own)
        except LexiscopeError as error:
            refused += 1
            told(error)
    assert refused > ARTIFACTS // 6


@pytest.mark.parametrize("format", FORMATS)
def test_no_mutated_map_is_more_than_a_sentence(own: LatentSpace, format: Any) -> None:
    options = MapOptions(prompt=PROMPT, layer=2, select="ids:1,2,3,4,5,6,7,8")
    whole = write(drawing_of(own.maps, options, format, "class", check=no_check), format)
    assert verify_map(own.maps, read(whole)).ok
    chance = random.Random(8)
    refused = 0
    for turn in range(max(8, ARTIFACTS // 4 // len(FORMATS))):
        body = mutate(whole, chance)
        if format == "json" and turn % 2:
            body = json.dumps(strange(json.loads(whole), chance)).encode()
        try:
            report = verify_map(own.maps, read(body))
            refused += not report.ok
            assert report.sentence
        except LexiscopeError as error:
            refused += 1
            told(error)
    assert format not in ("json", "npz") or refused > 0


def test_no_mutated_label_set_is_more_than_a_sentence(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    source = tmp_path / "a.csv"
    source.write_text("text,label\n" + "".join(f"row {i},{i % 3}\n" for i in range(50)))
    kept = store.publish("sets", lambda folder: parse(orders_into(source, folder)))
    place = store.folder_of("sets", kept.id)
    clean = {path.name: path.read_bytes() for path in place.iterdir()}
    chance = random.Random(4)
    refused = 0
    for _ in range(ARTIFACTS // 4):
        name = chance.choice(sorted(clean))
        (place / name).write_bytes(mutate(clean[name], chance))
        try:
            assert len(load_table(store.folder_of("sets", kept.id)).rows) == 50
        except LexiscopeError as error:
            refused += 1
            told(error)
        (place / name).write_bytes(clean[name])
    assert refused > ARTIFACTS // 8
    verify(place)
    store.close()


def orders_into(source: Path, target: Path) -> Orders:
    return Orders(str(source), str(target), source.name, 10**6, 10**4, 10**4, 60.0, 2**30)
