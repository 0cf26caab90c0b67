"""Steps 1 and 3 of the Calibrate page: the labelled texts, and how it learns.

The whole form is the query string, so a half-filled page can be sent to somebody. What was typed
for one set is let go when another is chosen: its columns, template and label words are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from app.calibrate.question import Name, Template
from app.calibrate.tables import FRAMES
from app.web.questions import FormQuestion, ShortText
from app.web.words import Choice, choices
from engine.calibration.evidence.repeated import MOST
from engine.calibration.labelled.known import example_sets
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import Table
from engine.calibration.labelled.words import WordRule
from engine.calibration.training.losses import LossName, Scope, Similarity
from engine.calibration.training.options import CalibrationOptions
from engine.errors import OptionError
from engine.frames.kinds import FrameName
from engine.model.vocabulary import visible

MAX_LABELS = 100
"""Label words that the form holds; more labels than the engine allows."""


Size = Annotated[float, Field(ge=0, le=200_000)]


class CalibrateQuery(FormQuestion):
    """The whole state of the form."""

    set: str = Field("topics", pattern=r"^[a-z0-9-]{1,40}$")
    shown: str = Field("", pattern=r"^[a-z0-9-]{0,40}$")
    """The set that the form was filled in for."""
    title: Name | None = None
    """What the calibration is called; left out: as the set is."""
    text: ShortText | None = None
    label: ShortText | None = None
    template: Template | None = None
    name: tuple[ShortText, ...] = Field((), max_length=MAX_LABELS)
    """Labels, each with the word beside it in `word`."""
    word: tuple[ShortText, ...] = Field((), max_length=MAX_LABELS)
    rule: WordRule = "first"
    target: str = Field("module", pattern=r"^(module|head|lora|layers:(all|[1-9][0-9]{0,2}))$")
    loss: LossName = "sm"
    epochs: int | None = Field(None, ge=1, le=2_000)
    frame: FrameName = "output"
    centroids: Scope = "labels"
    inference: Similarity = "sm"
    inference_over: Scope = "labels"
    temperature: float | None = Field(None, ge=1e-3, le=1e3)
    learning_rate: float | None = Field(None, ge=1e-7, le=10)
    batch: int | None = Field(None, ge=1, le=65_536)
    patience: int | None = Field(None, ge=0, le=10_000)
    layer: int = Field(-1, ge=-1, le=10_000)
    seed: int = Field(42, ge=0, le=2**31 - 1)
    train: int | None = Field(None, ge=2, le=200_000)
    valid: Size | None = None
    test: Size | None = None
    splits: int = Field(1, ge=1, le=MOST)

    @model_validator(mode="before")
    @classmethod
    def _empty_fields(cls, values: Any) -> Any:
        """An empty field of the form is a setting left at its default."""
        if not isinstance(values, dict):
            return values
        kept = {k: v for k, v in values.items() if k in ("name", "word") or v not in ("", [""])}
        if kept.get("shown") not in (None, kept.get("set", "topics")):
            for field in ("title", "text", "label", "template", "name", "word"):
                kept.pop(field, None)
        return kept

    @property
    def words(self) -> dict[str, str]:
        """Label → word, where one was written."""
        pairs = zip(self.name, self.word, strict=False)
        return {name: word.strip() for name, word in pairs if word.strip()}


def spec_of(query: CalibrateQuery, table: Table) -> TaskSpec:
    """The form as a task: what was left empty is guessed from the table.

    Raises:
        OptionError: a size that is no share and no whole number.
    """
    example = example_sets().get(query.set)
    base = example.spec if example is not None else TaskSpec(name=table.name)
    label = query.label or _label_column(table)
    text = query.text or _text_column(table, label)
    given: dict[str, Any] = {}
    for key in ("valid", "test"):
        value = getattr(query, key)
        if value is not None and value >= 1 and value != int(value):
            raise OptionError(f"{key} must be a share below 1 or a whole number; got {value:g}.")
        if value is not None:
            given[key] = int(value) if value >= 1 else value
    return TaskSpec(
        name=base.name,
        text_columns=(text,),
        label_column=label,
        template=query.template or base.template,
        label_words=dict(base.label_words) | query.words,
        word_rule=query.rule,
        train=query.train,
        seed=query.seed,
        **given,
    )


def options_of(query: CalibrateQuery) -> CalibrationOptions:
    """The form as the engine's settings: what was left empty keeps the target's own default."""
    given = query.model_dump(include=set(CalibrationOptions.__dataclass_fields__))
    return CalibrationOptions(**{k: v for k, v in given.items() if v is not None})


_LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "topic", "type", "target")


_TEXT_NAMES = ("text", "sentence", "review", "question", "content", "body", "title")


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The first column that is called so, whatever its case; None where none is."""
    called = {column.strip().lower(): column for column in reversed(columns)}
    return next((called[name] for name in names if name in called), None)


def _label_column(table: Table) -> str:
    """The column that is called like a label, else the one with the fewest different values."""
    named = _named(table.columns, _LABEL_NAMES)
    if named is not None:
        return named
    counts = {c: len(set(table.column(c))) for c in table.columns}
    several = [c for c in table.columns if counts[c] > 1] or list(table.columns)
    return min(several, key=lambda c: counts[c])


def _text_column(table: Table, label: str) -> str:
    """The column that is called like a text, else the one with the longest cells."""
    others = [c for c in table.columns if c != label] or list(table.columns)
    rows = table.rows[:200]
    return _named(others, _TEXT_NAMES) or max(
        others, key=lambda c: sum(len(row.values.get(c, "")) for row in rows)
    )


@dataclass(frozen=True)
class SetCard:
    """A labelled set to choose."""

    id: str
    name: str
    what: str
    chosen: bool
    delete_action: str | None
    """None for an example."""
    notes: tuple[str, ...] = ()
    """Sentences about lines that were read otherwise than they may be meant."""


@dataclass(frozen=True)
class SettingsForm:
    """Step 3 as it stands, by the names of its fields."""

    choices: Mapping[str, tuple[Choice, ...]]
    values: Mapping[str, str]
    """Numbers as they were typed; empty where the default is taken."""
    defaults: Mapping[str, str]
    changed: int
    """How many of them differ from their defaults."""
    splits: tuple[Choice, ...]
    """How often all is repeated, where few texts are tested."""


LOSSES = (
    ("sm", "own basis against the others", "Cosines to the label bases as logits."),
    ("mm", "the same by matrix product", "Inner products with the label bases as logits."),
    ("sm-gt", "own basis only", "One minus the cosine to the own basis."),
    ("sm-exp", "cosine, exponential", "The exponential variant of the cosine loss."),
    ("mm-exp", "product, exponential", "The exponential variant of the product loss."),
)


TARGETS = (
    ("module", "a small module behind the model", "The paper's: the model itself is not changed."),
    ("head", "a copy of the output head", "The head's rows alone, by the same objective."),
    ("lora", "the model's layers, by LoRA", "Low-rank changes of the layers; slow."),
    ("layers:1", "the model's last layer", "The last block's weights; slow."),
    ("layers:all", "all of the model's layers", "Every block's weights; slowest."),
)


_CHOICES = {
    "centroids": (("labels", "the label words'"), ("vocabulary", "the whole vocabulary's")),
    "inference": (("sm", "cosine"), ("mm", "matrix product")),
    "inference_over": (("labels", "label words"), ("vocabulary", "vocabulary")),
    "rule": (
        ("first", "its first token"),
        ("last", "its last token"),
        ("mean", "the mean of its tokens' bases"),
    ),
}
_NUMBERS = (
    "epochs", "temperature", "learning_rate", "batch", "patience", "train", "valid", "test",
)  # fmt: skip
_FOLDED = (
    "target", "loss", "epochs", "frame", "centroids", "inference", "inference_over",
    "rule", "temperature", "learning_rate", "batch", "patience", "layer", "seed", "train", "valid",
    "test",
)  # fmt: skip


def settings_form(query: CalibrateQuery) -> SettingsForm:
    """Step 3 with what the query says."""
    used, spec = CalibrationOptions(target=query.target, loss=query.loss), TaskSpec()
    tables: dict[str, Iterable[tuple[str, ...]]] = {
        "loss": LOSSES, "target": TARGETS, "frame": FRAMES.items(), **_CHOICES,
    }  # fmt: skip
    if query.target not in {key for key, *_ in TARGETS}:
        last = query.target.removeprefix("layers:")
        tables["target"] = (*TARGETS, (query.target, f"the model's last {last} layers", ""))
    typed = {name: getattr(query, name) for name in _NUMBERS}
    values = {name: "" if value is None else f"{value:g}" for name, value in typed.items()}
    usual = CalibrateQuery.model_fields
    return SettingsForm(
        choices={name: choices(table, getattr(query, name)) for name, table in tables.items()},
        values={
            **values,
            "layer": "" if query.layer == -1 else str(query.layer),
            "seed": str(query.seed),
            "splits": str(query.splits),
        },
        defaults={
            "epochs": f"{used.used_epochs}",
            "temperature": f"{used.used_temperature:g}",
            "learning_rate": "by the head" if used.kind == "head" else f"{used.used_rate:g}",
            "batch": f"{used.used_batch}",
            "patience": f"{used.patience}",
            "valid": f"{spec.valid:g}",
            "test": f"{spec.test:g}",
        },
        changed=sum(getattr(query, name) != usual[name].default for name in _FOLDED),
        splits=choices(
            (
                (f"{n}", "one split" if n == 1 else f"{n} splits")
                for n in sorted({1, 5, 10, query.splits})
            ),
            f"{query.splits}",
        ),
    )


def columns_form(spec: TaskSpec, table: Table) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
    """Which columns there are and which are chosen: for the text, for the label."""
    shown = [(column, visible(column)) for column in table.columns]
    return choices(shown, spec.text_columns[0]), choices(shown, spec.label_column)
