"""The commands ``lexiscope calibrate`` and ``lexiscope evaluate``: labelled text in a terminal.

The same engine as the page. Progress goes to stderr where that is a terminal; figures to stdout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import PositiveInt

from app.calibrate.asking import words_by_label
from app.calibrate.question import CalibrationQuestion
from app.cli.labelled import labelled_set, task_source
from app.cli.options import Parser, add, reader, settings_of, space_of, taken
from app.cli.report import evaluation_csv, report_html
from app.cli.terminal import follow, visible, write
from app.cli.terminal import save as save_file
from app.cli.text import comparison_text, evaluation_text, outcome_text
from app.web.export import dumps
from engine.calibration.evidence.comparison import compare_before_after
from engine.calibration.evidence.evaluation import evaluate, prepare
from engine.calibration.evidence.evaluation_result import Evaluation
from engine.calibration.evidence.methods import METHODS, VARIANTS, methods_named, run_method
from engine.calibration.evidence.metrics import classification_report
from engine.calibration.evidence.protocol import MethodSettings, Outcome
from engine.calibration.labelled.tasks import Task
from engine.calibration.training.artifact import save
from engine.calibration.training.losses import LOSS_NAMES
from engine.calibration.training.options import CalibrationOptions
from engine.calibration.training.train import calibrate
from engine.checkpoints import Checkpoints
from engine.errors import OptionError

_DATA: Final = (
    "a file (CSV, TSV, JSONL, Parquet), a folder with train and test files, topics, sentiment, or"
    " hub:ID for a data set of the Hugging Face hub, such as hub:ag_news."
)
_WRITERS: Final[Mapping[str, Callable[[Evaluation], bytes]]] = {
    ".html": lambda result: report_html(result).encode(),
    ".json": lambda result: dumps(result.to_dict()),
    ".csv": evaluation_csv,
}
"""How an evaluation is written, by the file's ending."""


def register(commands: Any, model: argparse.ArgumentParser) -> None:
    """Hang the two commands into the command line, with the options about the model besides."""
    count = reader(PositiveInt, "a whole number of at least 1")
    rows = Parser(add_help=False)
    rows.add_argument("--text-column", help="One, or several with commas; text without it.")
    rows.add_argument(
        "--labels", help="Words that stand for labels: world,sports or World=world,Sports=sports."
    )
    rows.add_argument("--template", help="The prompt, such as 'Review: {text}\\nSentiment:'.")
    add(rows, CalibrationQuestion, "label_column", "word_rule")
    rows.add_argument(
        "--untaught", metavar="WORDS",
        help="Words that are not taught, to read by at the end: 'positive=good,great;"
        "negative=bad,awful'. Without it: the nearest of the label words.",
    )  # fmt: skip
    rows.add_argument("--test", help="A file with test rows; else a part of DATA.")
    rows.add_argument(
        "--rows", type=count,
        help="Training rows, a ninth of it besides to stop by; all without it.",
    )  # fmt: skip
    rows.add_argument("--test-rows", type=count, help="Test rows; all of --test, else a quarter.")
    rows.add_argument(
        "--context", type=count, metavar="TOKENS",
        help="Of a prompt with demonstrations at most; as many as the model declares without it."
        " Give what the model was trained on where that is less.",
    )  # fmt: skip

    one = commands.add_parser(
        "calibrate",
        parents=[model, rows],
        help="labelled text in, before and after out",
        description="Move last-position states towards the bases of their label words, and measure"
        " on test rows what that gains: beside the model's own answer, a linear probe on the same"
        " rows, and controls on shuffled labels and random bases.",
    )
    one.add_argument("data", help=_DATA)
    one.add_argument(
        "--method", choices=tuple(METHODS), metavar="NAME",
        help="A competitor or a control instead, or a variant with its own loss and target:"
        f" {', '.join(METHODS)}. Without it: calibration-sm.",
    )  # fmt: skip
    add(
        one,
        CalibrationQuestion,
        target="What is trained: the module behind the model, the head's rows, layers:k for the"
        " last k blocks, layers:all, or lora.",
        loss=f"{'; '.join(f'{code}: {words}' for code, words in LOSS_NAMES.items())}.",
        inference="How calibrated states are read: sm by cosine, mm by matrix product.",
        frame="Whose vectors are the centroids: output is the semantic bases, random the control.",
        centroids="Which compete in the loss: the label words, or the whole vocabulary.",
        temperature="T of the loss in units of a cosine; left out: the measured default.",
        learning_rate="AdamW's; left out: by target and width.",
        seed="Of the split, the start and the order of rows.",
    )
    add(one, CalibrationQuestion, "epochs", "batch", "patience", "layer")
    one.set_defaults(run=_calibrate, target=None, loss=None, inference=None)
    one.add_argument("--quick", action="store_true", help="No controls and no curve over layers.")
    one.add_argument("--save", type=Path, metavar="FOLDER", help="Keep the calibration there.")
    one.add_argument("--json", action="store_true", help="Everything, as JSON.")

    many = commands.add_parser(
        "evaluate",
        parents=[model, rows],
        help="methods against each other on data sets",
        description="Calibration, its competitors and its controls on the same rows: accuracy with"
        " 95 % intervals, paired differences, seconds and memory.",
    )
    many.add_argument("data", nargs="+", help=f"One or several: {_DATA}")
    many.add_argument(
        "--methods", default="fast", metavar="NAMES",
        help="all; fast, those that need nothing but the texts' states; or names with commas of"
        f" {', '.join(METHODS)}. Without it: fast.",
    )  # fmt: skip
    many.add_argument("--seeds", type=count, default=3, help="How many. Without it: 3.")
    add(many, CalibrationQuestion, seed="The first of them, the others follow it.")
    many.add_argument("--adapter-rows", type=count, help="Training rows of LoRA and IA3, or all.")
    many.add_argument(
        "--keep", type=Path, metavar="FOLDER",
        help="Keep each run there as it ends; the same command goes on where it was stopped.",
    )  # fmt: skip
    many.add_argument("--out", type=Path, help="report.html, .json or .csv; else a table.")
    many.add_argument("--json", action="store_true", help="JSON to stdout.")
    many.set_defaults(run=_evaluate)


def _calibrate(given: argparse.Namespace) -> int:
    options = _options(given)
    found = labelled_set(given.data, given.test)
    space = space_of(given)
    task = task_source(found, given, space)(given.seed)
    settings = MethodSettings(
        calibration=options, context_tokens=given.context, untaught=_untaught(given)
    )
    cache = _states(given)
    context = follow(prepare(space, task, seed=given.seed, settings=settings, cache_dir=cache))
    if given.method is not None and given.method not in VARIANTS:
        return _compete(given, follow(run_method(METHODS[given.method], context)), task)
    trained = follow(calibrate(space, context.states, task, options))
    if given.save:
        save(trained, given.save)
    compared = follow(
        compare_before_after(
            space,
            task,
            context.states,
            trained,
            seed=given.seed,
            cache_dir=cache,
            controls=not given.quick,
            layers=not given.quick,
            untaught=_untaught(given),
        )
    )
    if given.json:
        return write(dumps(compared.to_dict() | {"method": _name(options)}))
    return write(visible(comparison_text(compared, given.seed)))


def _options(given: argparse.Namespace) -> CalibrationOptions:
    """What is trained and how; what a method fixes cannot be given besides."""
    named = given.method
    chosen = [name for name in ("target", "loss", "inference") if getattr(given, name) is not None]
    if named is not None and chosen:
        raise OptionError(f"--method {named} fixes what --{chosen[0]} says; give one of the two.")
    if given.save and named is not None and named not in VARIANTS:
        raise OptionError(
            f"--save keeps a calibration, and {named} is none; leave it out or choose"
            f" one of {', '.join(VARIANTS)}."
        )
    fixed = VARIANTS.get(named or "calibration-sm", {})
    own = taken(CalibrationOptions.__dataclass_fields__, given)
    options = CalibrationOptions(**{**fixed, **own})
    options.validate()
    return options


def _untaught(given: argparse.Namespace) -> Mapping[str, tuple[str, ...]] | None:
    return words_by_label(given.untaught) if given.untaught else None


def _states(given: argparse.Namespace) -> Path:
    """Where the states of texts are kept for the next time."""
    return settings_of(given).data_folder / "states"


def _name(options: CalibrationOptions) -> str:
    """The method that these options are, or ``calibration`` where it is none of the table."""
    for name, fixed in VARIANTS.items():
        if all(getattr(options, key) == value for key, value in fixed.items()):
            return name
    return "calibration"


def _compete(given: argparse.Namespace, outcome: Outcome, task: Task) -> int:
    """What a method that is no calibration reaches."""
    report = classification_report(
        task.labels["test"],
        outcome.predicted,
        task.classes,
        probabilities=outcome.probabilities,
    )
    if given.json:
        plain = outcome.to_dict() | {"report": report.to_dict(), "task": task.to_dict()}
        return write(dumps(plain))
    return write(visible(outcome_text(outcome, report, task, given.seed)))


def _evaluate(given: argparse.Namespace) -> int:
    if given.out is not None and given.out.suffix not in _WRITERS:
        raise OptionError(f"--out must end in {', '.join(_WRITERS)}; got {given.out.name[:60]!r}.")
    methods_named(given.methods)
    if given.test is not None and len(given.data) > 1:
        raise OptionError("--test belongs to one set; name folders with train and test files.")
    if given.untaught and len(given.data) > 1:
        raise OptionError("--untaught belongs to the labels of one set; name one set.")
    found = [labelled_set(word, given.test) for word in given.data]
    space = space_of(given)
    sources = [task_source(one, given, space) for one in found]
    result = follow(
        evaluate(
            space,
            sources,
            [given.methods],
            range(given.seed, given.seed + given.seeds),
            settings=MethodSettings(
                adapter_rows=given.adapter_rows,
                context_tokens=given.context,
                untaught=_untaught(given),
            ),
            cache_dir=_states(given),
            kept=Checkpoints(given.keep),
        )
    )
    if given.out is not None:
        save_file(given.out, _WRITERS[given.out.suffix](result))
        print(f"written: {given.out.name}", file=sys.stderr)
    if given.json:
        return write(dumps(result.to_dict()))
    return write(visible(evaluation_text(result)))
