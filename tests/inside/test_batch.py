"""Batches: cut by arithmetic, whatever is in them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from memcload.memcached.batch import LOOKUP_SIZE, Batch, lookups
from memcload.memcached.protocol import meta_set, meta_set_flags

Record = tuple[bytes, bytes]

KEYS = st.binary(min_size=1, max_size=30).map(lambda key: bytes(0x21 + byte % 94 for byte in key))
VALUES = st.binary(max_size=200) | st.sampled_from([b"", b"\r\n", b"MN\r\n", b"ms key 5\r\nvalue\r\n"])
RECORDS = st.lists(st.tuples(KEYS, VALUES), max_size=20)
LIMITS = st.none() | st.integers(1, 25)


def make_batch(records: Sequence[Record], ttl: int = 0) -> Batch:
    sets = [meta_set(key, value, meta_set_flags(ttl)) for key, value in records]
    return Batch(len(sets), b"".join(sets), array("i", accumulate(map(len, sets))), array("i", range(len(sets))))


@given(RECORDS, st.sampled_from([0, 1, 31 * 24 * 3600]))
def test_a_batch_tells_its_records(records: list[Record], ttl: int) -> None:
    assert list(make_batch(records, ttl).records()) == records


@given(RECORDS, LIMITS, st.none() | st.integers(1, 1000), LIMITS)
def test_slices_hold_the_records_of_the_batch_in_order(
    records: list[Record], max_count: int | None, max_bytes: int | None, then: int | None
) -> None:
    batch = make_batch(records)
    slices = list(batch.slices(max_count, max_bytes))
    assert b"".join(bytes(part.commands) for part in slices) == batch.commands
    assert [line for part in slices for line in part.lines] == list(range(len(records)))
    assert [record for part in slices for record in part.records()] == records
    for part in slices:
        assert part.count == len(part.ends) == len(part.lines) > 0
        assert max_count is None or part.count <= max_count
        assert max_bytes is None or len(part.commands) <= max_bytes or part.count == 1
        again = list(part.slices(then))  # and a slice can be sliced
        assert [record for part in again for record in part.records()] == list(part.records())


@given(RECORDS, st.integers(1, 1000))
def test_a_slice_is_as_large_as_it_may_be(records: list[Record], max_bytes: int) -> None:
    slices = list(make_batch(records).slices(max_bytes=max_bytes))
    for part, following in pairwise(slices):
        first = following.ends[0] - following.origin
        assert len(part.commands) + first > max_bytes


def test_a_batch_within_the_limits_is_its_own_slice() -> None:
    batch = make_batch([(b"a", b"1"), (b"b", b"2")])
    assert list(batch.slices()) == [batch]
    assert next(batch.slices(2, len(batch.commands))) is batch
    assert list(make_batch([]).slices(1, 1)) == []


def test_batches_may_be_made_of_views_of_any_buffer() -> None:
    batch = make_batch([(b"a", b"1"), (b"b", b"22"), (b"c", b"333")])
    numbers = memoryview(array("i", batch.ends))
    view = Batch(3, memoryview(bytearray(batch.commands)), numbers, memoryview(array("i", [0, 1, 2])))
    assert [list(part.records()) for part in view.slices(2)] == [[(b"a", b"1"), (b"b", b"22")], [(b"c", b"333")]]


def test_lookups_ask_for_some_hundred_keys_each() -> None:
    records = [(b"k%d" % number, b"v%d" % number) for number in range(2 * LOOKUP_SIZE + 1)]
    found = list(lookups(records))
    assert [lookup.count for lookup in found] == [LOOKUP_SIZE, LOOKUP_SIZE, 1]
    assert found[0].keys() + found[1].keys() + found[2].keys() == [key for key, _ in records]
    assert found[-1].requests == b"mg k1024 v\r\n"
    assert found[-1].replies == b"VA 5\r\nv1024\r\n"
