"""Files that were changed, and Parquet files that ask for gigabytes; as a program, it writes one.

Imports nothing of ours, so that making one takes a moment.
"""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet as parquet


def mutate(body: bytes, chance: random.Random) -> bytes:
    """A few changes of the kind that find mistakes in readers."""
    out = bytearray(body)
    for _ in range(chance.choice((1, 1, 2, 5))):
        if not out:
            break
        at = chance.randrange(len(out))
        match chance.randrange(8):
            case 0:
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x2C, 0x0A, 0x5B, 0x7B))
            case 2:
                del out[at : at + chance.choice((1, 4, 100))]
            case 3:
                out[at:at] = out[at : at + chance.choice((1, 8, 200))]
            case 4:
                out[at : at + 4] = b"\xff\xff\xff\x7f"
            case 5:
                out[at : at + 8] = chance.randbytes(8)
            case 6:
                del out[at:]
            case 7:
                out += chance.randbytes(chance.randrange(60))
    return bytes(out)


def one_large_value() -> bytes:
    """One value that is 1.5 GB of text once it is written out, in a few hundred kilobytes."""
    out = io.BytesIO()
    # A dictionary of one entry of 1.5 MB, and a list that names it a thousand times, is a value
    # of 1.5 GB for whoever writes the list out.
    value = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 1000, pyarrow.int32()), pyarrow.array(["x" * 1_500_000])
    )
    column = pyarrow.ListArray.from_arrays(pyarrow.array([0, 1000], pyarrow.int32()), value)
    parquet.write_table(
        pyarrow.table({"text": column, "label": ["a"]}), out, compression="zstd",
        compression_level=3,
    )  # fmt: skip
    return out.getvalue()


def many_row_groups() -> bytes:
    """Row groups of nothing, as many as a footer holds in a few megabytes."""
    out = io.BytesIO()
    table = pyarrow.table({"t": ["a"]})
    with parquet.ParquetWriter(out, table.schema, compression="none", use_dictionary=False,
                               write_statistics=False) as writer:  # fmt: skip
        for _ in range(20_000):
            writer.write_table(table)
    return out.getvalue()


def many_columns() -> bytes:
    """Twenty thousand columns."""
    out = io.BytesIO()
    table = pyarrow.table({f"c{i}": pyarrow.array([1], pyarrow.int8()) for i in range(20_000)})
    parquet.write_table(table, out, compression="none", use_dictionary=False,
                        write_statistics=False)  # fmt: skip
    return out.getvalue()


def nested() -> bytes:
    """A type of lists in lists, sixty deep."""
    kind: Any = pyarrow.string()
    value: Any = "x"
    for _ in range(60):
        kind, value = pyarrow.list_(kind), [value] * 1
    out = io.BytesIO()
    parquet.write_table(
        pyarrow.table({"text": pyarrow.array([value] * 50, kind), "label": ["a"] * 50}), out
    )
    return out.getvalue()


def lying_footer() -> bytes:
    """The number of rows of the footer and of each group made larger than any file."""
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["a"] * 77, "label": ["b"] * 77}), out)
    body = out.getvalue()
    said = b"\x9a\x01"  # 77 as the footer's zigzag number
    assert body.count(said) >= 2
    return body.replace(said, b"\xfe\x7f")


def word_for_a_dictionary() -> bytes:
    """A word of 20,000 characters, three million times in two columns."""
    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(numpy.zeros(3_000_000, dtype=numpy.int32)), pyarrow.array(["x" * 20_000])
    )
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": column, "label": column}), out, compression="zstd")
    return out.getvalue()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(globals()[sys.argv[1]]())
