"""Text for a terminal is as wide as it should be."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from app.cli.text import fit


@given(st.text(max_size=30), st.integers(1, 30))
def test_a_cell_on_the_terminal_is_as_wide_as_it_should_be(text: str, width: int) -> None:
    shown = fit(text, width)
    wide = sum(
        2 if unicodedata.east_asian_width(c) in "WF" else int(not unicodedata.combining(c))
        for c in shown
    )
    assert wide == width
