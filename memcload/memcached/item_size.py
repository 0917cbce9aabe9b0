"""Which records are too large for memcached: what an item takes beside its key and value, and how much it may take."""

from __future__ import annotations

from collections.abc import Mapping

from memcload.memcached.protocol import numbers_of

SMALLEST_LIMIT = 1024  # bytes of an item; memcached takes no less for `-I`
CAS_SIZE = 8  # bytes, unless it was started with `-C`
_OVERHEAD = 51  # bytes: the header, and what ends key and value


def item_size(key_length: int, value_length: int) -> int:
    """Return how many bytes an item takes, without its CAS."""
    return key_length + value_length + _OVERHEAD


def largest_item(settings: Mapping[bytes, bytes]) -> int | None:
    """Return the largest size of an item, without its CAS, by a server's settings; None if it does not tell."""
    limit = numbers_of(settings).get(b"item_size_max")
    has_cas = settings.get(b"cas_enabled") != b"no"
    return None if limit is None else limit - CAS_SIZE * has_cas
