"""Lines are broken between words where a terminal would cut one, and sizes of terminals are believed with care."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcload.console import broken, is_size


@given(st.text("ab -\n", max_size=200), st.integers(1, 30))
def test_a_broken_text_has_the_same_words_and_no_row_that_could_be_shorter(text: str, width: int) -> None:
    rows = broken(text, width).split("\n")
    assert " ".join(rows).split() == text.split()
    assert all(len(row) <= width or " " not in row.strip(" ") for row in rows)


@pytest.mark.parametrize("text", ["", "\n", "short\n", " two  spaces stay  \n", "one\n\nthree\n", "x" * 99])
def test_what_fits_or_has_no_gap_is_left_as_it_is(text: str) -> None:
    assert broken(text, 40) == text


@pytest.mark.parametrize("text", ["", "0", "-5", "80 ", "8e1", "many", "\u0663", "9" * 5000])
def test_what_is_no_size(text: str) -> None:
    assert not is_size(text)
    assert is_size("80")
