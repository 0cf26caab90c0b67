"""How rows become a task: columns, prompt template, label words, sizes.

A template is text with placeholders. Cells are put in as they are: nothing in them is interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.calibration.labelled.tables import Table
from engine.errors import OptionError, shorten

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """How rows become a task."""

    name: str = "task"
    text_columns: tuple[str, ...] = ("text",)
    label_column: str = "label"
    template: str = "Input: {text}\nType:"
    """A prompt with placeholders: ``{text}`` is the text column (several are joined by a space),
    ``{name}`` the column of that name; ``{{`` and ``}}`` are braces."""
    label_words: Mapping[str, str] = field(default_factory=dict)
    """Label → word; a label without one is its own word
    (:func:`engine.calibration.labelled.words.default_words`)."""
    word_rule: str = "first"
    """One of :data:`engine.calibration.labelled.words.WORD_RULES`."""
    train: int | None = None
    """Rows to train on, None all that are left; classes keep their shares."""
    valid: float | int = 0.1
    """Rows for early stopping, taken from the training rows: rows, or a share below 1 of what is
    used of them: with `train` = 90 a tenth is 10. 0 is none."""
    test: float | int = 0.25
    """A share below 1, or rows. Of a given test table all rows, or this many."""
    max_rows: int = 20_000
    """Of each table; more are sampled."""
    keep_leaks: bool = False
    """Keep training rows whose text also stands in the test rows."""
    bos: str = "auto"
    seed: int = 42

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TaskSpec:
        """From :meth:`to_dict`; unknown names are refused.

        Raises:
            OptionError: an unknown name.
        """
        unknown = sorted(set(plain) - set(cls.__dataclass_fields__))
        if unknown:
            raise OptionError(f"a task has no setting {shorten(unknown[0])!r}; leave it out.")
        given = dict(plain)
        if "text_columns" in given:
            given["text_columns"] = tuple(given["text_columns"])
        return cls(**given)


def check_spec(spec: TaskSpec, table: Table) -> None:
    """Refuse columns, a template or sizes that do not fit a table."""
    if not spec.text_columns:
        raise OptionError("a task needs at least one text column; name it.")
    for column in (*spec.text_columns, spec.label_column):
        table.check_column(column)
    if spec.label_column in spec.text_columns:
        raise OptionError(
            f"column {shorten(spec.label_column)!r} is the label and cannot be the text as well."
        )
    check_template(spec.template, spec.text_columns)
    for what, value in (("valid", spec.valid), ("test", spec.test)):
        if not (0 <= value < 1 or (isinstance(value, int) and value >= 1)):
            raise OptionError(f"{what} must be a share in [0, 1) or a number of rows; got {value}.")
    if spec.train is not None and spec.train < 2:
        raise OptionError(f"train must be at least 2 rows; got {spec.train}.")
    if spec.max_rows < 4:
        raise OptionError(f"max_rows must be at least 4; got {spec.max_rows}.")


def check_template(template: str, columns: Sequence[str]) -> None:
    """Refuse a template without a placeholder, or with one that is no text column."""
    names = [m[1] for m in _PLACE.finditer(template) if m[1] is not None]
    if not names:
        raise OptionError(
            "a template must hold the placeholder {text}, such as 'Input: {text}\\nType:'."
        )
    for name in names:
        if name != "text" and name not in columns:
            raise OptionError(
                f"the template's placeholder {{{shorten(name)}}} is no text column; it can be"
                f" {', '.join('{' + shorten(c) + '}' for c in ('text', *columns))}."
            )
    if len(template) > 4000:
        raise OptionError(f"a template may have 4,000 characters; this one has {len(template):,}.")


def render(template: str, columns: Sequence[str], values: Mapping[str, str]) -> str:
    """A row's prompt. A cell's own braces stay as they are: nothing in it is interpreted."""
    whole = " ".join(values[c] for c in columns)

    def put(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return values[match[1]] if match[1] in columns else whole

    return _PLACE.sub(put, template)


def template_ending(template: str) -> str:
    """What stands after the last placeholder: what a label word follows."""
    last = [m for m in _PLACE.finditer(template) if m[1] is not None][-1]
    return template[last.end() :].replace("{{", "{").replace("}}", "}")
