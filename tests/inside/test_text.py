"""Texts: lines that lie in several buffers are the lines that they would be in one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memcload.text import Slice, Text

LINES = st.lists(st.sampled_from([b"\n", b"a\n", b"bc\r\n", b"defg\n"]), min_size=1, max_size=5).map(b"".join)
AROUND = st.sampled_from([b"", b"\n", b"x", b"y\nz"])


def slice_of(before: bytes, lines: bytes, behind: bytes) -> Slice:
    return Slice(before + lines + behind, len(before), len(before) + len(lines))


TEXTS = st.lists(st.builds(slice_of, AROUND, LINES, AROUND), max_size=4).map(Text)


@given(TEXTS)
def test_a_text_is_what_its_slices_hold(text: Text) -> None:
    assert bytes(text) == b"".join(buffer[start:end] for buffer, start, end in text.slices)
    assert len(text) == len(bytes(text))
    assert bool(text) == bool(bytes(text))
    assert bytes(Text.of(bytes(text))) == bytes(text)


@given(TEXTS, st.integers(1, 40))
def test_a_cut_is_behind_the_line_that_reaches_the_size(text: Text, size: int) -> None:
    whole = bytes(text)
    before, behind = text.cut(size)
    end = whole.find(b"\n", size - 1) + 1 or len(whole)
    assert (bytes(before), bytes(behind)) == (whole[:end], whole[end:])
    assert all(slice.start < slice.end for part in (before, behind) for slice in part.slices)
