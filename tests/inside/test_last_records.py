"""Only the last record of a key is sent, however keys and values look."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from memcload.memcached.protocol import meta_set

np = pytest.importorskip("numpy")

from memcload.cluster import last_records  # noqa: E402
from memcload.cluster.last_records import Records, keep_last, keep_last_by_key  # noqa: E402


def parts_of(keys: list[bytes], parts: int = 3) -> list[Records]:
    """Return records with these keys, in so many parts at most."""
    commands = [meta_set(key, b"key %d of ms" % number, b" q\r\n") for number, key in enumerate(keys)]
    size = -(-len(keys) // parts)
    pieces = [commands[at : at + size] for at in range(0, len(commands), size)]
    return [
        Records(
            np.frombuffer(b"".join(piece), np.uint8), np.cumsum([len(command) for command in piece], dtype=np.int32)
        )
        for piece in pieces
    ]


def kept(keep: Sequence[Any]) -> list[bool]:
    return [bool(is_kept) for part in keep for is_kept in part]


def wanted(keys: list[bytes]) -> list[bool]:
    return [key not in keys[number + 1 :] for number, key in enumerate(keys)]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 11, 12, 13, 35, 36, 37, 245])
def test_keys_of_every_length(length: int) -> None:
    rng = random.Random(length)
    ids = [bytes(rng.choice(b"!~aA0") for _ in range(rng.randint(1, length))) for _ in range(200)]
    keys = [b"idfa:" + rng.choice(ids) for _ in range(300)]
    for parts in (1, 2, 7):
        keep = keep_last(parts_of(keys, parts))
        assert keep is not None
        assert kept(keep) == wanted(keys)
        assert kept(keep_last_by_key(parts_of(keys, parts))) == wanted(keys)


def test_no_key_twice() -> None:
    keys = [b"idfa:%d" % number for number in range(1000)]
    assert keep_last(parts_of(keys)) is None
    assert keep_last(parts_of(keys[:1])) is None


def test_keys_that_differ_in_their_last_byte_or_length_only() -> None:
    keys = [b"gaid:" + b"x" * length + end for length in range(40) for end in (b"", b"0", b"1", b"!")]
    keep = keep_last(parts_of(keys))
    expected = wanted(keys)
    assert (keep is None and all(expected)) or (keep is not None and kept(keep) == expected)


def test_keys_that_have_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_records, "_FACTOR", np.uint64(0))
    keys = [b"idfa:%d" % (number % 7) for number in range(50)]
    keep = keep_last(parts_of(keys))
    assert keep is not None
    assert kept(keep) == wanted(keys)
