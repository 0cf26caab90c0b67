"""CSV that no spreadsheet takes for a formula, JSON that is always JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.web import export

FORMULA = "=+-@＝＋－＠"


def rows_of(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(body.decode(), newline="")))


@given(st.text(max_size=40))
def test_no_text_cell_can_be_a_formula_or_hide_anything(text: str) -> None:
    shown = export.text_cell(text)
    assert shown.lstrip(" \u00a0\u3000")[:1] not in tuple(FORMULA)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    shown.encode()


@given(
    st.sampled_from(["", " ", "   ", "\u00a0", "\u2003 "]),
    st.sampled_from(list(FORMULA)),
    st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=10),
)
def test_every_beginning_of_a_formula_gets_its_apostrophe(space: str, sign: str, rest: str) -> None:
    text = f"{space}{sign}{rest}"
    assert export.text_cell(text) == f"'{text}"


def test_controls_are_written_out_so_they_neither_act_nor_begin_a_formula() -> None:
    assert export.text_cell("\t=1") == "<U+0009>=1"
    assert export.text_cell("\r") == "<U+000D>"
    assert export.text_cell("a\u202eb") == "a<U+202E>b"
    assert export.text_cell("\ud83d") == "<U+D83D>"
    assert export.text_cell("😀 the") == "😀 the"


@given(st.floats(), st.integers(-(10**12), 10**12), st.booleans())
def test_numbers_stay_numbers(real: float, whole: int, truth: bool) -> None:
    assert export.cell(whole) == str(whole)
    assert export.cell(truth) in ("true", "false")
    shown = export.cell(real)
    assert (float(shown) == real) if math.isfinite(real) else shown == ""
    assert export.cell(np.int64(whole)) == str(whole)
    assert export.cell(np.float32("nan")) == ""


@given(st.lists(st.tuples(st.text(max_size=20), st.integers(), st.floats()), max_size=8))
def test_a_table_keeps_its_shape_whatever_the_texts(
    rows: list[tuple[str, int, float]],
) -> None:
    body = export.table("A table.", [{"text": t, "id": i, "score": s} for t, i, s in rows])
    found = rows_of(body)
    assert len(found) == (len(rows) + 2 if rows else 1)
    assert found[0][0].startswith("# A table.")
    assert "apostrophe" in found[0][0]
    for (text, whole, _), row in zip(rows, found[2:], strict=True):
        assert row[0] == export.text_cell(text)
        assert row[1] == str(whole)
    # Every cell stands in quotes.
    assert all(line.startswith(b'"') for line in body.splitlines() if line)


def test_json_knows_no_nan_and_ends_its_line() -> None:
    body = export.dumps({"b": float("nan"), "a": [np.float32("inf"), np.arange(2)], 3: None})
    assert body == b'{"b":null,"a":[null,[0,1]],"3":null}\n'


def test_the_clock_leaves_no_trace_in_a_document() -> None:
    class Result:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def to_dict(self) -> dict[str, object]:
            return {
                "cost": {"seconds": self.seconds, "predicted_seconds": 1.0, "bytes": 5},
                "rows": [{"seconds": self.seconds, "id": 1}],
            }

    first, second = export.document(Result(0.1)), export.document(Result(0.2))
    assert first == second
    assert json.loads(first) == {"cost": {"bytes": 5}, "rows": [{"id": 1}]}


@given(st.text())
def test_a_downloads_name_holds_nothing_of_what_was_typed(text: str) -> None:
    stem = export.file_stem("trace", text)
    assert stem.isascii()
    assert stem.removeprefix("lexiscope-trace-").isalnum()
    assert stem == export.file_stem("trace", text)
    assert stem != export.file_stem("trace", text + "x")
