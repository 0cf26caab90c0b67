"""Labelled data as the command line names it: a file, a folder, an example, a set of the hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from app.calibrate.text_sets import Reading, example_text_set, text_set_of
from app.cli.terminal import visible
from engine import LatentSpace
from engine.calibration.labelled.known import KNOWN_TASKS, example_sets, known_spec
from engine.calibration.labelled.spec import TaskSpec
from engine.calibration.labelled.tables import FORMATS, Table, read_hub, read_table
from engine.calibration.labelled.tasks import Task, make_task
from engine.errors import OptionError, shorten
from engine.maps import TextSet

_NOTES: Final = 5


@dataclass(frozen=True)
class LabelledSet:
    """A named set as it lies there, and what is known about it."""

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
        return LabelledSet(told(read_hub(hub)), given, _spec(hub.split("/")[-1]))
    path = Path(word).expanduser()
    if path.is_dir():
        train, beside = (_part(path, name) for name in ("train", "test"))
        if train is None:
            raise OptionError(
                f"the folder {path.name[:60]!r} has no file train.csv, .tsv, .jsonl or"
                " .parquet; name a file."
            )
        return LabelledSet(train, beside if given is None else given, _spec(path.name))
    if path.is_file():
        return LabelledSet(told(read_table(path)), given, _spec(path.stem))
    examples = example_sets()
    if word in examples:
        return LabelledSet(examples[word].table, given, examples[word].spec)
    names = ", ".join(examples) or "none"
    raise OptionError(
        f"there is no file or folder {word[:60]!r}; name one, an example set ({names}), or a data"
        " set of the Hugging Face hub as hub:ID, such as hub:ag_news."
    )


def named_texts(name: str, reading: Reading | None = None) -> TextSet:
    """A set of texts that ships, or a table of the user's, read as a calibration reads or as it is.

    Raises:
        OptionError: nothing there that can be read.
    """
    path = Path(name)
    if path.suffix and path.is_file():
        return text_set_of(path.stem, told(read_table(path)), reading)
    return example_text_set(name, reading)


def told(table: Table) -> Table:
    """The same table; what was not read of its file, or read otherwise, is said on stderr."""
    left = [f"line {one.line}: {one.reason}" for one in table.problems]
    more = f"; {len(left) - 1:,} more" if len(left) > 1 else ""
    said = [f"{len(left):,} of its rows are left out ({left[0]}{more})."] if left else []
    said += [note.text for note in table.notes[:_NOTES]]
    if len(table.notes) > _NOTES:
        said.append(f"There are {len(table.notes) - _NOTES:,} more such notes.")
    for text in said:
        sys.stderr.write(visible(f"note on {shorten(table.name)}: {text}\n").decode())
    return table


def _readable(path: Path) -> Table:
    if not path.is_file():
        raise OptionError(f"there is no file {path.name[:60]!r}; check its path.")
    return told(read_table(path))


def _part(folder: Path, name: str) -> Table | None:
    """The table of this name in a folder, in whichever format it is there."""
    files = (folder / f"{name}.{ending}" for ending in FORMATS)
    return next((told(read_table(file)) for file in files if file.is_file()), None)


def _spec(name: str) -> TaskSpec:
    return known_spec(name) if name in KNOWN_TASKS else TaskSpec(name=name)


def task_source(
    found: LabelledSet, given: argparse.Namespace, space: LatentSpace
) -> Callable[[int], Task]:
    """The task as the options make it, drawn by a seed."""
    changes = {
        "text_columns": given.text_column
        and tuple(column.strip() for column in given.text_column.split(",")),
        "label_column": given.label_column,
        "label_words": given.labels and label_words(given.labels, found.table, given.label_column),
        "template": given.template and given.template.replace("\\n", "\n"),
        "word_rule": given.word_rule,
        "train": given.rows,
        "test": given.test_rows,
    }
    spec = replace(found.spec, **{name: value for name, value in changes.items() if value})

    def draw(seed: int) -> Task:
        return make_task(replace(spec, seed=seed), found.table, space.model, test=found.test)

    return draw


def label_words(text: str, table: Table, column: str) -> Mapping[str, str]:
    """Label → word from ``World=world,Sports=sports``; a bare word is that of its own label.

    Raises:
        OptionError: a name that is no label of the table.
    """
    labels = set(table.column(column))
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
