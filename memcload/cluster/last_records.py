"""Which records of a partition are the last of their keys: the others need not be sent."""

from __future__ import annotations

from typing import Any

import numpy as np

from memcload.memcached.protocol import KEY_OFFSET

PADDING = 8  # bytes that have to be there behind the commands

Array = Any

_SPACES = np.uint64(0x2020202020202020)
_LOW, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_ONE, _SEVEN, _SHIFT = np.uint64(1), np.uint64(7), np.uint64(29)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def keep_last(commands: Array, ends: Array) -> Array | None:
    """Return for each record if it is the last of its key; None if no key is there twice.

    Args:
        commands: quiet meta sets, with PADDING bytes behind the last.
        ends: where each ends.
    """
    if len(ends) < 2:
        return None
    starts = np.concatenate(([0], ends[:-1]))
    words = np.ndarray((len(commands) - PADDING + 1,), "<u8", commands, strides=(1,))  # one begins at every byte
    # The upper bits of a hash and the number of the record, so that one fast sort puts equal keys together, in order.
    number_bits = np.uint64((1 << len(ends).bit_length()) - 1)
    sorted_hashes = np.sort(_hashes(words, starts) & ~number_bits | np.arange(len(ends), dtype=np.uint64))
    repeats = np.flatnonzero((sorted_hashes[1:] & ~number_bits) == (sorted_hashes[:-1] & ~number_bits))
    if not len(repeats):
        return None
    earlier = (sorted_hashes[repeats] & number_bits).astype(np.int64)
    later = (sorted_hashes[repeats + 1] & number_bits).astype(np.int64)
    if not _have_same_keys(words, starts[earlier], starts[later]):  # two keys have one hash
        return keep_last_by_key(commands, ends)
    keep = np.ones(len(ends), np.bool_)
    keep[earlier] = False
    return keep


def keep_last_by_key(commands: Array, ends: Array) -> Array:
    """Return for each record if it is the last of its key, by the keys themselves."""
    keep = np.zeros(len(ends), np.bool_)
    keep[list({key: number for number, key in enumerate(keys_of(commands, ends))}.values())] = True
    return keep


def keys_of(commands: Array, ends: Array) -> list[bytes]:
    """Return the key of each record."""
    data = bytes(commands)
    starts = [0, *ends[:-1].tolist()]
    return [data[start + KEY_OFFSET : data.index(b" ", start + KEY_OFFSET)] for start in starts]


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
        at = at + 8
        if has_ended.any():
            goes_on = ~has_ended
            at = at[goes_on]
            rest = np.flatnonzero(goes_on) if rest is None else rest[goes_on]


def _masked(word: Array) -> tuple[Array, Array]:
    """Return eight bytes of each key, zero from its end on, and whether that is among them."""
    differing = word ^ _SPACES
    ends = (differing - _LOW) & ~differing & _HIGH  # the lowest bit that is set marks the first space
    return word & (((ends & (~ends + _ONE)) >> _SEVEN) - _ONE), ends != 0


def _have_same_keys(words: Array, first: Array, second: Array) -> bool:
    first, second = first + KEY_OFFSET, second + KEY_OFFSET
    while len(first):
        (one, has_ended), (other, _) = _masked(words[first]), _masked(words[second])
        if not np.array_equal(one, other):
            return False
        first, second = first[~has_ended] + 8, second[~has_ended] + 8
    return True
