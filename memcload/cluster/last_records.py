"""Which records of a partition are the last of their keys: the others need not be sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    hashes, key_words = _hashed(parts, firsts)
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
    if not all(np.array_equal(words[earlier], words[later]) for words in key_words):  # two keys have one hash
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


def _hashed(parts: Sequence[Records], firsts: Array) -> tuple[Array, list[Array]]:
    """Return a hash of each key, and what it is made of: its first eight bytes, its next, and so on.

    Equal keys have equal words, and others have not, for those behind a key's end are zero. They are kept until keys
    are compared: to fetch them again would take longer than all the rest.
    """
    hashes = np.zeros(int(firsts[-1]), np.uint64)
    key_words: list[Array] = []
    for part, first, end in zip(parts, firsts, firsts[1:], strict=False):
        here = hashes[first:end]
        for column, (rest, words) in enumerate(_key_words(part)):
            if column == len(key_words):
                key_words.append(np.zeros_like(hashes))
            key_words[column][first:end][rest] = words
            mixed = (here[rest] ^ words) * _FACTOR
            mixed ^= mixed >> _SHIFT
            here[rest] = mixed
        here *= _FACTOR
    return hashes, key_words


def _key_words(part: Records) -> Iterator[tuple[Any, Array]]:
    """Yield eight bytes of each key, then the next of those that go on, and which these are."""
    words, at = part.words(), part.starts + KEY_OFFSET
    rest: Any = slice(None)
    numbers = np.arange(len(at))
    while len(at):
        word, has_ended = _masked(words[at])
        yield rest, word
        if has_ended is not None:
            goes_on = ~has_ended
            at, numbers = at[goes_on], numbers[goes_on]
            rest = numbers
        at = at + _WORD


def _masked(word: Array) -> tuple[Array, Array | None]:
    """Return eight bytes of each key, zero from its end on, and whether that is among them; None if of no key."""
    differing = word ^ _SPACES
    ends = (differing - _LOW) & ~differing & _HIGH  # the lowest bit that is set marks the first space
    if not ends.any():
        return word, None
    return word & (((ends & (~ends + _ONE)) >> _SEVEN) - _ONE), ends != 0
