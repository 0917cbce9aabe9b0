"""Which records of a partition are the last of their keys: the others need not be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from memcload.memcached.protocol import KEY_OFFSET

Array = Any

_WORD = 8  # bytes; a quiet meta set has more than that behind its key
_SPACES = np.uint64(0x2020202020202020)
_LOW, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_ONE, _SEVEN, _SHIFT = np.uint64(1), np.uint64(7), np.uint64(29)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Records:
    """Quiet meta sets, as bytes, and where each ends."""

    commands: Array
    ends: Array

    @cached_property
    def starts(self) -> Array:
        """Where each begins."""
        return np.concatenate(([0], self.ends[:-1]))

    def words(self) -> Array:
        """Return eight bytes for every place where they can begin."""
        return np.ndarray((len(self.commands) - _WORD + 1,), "<u8", self.commands, strides=(1,))

    def keys(self) -> list[bytes]:
        """Return the key of each."""
        data = bytes(self.commands)
        begins = (self.starts + KEY_OFFSET).tolist()
        return [data[begin : data.index(b" ", begin)] for begin in begins]


def keep_last(parts: Sequence[Records]) -> list[Array] | None:
    """Return for each record of each part if it is the last of its key; None if no key is there twice.

    Args:
        parts: records in order, at least one in each.
    """
    firsts = np.cumsum([0, *(len(part.ends) for part in parts)])
    count = int(firsts[-1])
    if count < 2:
        return None
    hashes = np.concatenate([_hashes(part.words(), part.starts) for part in parts])
    # The upper bits of a hash and the number of the record, so that one fast sort puts equal keys together, in order.
    number_bits = np.uint64((1 << count.bit_length()) - 1)
    hashes &= ~number_bits
    hashes |= np.arange(count, dtype=np.uint64)
    hashes.sort()
    repeats = np.flatnonzero((hashes[1:] & ~number_bits) == (hashes[:-1] & ~number_bits))
    if not len(repeats):
        return None
    earlier = (hashes[repeats] & number_bits).astype(np.int64)
    later = (hashes[repeats + 1] & number_bits).astype(np.int64)
    if not _have_same_keys(parts, firsts, earlier, later):  # two keys have one hash
        return keep_last_by_key(parts)
    keep = np.ones(count, np.bool_)
    keep[earlier] = False
    return list(np.split(keep, firsts[1:-1]))


def keep_last_by_key(parts: Sequence[Records]) -> list[Array]:
    """Return for each record of each part if it is the last of its key, by the keys themselves."""
    last = {key: (number, place) for number, part in enumerate(parts) for place, key in enumerate(part.keys())}
    keep = [np.zeros(len(part.ends), np.bool_) for part in parts]
    for number, place in last.values():
        keep[number][place] = True
    return keep


def _hashes(words: Array, starts: Array) -> Array:
    hashes = np.zeros(len(starts), np.uint64)
    at = starts + KEY_OFFSET
    rest: Array | None = None  # the records whose keys go on
    while True:
        word, has_ended = _masked(words[at])
        mixed = ((hashes if rest is None else hashes[rest]) ^ word) * _FACTOR
        mixed ^= mixed >> _SHIFT
        if rest is None:
            hashes = mixed
        else:
            hashes[rest] = mixed
        if has_ended.all():
            return hashes * _FACTOR
        at = at + _WORD
        if has_ended.any():
            goes_on = ~has_ended
            at = at[goes_on]
            rest = np.flatnonzero(goes_on) if rest is None else rest[goes_on]


def _masked(word: Array) -> tuple[Array, Array]:
    """Return eight bytes of each key, zero from its end on, and whether that is among them."""
    differing = word ^ _SPACES
    ends = (differing - _LOW) & ~differing & _HIGH  # the lowest bit that is set marks the first space
    return word & (((ends & (~ends + _ONE)) >> _SEVEN) - _ONE), ends != 0


def _have_same_keys(parts: Sequence[Records], firsts: Array, one: Array, other: Array) -> bool:
    """Return True if each record has the same key as its counterpart; `firsts` numbers the first of each part."""
    at = KEY_OFFSET
    while len(one):
        (word, has_ended), (other_word, _) = (
            _masked(_words_at(parts, firsts, numbers, at)) for numbers in (one, other)
        )
        if not np.array_equal(word, other_word):
            return False
        one, other = one[~has_ended], other[~has_ended]
        at += _WORD
    return True


def _words_at(parts: Sequence[Records], firsts: Array, numbers: Array, at: int) -> Array:
    """Return the eight bytes of each of these records that begin `at` bytes behind its beginning."""
    found = np.empty(len(numbers), np.uint64)
    homes = np.searchsorted(firsts, numbers, "right") - 1
    for home in np.unique(homes).tolist():
        part, here = parts[home], homes == home
        found[here] = part.words()[part.starts[numbers[here] - firsts[home]] + at]
    return found
