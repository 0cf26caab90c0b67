"""What is asked of a calibration, with every value bounded before anything looks at it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from app.web.questions import no_nul
from engine.calibration.evidence.repeated import MOST
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.words import WordRule
from engine.calibration.training.losses import LossName, Scope, Similarity
from engine.calibration.training.options import CalibrationOptions
from engine.frames.kinds import FrameName

SetId = Annotated[str, Field(max_length=24, pattern=r"^(topics|sentiment|[0-9a-f]{24})$")]
"""An example's name or the id of an uploaded set."""
Name = Annotated[str, Field(max_length=80), AfterValidator(no_nul)]
_Word = Annotated[str, Field(max_length=200), AfterValidator(no_nul)]
_Words = Annotated[tuple[_Word, ...], Field(max_length=50)]
WordsText = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(no_nul)]
"""Words to ask by."""
Template = Annotated[str, Field(max_length=4000), AfterValidator(no_nul)]
_Rows = Annotated[int, Field(ge=2, le=1_000_000)]
_Share = Annotated[float, Field(ge=0, lt=1)]


class CalibrationQuestion(BaseModel):
    """A label set, how its rows become prompts, and how the calibration is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    set: SetId = Field(description="The label set: topics, sentiment, or the id of an upload.")
    name: Name = Field("", description="What the result is called; left out: the set's name.")
    text_columns: tuple[_Word, ...] = Field(("text",), min_length=1, max_length=8,
        description="The columns of the text.")  # fmt: skip
    label_column: _Word = Field("label", min_length=1, description="The column of the label.")
    template: Template = Field("Input: {text}\nType:", min_length=1,
        description="The prompt, with {text} or {column} where a row's text goes.")  # fmt: skip
    label_words: dict[_Word, _Word] = Field(default_factory=dict, max_length=100,
        description="Label to word; a label without one is its own word.")  # fmt: skip
    word_rule: WordRule = Field("first", description="Which token stands for a word of several.")
    train: _Rows | None = Field(None, description="Rows to train on; left out: all.")
    valid: _Rows | _Share = Field(0.1, description="Rows for early stopping, or their share.")
    test: _Rows | _Share = Field(0.25, description="Rows for testing, or their share.")
    max_rows: int = Field(20_000, ge=4, le=200_000, description="Rows of the set that are used.")
    keep_leaks: bool = Field(False, description="Keep training rows whose text is tested as well.")
    bos: Literal["auto", "yes", "no"] = Field("auto", description="Whether the model's first "
        "token is put before each prompt.")  # fmt: skip

    target: str = Field("module", max_length=10,
        pattern=r"^(module|head|lora|layers:(all|[1-9][0-9]{0,2}))$",
        description="What is trained: module, head, layers:k, layers:all, lora.")  # fmt: skip
    frame: FrameName = Field("output", description="Whose vectors are the centroids.")
    centroids: Scope = Field("labels", description="Which of them compete in the loss.")
    loss: LossName = Field("sm", description="The loss.")
    inference: Similarity = Field("sm", description="How calibrated states are read.")
    inference_over: Scope = Field("labels", description="Over which "
        "tokens probabilities are taken.")  # fmt: skip
    temperature: float | None = Field(None, ge=1e-3, le=1e3, description="Of the loss; left out: "
        "the loss's own.")  # fmt: skip
    learning_rate: float | None = Field(None, ge=1e-7, le=10, description="AdamW's; left out: the "
        "target's own.")  # fmt: skip
    weight_decay: float = Field(0.01, ge=0, le=10, description="AdamW's, on matrices only.")
    epochs: int | None = Field(None, ge=1, le=10_000, description="At most; left out: the "
        "target's own.")  # fmt: skip
    batch: int | None = Field(None, ge=1, le=65_536, description="Texts per step; left out: the "
        "target's own.")  # fmt: skip
    patience: int = Field(20, ge=0, le=10_000, description="Epochs without a lower validation "
        "loss until it stops; 0: never.")  # fmt: skip
    layer: int = Field(-1, ge=-1, le=10_000, description="Whose states; -1: the last.")
    dropout: float = Field(0.0, ge=0, le=0.95, description="Of the module's hidden units.")
    rank: int = Field(8, ge=1, le=256, description="Of LoRA.")
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Of the split, the start and the order.")
    compare: bool = Field(True, description="Compare before and after, with the controls, at the "
        "end.")  # fmt: skip
    untaught: dict[_Word, _Words] = Field(default_factory=dict, max_length=100,
        description="Label to words that are not taught, to read by at the end; left out: "
        "proposed.")  # fmt: skip

    splits: int = Field(1, ge=1, le=MOST, description="Splits of the rows that all is repeated on, "
        "each drawn anew; with few test texts one says little.")  # fmt: skip

    @field_validator("text_columns", mode="before")
    @classmethod
    def _columns(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("label_words", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        """From a form's text: one ``label=word`` per line."""
        if not isinstance(value, str):
            return value
        pairs = {}
        for line in value.splitlines():
            if not line.strip():
                continue
            label, sign, word = line.partition("=")
            if not sign or not word.strip():
                raise ValueError("each line is written label=word")
            pairs[label.strip()] = word.strip()
        return pairs

    @model_validator(mode="after")
    def _text_given(self) -> CalibrationQuestion:
        if any(not column for column in self.text_columns):
            raise ValueError("a text column has an empty name")
        return self

    def spec(self) -> TaskSpec:
        """How rows become a task."""
        given = self._shared_with(TaskSpec)
        given["name"] = self.name or self.set
        given["template"] = self.template.replace("\r\n", "\n")
        given["label_words"] = {label: w for label, w in self.label_words.items() if w.strip()}
        return TaskSpec(**given)

    def options(self) -> CalibrationOptions:
        """How it is trained."""
        return CalibrationOptions(**self._shared_with(CalibrationOptions))

    def _shared_with(self, settings: type[TaskSpec | CalibrationOptions]) -> dict[str, Any]:
        """The fields that some settings of the engine have as well, by name."""
        return self.model_dump(include=set(settings.__dataclass_fields__))
