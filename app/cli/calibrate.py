"""The commands ``lexiscope calibrate`` and ``lexiscope evaluate``: labelled text in a terminal.

The same engine as the page. Progress goes to stderr where that is a terminal; figures to stdout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from app.cli.report import evaluation_csv, report_html
from app.cli.text import comparison_text, evaluation_text, task_lines
from app.settings import Settings
from app.web import export
from engine import FRAMES, LatentSpace
from engine.calibration.evidence.comparison import compare_before_after
from engine.calibration.evidence.evaluation import evaluate, prepare
from engine.calibration.evidence.findings import percent
from engine.calibration.evidence.methods import METHODS, VARIANTS, methods_named, run_method
from engine.calibration.evidence.metrics import classification_report
from engine.calibration.evidence.protocol import MethodSettings, Outcome
from engine.calibration.labelled.tables import FORMATS, Table, read_hub, read_table
from engine.calibration.labelled.tasks import KNOWN_TASKS, Task, TaskSpec, example_sets, make_task
from engine.calibration.training.artifact import save
from engine.calibration.training.losses import LOSS_NAMES, LOSSES, SCOPES, SIMILARITIES
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.errors import OptionError
from engine.progress import Steps

T = TypeVar("T")
Load = Callable[[argparse.Namespace], LatentSpace]
Configure = Callable[[argparse.Namespace], Settings]
_SEED: Final = CalibrationOptions().seed
"""The page's too."""
_DATA: Final = (
    "a file (CSV, TSV, JSONL, Parquet), a folder with train and test files, topics, sentiment, or"
    " hub:ID for a data set of the Hugging Face hub, such as hub:ag_news"
)
_ENDINGS: Final = (".html", ".json", ".csv")
_MIB: Final = 2**20


def register(
    commands: Any, shared: argparse.ArgumentParser, load: Load, settings: Configure
) -> None:
    """Add both commands.

    Args:
        commands: what ``add_subparsers`` gave.
        shared: the options of every command that opens a model.
        load: opens it.
        settings: the settings that go with the options.
    """
    rows = type(shared)(add_help=False)
    rows.add_argument("--text-column", help="one, or several with commas; text without it")
    rows.add_argument("--label-column", help="label without it")
    rows.add_argument(
        "--labels", help="words that stand for labels: world,sports or World=world,Sports=sports"
    )
    rows.add_argument("--template", help="the prompt, such as 'Review: {text}\\nSentiment:'")
    rows.add_argument(
        "--word-rule", choices=("first", "last", "mean"), help="for label words of several tokens"
    )
    rows.add_argument("--test", help="a file with test rows; else a part of DATA")
    rows.add_argument(
        "--rows",
        type=_count,
        help="training rows, a ninth of it besides to stop by; all without it",
    )
    rows.add_argument("--test-rows", type=_count, help="test rows; all of --test, else a quarter")
    rows.add_argument(
        "--context", type=_count, metavar="TOKENS",
        help="of a prompt with demonstrations at most; as many as the model declares without it."
        " Give what the model was trained on where that is less",
    )  # fmt: skip

    one = commands.add_parser(
        "calibrate",
        parents=[shared, rows],
        help="labelled text in, before and after out",
        description="Move last-position states towards the bases of their label words, and measure"
        " on test rows what that gains: beside the model's own answer, a linear probe on the same"
        " rows, and controls on shuffled labels and random bases.",
    )
    one.add_argument("data", help=_DATA)
    one.add_argument(
        "--method", choices=tuple(METHODS), metavar="NAME",
        help="a competitor or a control instead, or a variant with its own loss and target:"
        f" {', '.join(METHODS)}; calibration-sm without it",
    )  # fmt: skip
    one.add_argument(
        "--target", metavar="TARGET",
        help="what is trained: the module behind the model (the default), the head's rows,"
        " layers:k for the last k blocks, layers:all, or lora",
    )  # fmt: skip
    one.add_argument(
        "--loss", choices=LOSSES,
        help="; ".join(f"{code}: {words}" for code, words in LOSS_NAMES.items())
        + "; sm without it",
    )  # fmt: skip
    one.add_argument(
        "--inference", choices=SIMILARITIES,
        help="how calibrated states are read: sm by cosine, mm by matrix product; sm without it",
    )  # fmt: skip
    one.add_argument(
        "--frame", choices=FRAMES, default="output",
        help="whose vectors are the centroids: output is the semantic bases, random the control",
    )  # fmt: skip
    one.add_argument(
        "--centroids", choices=SCOPES, default="labels",
        help="which compete in the loss: the label words, or the whole vocabulary",
    )  # fmt: skip
    one.add_argument(
        "--temperature",
        type=_number,
        help="T of the loss in units of a cosine; the measured default without it",
    )
    one.add_argument("--epochs", type=_count, help="at most; the target's own without it")
    one.add_argument("--batch", type=_count, help="texts per step; the target's own without it")
    one.add_argument(
        "--patience", type=_natural,
        help="epochs without a lower validation loss until it stops, 0 never; 20 without it",
    )  # fmt: skip
    one.add_argument(
        "--learning-rate", type=_number, help="AdamW's; by target and width without it"
    )
    one.add_argument("--layer", type=_layer, default=-1, help="whose states; -1 is the last")
    one.add_argument(
        "--seed", type=_natural, default=_SEED,
        help=f"of the split, the start and the order of rows; {_SEED} without it, as on the page",
    )  # fmt: skip
    one.add_argument("--quick", action="store_true", help="no controls and no curve over layers")
    one.add_argument("--save", type=Path, metavar="FOLDER", help="keep the calibration there")
    one.add_argument("--json", action="store_true", help="everything, as JSON")
    one.set_defaults(run=lambda given: _calibrate(given, load, settings))

    many = commands.add_parser(
        "evaluate",
        parents=[shared, rows],
        help="methods against each other on data sets",
        description="Calibration, its competitors and its controls on the same rows: accuracy with"
        " 95 % intervals, paired differences, seconds and memory.",
    )
    many.add_argument("data", nargs="+", help=f"one or several: {_DATA}")
    many.add_argument(
        "--methods", default="fast", metavar="NAMES",
        help="all; fast, those that need nothing but the texts' states; or names with commas of"
        f" {', '.join(METHODS)}; fast without it",
    )  # fmt: skip
    many.add_argument("--seeds", type=_count, default=3, help="how many; 3 without it")
    many.add_argument(
        "--seed", type=_natural, default=_SEED,
        help=f"the first of them, the others follow it; {_SEED} without it",
    )  # fmt: skip
    many.add_argument(
        "--adapter-rows", type=_count, help="training rows of LoRA and IA3; all without it"
    )
    many.add_argument("--out", type=Path, help="report.html, .json or .csv; else a table")
    many.add_argument("--json", action="store_true", help="JSON to stdout")
    many.set_defaults(run=lambda given: _evaluate(given, load, settings))


@dataclass(frozen=True)
class LabelledSet:
    """A named set as it lies there, and what is known about it."""

    name: str
    table: Table
    test: Table | None
    spec: TaskSpec


def labelled_set(word: str, test: str | None = None) -> LabelledSet:
    """A set from a file, a folder, the name of an example, or a hub id.

    A folder has a file ``train`` and, where there is one, ``test``; named like one of the known
    tasks, it gets its template and label words.

    Raises:
        OptionError: nothing there that can be read.
    """
    given = None if test is None else _readable(Path(test).expanduser())
    if word.startswith("hub:"):
        hub = word.removeprefix("hub:")
        if not hub:
            raise OptionError("hub: needs the id of a data set; write hub:ag_news, for example.")
        name = hub.split("/")[-1]
        return LabelledSet(name, read_hub(hub), given, _spec(name))
    path = Path(word).expanduser()
    if path.is_dir():
        files = {
            part: next(
                (path / f"{part}.{e}" for e in FORMATS if (path / f"{part}.{e}").is_file()), None
            )
            for part in ("train", "test")
        }
        if files["train"] is None:
            raise OptionError(
                f"the folder {path.name[:60]!r} has no file train.csv, .tsv, .jsonl or"
                " .parquet; name a file."
            )
        if given is None and files["test"] is not None:
            given = _readable(files["test"])
        return LabelledSet(path.name, _readable(files["train"]), given, _spec(path.name))
    examples = example_sets()
    if word in examples and not path.is_file():
        return LabelledSet(word, examples[word].table, given, examples[word].spec)
    if path.is_file():
        return LabelledSet(path.stem, _readable(path), given, _spec(path.stem))
    names = ", ".join(examples) or "none"
    raise OptionError(
        f"there is no file or folder {word[:60]!r}; name one, an example set ({names}), or a data"
        " set of the Hugging Face hub as hub:ID, such as hub:ag_news."
    )


def _readable(path: Path) -> Table:
    if not path.is_file():
        raise OptionError(f"there is no file {path.name[:60]!r}; check its path.")
    return read_table(path)


def _spec(name: str) -> TaskSpec:
    known = KNOWN_TASKS.get(name)
    if known is None:
        return TaskSpec(name=name)
    return TaskSpec(name=name, template=known.template, label_words=dict(known.label_words))


def task_source(
    found: LabelledSet, given: argparse.Namespace, space: LatentSpace
) -> Callable[[int], Task]:
    """The task as the options make it, drawn by a seed."""
    changes: dict[str, Any] = {}
    if given.text_column:
        changes["text_columns"] = tuple(c.strip() for c in given.text_column.split(","))
    if given.label_column:
        changes["label_column"] = given.label_column
    if given.labels:
        changes["label_words"] = label_words(given.labels, found.table, given.label_column)
    if given.template:
        changes["template"] = given.template.replace("\\n", "\n")
    if given.word_rule:
        changes["word_rule"] = given.word_rule
    if given.rows:
        changes["train"] = given.rows
    if given.test_rows:
        changes["test"] = given.test_rows
    spec = replace(found.spec, **changes)

    def draw(seed: int) -> Task:
        return make_task(replace(spec, seed=seed), found.table, space.model, test=found.test)

    return draw


def label_words(text: str, table: Table, column: str | None) -> Mapping[str, str]:
    """Label → word from ``World=world,Sports=sports``; a bare word is that of its own label.

    Raises:
        OptionError: a name that is no label of the table.
    """
    labels = set(table.column(column or "label"))
    out = {}
    for part in (p.strip() for p in text.split(",")):
        label, joined, word = part.partition("=")
        if label not in labels:
            matches = [one for one in labels if one.casefold() == label.casefold()]
            if not matches:
                known = ", ".join(sorted(labels)[:8])
                raise OptionError(
                    f"--labels names {label[:40]!r}, which is no label of the data ({known[:120]});"
                    " write label=word for each."
                )
            label = matches[0]
        out[label] = word if joined else part
    return out


def _calibrate(given: argparse.Namespace, load: Load, configure: Configure) -> int:
    options = _options(given)
    found = labelled_set(given.data, given.test)
    space = load(given)
    task = task_source(found, given, space)(given.seed)
    cache = configure(given).data_folder / "states"
    settings = MethodSettings(calibration=options, context_tokens=given.context)
    context = _told(prepare(space, task, seed=given.seed, settings=settings, cache_dir=cache))
    if given.method is not None and given.method not in VARIANTS:
        outcome = _told(run_method(METHODS[given.method], context))
        return _write(_single(outcome, task, given.seed, as_json=given.json))
    trained = _told(calibrate(space, context.states, task, options))
    if given.save:
        save(trained, given.save)
    compared = _told(
        compare_before_after(
            space,
            task,
            context.states,
            trained,
            seed=given.seed,
            cache_dir=cache,
            controls=not given.quick,
            layers=not given.quick,
        )
    )
    if given.json:
        return _write(export.dumps(compared.to_dict() | {"method": _name(options)}))
    return _write(_visible(comparison_text(compared, given.seed)))


def _options(given: argparse.Namespace) -> CalibrationOptions:
    """What is trained and how; what a method fixes cannot be given besides."""
    chosen = {
        name: getattr(given, name)
        for name in ("target", "loss", "inference")
        if getattr(given, name) is not None
    }
    if given.method is not None and chosen:
        raise OptionError(
            f"--method {given.method} fixes what --{next(iter(chosen))} says; give one of the two."
        )
    if given.save and given.method is not None and given.method not in VARIANTS:
        raise OptionError(
            f"--save keeps a calibration, and {given.method} is none; leave it out or choose"
            f" one of {', '.join(VARIANTS)}."
        )
    fixed = VARIANTS.get(given.method or "calibration-sm", {})
    options = CalibrationOptions(
        frame=given.frame,
        centroids=given.centroids,
        temperature=given.temperature,
        epochs=given.epochs,
        batch=given.batch,
        learning_rate=given.learning_rate,
        layer=given.layer,
        seed=given.seed,
    )
    if given.patience is not None:
        options = replace(options, patience=given.patience)
    options = replace(options, **{**fixed, **chosen})
    options.validate()
    return options


def _name(options: CalibrationOptions) -> str:
    """The method that these options are, or ``calibration`` where it is none of the table."""
    for name, fixed in VARIANTS.items():
        if all(getattr(options, key) == value for key, value in fixed.items()):
            return name
    return "calibration"


def _single(outcome: Outcome, task: Task, seed: int, *, as_json: bool) -> bytes:
    """One method that is no calibration."""
    report = classification_report(
        task.labels["test"],
        outcome.predicted,
        task.classes,
        probabilities=outcome.probabilities,
    )
    if as_json:
        plain = outcome.to_dict() | {"report": report.to_dict(), "task": task.to_dict()}
        return export.dumps(plain)
    title = METHODS[outcome.method].title
    lines = [
        f"{title} is right on {percent(report.accuracy)} of {report.n:,} test texts of"
        f" {task.name}.",
        "",
        *task_lines(task, seed),
        "",
        f"macro-F1         {percent(report.macro_f1)}",
        f"train            {outcome.seconds_train:,.2f} s",
        f"infer            {outcome.seconds_infer:,.2f} s",
        f"peak memory      {outcome.peak_bytes / _MIB:,.1f} MiB",
        f"stored           {outcome.stored_bytes / 1024:,.1f} KiB",
        *outcome.notes,
    ]
    return _visible("\n".join(lines) + "\n")


def _evaluate(given: argparse.Namespace, load: Load, configure: Configure) -> int:
    if given.out is not None and given.out.suffix not in _ENDINGS:
        raise OptionError(f"--out must end in {', '.join(_ENDINGS)}; got {given.out.name[:60]!r}.")
    methods_named(given.methods)
    if given.test is not None and len(given.data) > 1:
        raise OptionError("--test belongs to one set; name folders with train and test files.")
    found = [labelled_set(word, given.test) for word in given.data]
    space = load(given)
    sources = [task_source(one, given, space) for one in found]
    result = _told(
        evaluate(
            space,
            sources,
            [given.methods],
            range(given.seed, given.seed + given.seeds),
            settings=MethodSettings(adapter_rows=given.adapter_rows, context_tokens=given.context),
            cache_dir=configure(given).data_folder / "states",
        )
    )
    if given.out is not None:
        body = {
            ".html": lambda: report_html(result).encode(),
            ".json": lambda: export.dumps(result.to_dict()),
            ".csv": lambda: evaluation_csv(result),
        }[given.out.suffix]()
        given.out.write_bytes(body)
        print(f"written: {given.out.name}", file=sys.stderr)
    if given.json:
        return _write(export.dumps(result.to_dict()))
    return _write(_visible(evaluation_text(result)))


def _told(steps: Steps[T]) -> T:
    """Do the work; where stderr is a terminal, say on one line where it is."""
    shown = sys.stderr.isatty()
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            if shown:
                share = f"{100 * step.share:3.0f} %  " if step.share is not None else ""
                print(f"\r\033[K{share}{step.note[:70]}", end="", file=sys.stderr, flush=True)
    finally:
        steps.close()
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _visible(text: str) -> bytes:
    """Without what could act on a terminal: names of labels and files are anybody's."""
    return "".join(c if c == "\n" or c.isprintable() else "�" for c in text).encode()


def _write(body: bytes) -> int:
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return 0


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 10_000_000:
        raise argparse.ArgumentTypeError("it must be a whole number of at least 1")
    return int(text)


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError("it must be a whole number from 0")
    return int(text)


def _layer(text: str) -> int:
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 6:
        raise argparse.ArgumentTypeError("it must be a whole number, -1 for the last")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("it must be a number") from None
