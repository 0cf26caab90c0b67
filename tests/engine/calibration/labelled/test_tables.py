"""Labelled files: what is good is kept, what is bad is named by its line."""

from __future__ import annotations

import csv
import io
import itertools
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.calibration.labelled.separated import records
from engine.calibration.labelled.tables import Table, read_hub, read_table
from engine.errors import OptionError

_CELLS = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00\r", exclude_categories=("Cs",)),
    max_size=30,
)


@given(st.lists(st.tuples(_CELLS, _CELLS), min_size=1, max_size=12), st.sampled_from(",\t"))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], mark: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=mark, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    name = "a.csv" if mark == "," else "a.tsv"
    table = read_table(file.getvalue().encode(), name)
    assert [(r.values["text"], r.values["label"]) for r in table.rows] == rows
    assert not table.problems


def test_lines_are_counted_through_quoted_line_ends_and_bad_rows_are_named() -> None:
    data = 'text,label\n"two\nlines",a\nshort\n\nfine,b\nx,y,z\n'.encode("utf-8-sig")
    table = read_table(data, "set.csv")
    assert [(r.line, r.values["text"]) for r in table.rows] == [(2, "two\nlines"), (6, "fine")]
    assert [p.line for p in table.problems] == [4, 7]
    assert table.problems[1].reason == "3 cells where the header has 2"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str) -> None:
    table = read_table("text,label\nnaïve café,ja\n".encode(encoding), "a.csv")
    assert table.rows[0].values == {"text": "naïve café", "label": "ja"}
    assert table.columns == ("text", "label")


def test_json_lines_keep_the_good_objects() -> None:
    lines = [
        json.dumps({"text": "a", "label": 1, "sure": True, "more": [1]}),
        "{broken",
        "",
        "[1, 2]",
        json.dumps({"text": "b\u2028c", "label": None, "extra": 0.5}, ensure_ascii=False),
        "{}",
        '"text"',
        "[" * 100_000,
    ]
    table = read_table("\n".join(lines).encode(), "a.jsonl")
    assert [r.line for r in table.rows] == [1, 5]
    assert table.rows[0].values == {"text": "a", "label": "1", "sure": "true", "extra": ""}
    assert table.rows[1].values["text"] == "b\u2028c"
    assert [p.line for p in table.problems] == [2, 4, 6, 7, 8]


def test_the_format_is_seen_without_a_suffix() -> None:
    assert read_table(b'{"text": "a", "label": "b"}\n').columns == ("text", "label")
    assert read_table(b"text\tlabel\na, b\tc\n").rows[0].values["text"] == "a, b"
    assert read_table(b"text,label\na,b\n").rows[0].values["label"] == "b"


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": ["a", None, "ü"], "label": [0, 1, 2]}), path)
    table = read_table(path)
    assert [dict(r.values) for r in table.rows] == [
        {"text": "a", "label": "0"},
        {"text": "", "label": "1"},
        {"text": "ü", "label": "2"},
    ]
    with pytest.raises(OptionError, match="Parquet"):
        read_table(path.read_bytes()[:60], "a.parquet")


def test_parquet_without_pyarrow_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match="pyarrow"):
        read_table(b"PAR1xxxx", "a.parquet")


def test_a_hub_set_without_the_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionError, match="datasets"):
        read_hub("someone/something")


def test_limits() -> None:
    many = b"text,label\n" + b"a,b\n" * 10
    table = read_table(many, "a.csv", max_rows=4)
    assert len(table.rows) == 4
    assert table.problems[0].line == 6
    with pytest.raises(OptionError, match="bytes"):
        read_table(many, "a.csv", max_bytes=20)
    long = read_table(b"text,label\n" + b"x" * 300 + b",b\nok,c\n", "a.csv", max_cell=200)
    assert [r.values["text"] for r in long.rows] == ["ok"]
    assert "300 characters" in long.problems[0].reason


def test_a_quote_that_is_never_closed_is_text_and_takes_no_other_row_with_it() -> None:
    lines = ["text,label", "ok,c", '"open,b', "x,y", "one cell", '"with, comma",z', 'a "b" c,d']
    table = read_table("\n".join(lines).encode(), "a.csv")
    assert [(r.line, r.values["text"], r.values["label"]) for r in table.rows] == [
        (2, "ok", "c"), (3, '"open', "b"), (4, "x", "y"), (6, "with, comma", "z"),
        (7, 'a "b" c', "d"),
    ]  # fmt: skip
    assert [(p.line, p.reason) for p in table.problems] == [(5, "1 cell where the header has 2")]
    assert [(n.line, n.text) for n in table.notes] == [
        (3, "A quote opened on line 3 is never closed; it was read as text.")
    ]
    last = read_table(b'text,label\r\nok,c\r\nfine,"open\r\nx,y\r\n"" twice,"q"\r\n', "a.csv")
    assert [r.values["label"] for r in last.rows] == ["c", '"open', "y", "q"]
    assert [n.line for n in last.notes] == [3]
    with pytest.raises(OptionError, match="never closed"):
        read_table(b'"text,label\na,b\n', "a.csv")


def test_rows_that_a_wrong_quote_has_joined_are_named_with_their_last_line() -> None:
    """Its second quote ends a cell, so nothing says that it was not meant."""
    table = read_table(b'text,label\n"a,b\nx,y\nc,d"\nlast,z\n', "a.csv")
    assert [r.values["text"] for r in table.rows] == ["last"]
    assert [(p.line, p.reason) for p in table.problems] == [
        (2, "1 cell where the header has 2, in quotes up to line 4")
    ]


@given(st.lists(st.sampled_from(['"', ",", "\n", "\r\n", "a", "b c", '""', '"x,y"']), max_size=40))
def test_rows_are_those_of_the_csv_module_where_every_quote_is_closed(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = list(records(text, ","))
    assert [r.line for r in found] == sorted({r.line for r in found})
    if not any(r.open_quotes for r in found):
        expected = list(csv.reader(io.StringIO(text, newline="")))
        assert [list(r.cells) for r in found] == expected
    assert all(p.last < n.line for p, n in itertools.pairwise(found))


@pytest.mark.slow
def test_many_open_quotes_cost_no_more_than_the_file_is_long() -> None:
    """A quote that looked through the whole rest for each line would not end within hours."""
    for row in ('x",y,"z\n', '"x\n', 'a,"""b\n', 'x,""y\n'):
        assert sum(1 for _ in records('"' + row * 50_000, ",")) >= 1


@pytest.mark.parametrize(
    ("mark", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar")]
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
def test_the_separator_is_seen_whatever_the_suffix(mark: str, name: str, suffix: str) -> None:
    rows = [("text, or more", "label"), ("a, b; c", "x"), ('d "e" | f', "y"), ("g\th", "z")]
    file = io.StringIO()
    csv.writer(file, delimiter=mark).writerows(rows)
    table = read_table(file.getvalue().encode(), f"a.{suffix}")
    assert [tuple(row.values.values()) for row in table.rows] == rows[1:]
    assert table.columns == rows[0]
    assert table.separator == name
    assert not table.problems


def test_the_rows_decide_where_the_header_fits_several_separators() -> None:
    table = read_table(b"id;text, or title;label\n1;one;x\n2;two;y\n", "a.csv")
    assert table.columns == ("id", "text, or title", "label")
    assert table.separator == "semicolon"
    single = read_table(b"text\na;b\nc\n", "a.csv")
    assert (single.columns, single.separator) == (("text",), "")
    assert [r.values["text"] for r in single.rows] == ["a;b", "c"]
    blank = read_table(b"\n\ntext,label\na,b\n", "a.csv")
    assert (blank.rows[0].line, blank.columns) == (4, ("text", "label"))
    with pytest.raises(OptionError):
        read_table(b"\xef\xbb\xbf", "a.csv")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "a.csv"),
        (b"   \n", "a.csv"),
        (b"text,label\n", "a.csv"),
        (b"text,text\na,b\n", "a.csv"),
        (b"text,\na,b\n", "a.csv"),
        (b"text,label\n\xff\xfe\xfa,b\n", "a.csv"),
        (b"text,label\na\x00,b\n", "a.csv"),
        (b"nothing here", "a.jsonl"),
        (b"a,b\n1,2", "a.xlsx"),
        (b"text,label\na,b\n", "a.parquet"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(data: bytes, name: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_table(data, name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_table(Path("/nonexistent/none.csv"))


# --- rows and columns that vanished ---------------------------------------------------------------

TWELVE = [(f"text {i}", "ab"[i % 2]) for i in range(12)]


def plain(table: Table) -> list[tuple[str, str]]:
    return [(row.values["text"], row.values["label"]) for row in table.rows]


def as_json(**how: Any) -> bytes:
    return json.dumps([{"text": t, "label": n} for t, n in TWELVE], **how).encode()


JSON_FILES = {
    "one array": as_json(),
    "an array over lines": as_json(indent=2),
    "an object of an array on each line": b"[\n"
    + b",\n".join(json.dumps({"text": t, "label": n}).encode() for t, n in TWELVE)
    + b"\n]\n",
    "a column each": json.dumps(
        {"text": [t for t, _ in TWELVE], "label": [n for _, n in TWELVE]}
    ).encode(),
    "a column each, by row": json.dumps(
        {"text": {i: t for i, (t, _) in enumerate(TWELVE)},
         "label": {i: n for i, (_, n) in enumerate(TWELVE)}}
    ).encode(),
    "columns and data": json.dumps(
        {"columns": ["text", "label"], "index": list(range(12)), "data": TWELVE}
    ).encode(),
    "rows under a name": b'{"rows": ' + as_json() + b"}",
    "lines": b"\n".join(json.dumps({"text": t, "label": n}).encode() for t, n in TWELVE),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_is_read_in_each_way_that_it_is_written(name: str, suffix: str) -> None:
    table = read_table(JSON_FILES[name], f"a{suffix}")
    assert plain(table) == TWELVE
    assert not table.problems
    assert not table.notes


def test_an_array_that_breaks_off_keeps_what_stands_before() -> None:
    table = read_table(b'[\n{"text": "a", "label": "b"},\n{"text": "c", "lab', "a.json")
    assert plain(table) == [("a", "b")]
    assert [(p.line, p.reason[:8]) for p in table.problems] == [(3, "not JSON")]
    table = read_table(b'[{"text": "a", "label": "b"}\n{"text": "c", "label": "d"}]', "a.json")
    assert [p.line for p in table.problems] == [2]
    table = read_table(b'[{"text": "a", "label": "b"}]\n[{"text": "c", "label": "d"}]', "a.json")
    assert plain(table) == [("a", "b")]
    assert "what follows" in table.problems[0].reason


def test_a_name_that_stands_twice_in_an_object_is_no_cell() -> None:
    table = read_table(
        b'{"text": "a", "text": "b", "label": 1}\n{"text": "c", "label": 2}', "a.json"
    )
    assert plain(table) == [("c", "2")]
    assert table.problems[0].reason == "two cells named 'text'"


def test_what_is_no_number_is_missing() -> None:
    body = b'{"text": "a", "label": NaN}\n{"text": "b", "label": 1.0}\n{"text": "c", "label": -0.5}'
    assert plain(read_table(body, "a.jsonl")) == [("a", ""), ("b", "1.0"), ("c", "-0.5")]


def test_parquet_columns_are_read_or_named(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    columns = {
        "text": arrow.array([b"warm", "t\u00e9".encode()], arrow.binary()),
        "label": arrow.array([Decimal("0.50"), Decimal("-1.00")], arrow.decimal128(5, 2)),
        "day": arrow.array([date(2026, 1, 2), None], arrow.date32()),
        "kind": arrow.array(["x", "y"]).dictionary_encode(),
        "none": arrow.array([float("nan"), 1.0]),
        "tags": arrow.array([["a"], ["b", "c"]]),
        "more": arrow.array([{"a": 1}, {"a": 2}]),
        "raw": arrow.array([b"\xff\xfe", b"fine"], arrow.binary()),
    }
    parquet.write_table(arrow.table(columns), path)
    table = read_table(path)
    assert [dict(row.values) for row in table.rows] == [
        {"text": "warm", "label": "0.50", "day": "2026-01-02", "kind": "x", "none": "", "raw": ""},
        {"text": "t\u00e9", "label": "-1.00", "day": "", "kind": "y", "none": "1.0", "raw": "fine"},
    ]
    said = [note.text for note in table.notes]
    assert [t for t in said if "'tags'" in t and "lists in 2 rows" in t]
    assert [t for t in said if "'more'" in t and "objects in 2 rows" in t]
    assert [t for t in said if "'raw'" in t and "in one row" in t]
    assert len(said) == 3
    twice = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], ["text", "text"])
    parquet.write_table(twice, path)
    with pytest.raises(OptionError, match="2 columns named 'text'"):
        read_table(path)


@pytest.mark.parametrize("mark", [",", "\t"])
def test_lines_that_a_quote_has_joined_are_named(mark: str) -> None:
    lines = [mark.join(("text", "label")), *(mark.join(row) for row in TWELVE)]
    lines[3], lines[6] = f'"{lines[3]}', lines[6].replace(mark, f'"{mark}')
    table = read_table("\n".join(lines).encode(), "a.csv")
    assert len(table.rows) == 9
    (note,) = table.notes
    assert note.line == 4
    assert "line 4 is closed on line 7" in note.text


def test_a_text_of_several_lines_is_no_mistake() -> None:
    body = b'text,label\n"Dear Ann,\nthank you.\nYours",a\n"one\ntwo, and\nthree",b\n'
    table = read_table(body, "a.csv")
    assert len(table.rows) == 2
    assert not table.notes


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "sep=\t", "sep=,"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_first_line_may_name_the_separator(first: str, end: str) -> None:
    mark = first.strip('"')[-1]
    lines = [first, f"text{mark}label", f"a, b; c{mark}x" if mark == "\t" else f"a{mark}x"]
    table = read_table(end.join(lines).encode("utf-8-sig"), "a.csv")
    assert table.columns == ("text", "label")
    assert [row.line for row in table.rows] == [3]
    assert table.rows[0].values["label"] == "x"


def test_a_separator_that_is_not_read_is_said() -> None:
    with pytest.raises(OptionError, match=r"'\^' separates .* comma, semicolon"):
        read_table(b"sep=^\ntext^label\na^b\n", "a.csv")
