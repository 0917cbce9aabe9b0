"""How client libraries choose the server of a key, key by key the same.

Each rule takes the servers of one device type, at least two, and returns a function from a key to the index of
its server. No rule looks at which servers are up.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from memcload.memcached.address import parse_address

RoutingName = Literal["rendezvous", "crc32", "python-memcached", "ketama"]
"""`rendezvous`: pymemcache's HashClient with str keys; `crc32`: Go's gomemcache; `python-memcached`: itself, from
1.60 on; `ketama`: libmemcached's weighted ketama, as pylibmc's `ketama_weighted` turns it on."""

ROUTING_NAMES: tuple[RoutingName, ...] = get_args(RoutingName)

Choose = Callable[[bytes], int]
Rule = Callable[[Sequence[str]], Choose]

_MASK = 0xFFFFFFFF
_DEFAULT_PORT = 11211


class _Row(NamedTuple):
    """Numbers side by side in one integer, in 64 bits each: no product of two 32-bit numbers reaches its neighbor."""

    ones: int  # a 1 in each
    mask: int  # 32 bits of each


_ONE = _Row(1, _MASK)


class Murmur3Prefix(NamedTuple):
    """The beginning of a text, as MurmurHash3_x86_32 with seed 0 has hashed it.

    state: of its whole words
    rest: the 0 to 3 bytes after these, as a number
    length: of the beginning, in bytes
    """

    state: int
    rest: int
    length: int


def murmur3_prefix(text: bytes) -> Murmur3Prefix:
    """Hash the beginning of a text."""
    words, rest = _words(text)
    state = 0
    for word in words:
        state = _mix(state, _scramble(word, _ONE), _ONE)
    return Murmur3Prefix(state, rest, len(text))


class Murmur3:
    """Hashes texts that begin differently and end alike, all at once; `prefixes` end at the same place in a word."""

    def __init__(self, prefixes: Sequence[Murmur3Prefix]) -> None:
        self._format = struct.Struct(f"<{len(prefixes)}Q")
        ones = self._side_by_side([1] * len(prefixes))
        self._row = _Row(ones, ones * _MASK)
        self._states = self._side_by_side([prefix.state for prefix in prefixes])
        self._rests = self._side_by_side([prefix.rest for prefix in prefixes])
        self._lengths = self._side_by_side([prefix.length for prefix in prefixes])
        self._missing = -prefixes[0].length % 4

    def hashes(self, ending: bytes) -> tuple[int, ...]:
        """Return the hash of each prefix with an ending of at least three bytes."""
        row, states, missing = self._row, self._states, self._missing
        ones, mask = row
        if missing:
            head = int.from_bytes(ending[:missing], "little") << (32 - 8 * missing)
            states = _mix(states, _scramble(self._rests | head * ones, row), row)
        words, rest = _words(ending[missing:])
        for word in words:
            states = _mix(states, _scramble(word, _ONE) * ones, row)
        states ^= _scramble(rest, _ONE) * ones  # no rest is 0, which changes nothing
        states ^= self._lengths + len(ending) * ones
        states = ((states ^ states >> 16) & mask) * 0x85EBCA6B & mask
        states = ((states ^ states >> 13) & mask) * 0xC2B2AE35 & mask
        states = (states ^ states >> 16) & mask
        return self._format.unpack(states.to_bytes(self._format.size, "little"))

    def _side_by_side(self, numbers: Sequence[int]) -> int:
        return int.from_bytes(self._format.pack(*numbers), "little")


def _words(text: bytes) -> tuple[tuple[int, ...], int]:
    """Return the words of a text and, as a number, the bytes after them."""
    count = len(text) // 4
    return struct.unpack_from(f"<{count}I", text), int.from_bytes(text[4 * count :], "little")


def _scramble(words: int, row: _Row) -> int:
    words = words * 0xCC9E2D51 & row.mask
    return ((words << 15 | words >> 17) & row.mask) * 0x1B873593 & row.mask


def _mix(states: int, scrambled: int, row: _Row) -> int:
    states ^= scrambled
    return ((states << 13 | states >> 19) & row.mask) * 5 + 0xE6546B64 * row.ones & row.mask


def rendezvous_nodes(addresses: Sequence[str]) -> list[str]:
    """Return what pymemcache calls the servers: host:port, an IPv6 host bare, or a socket's path."""
    places = [parse_address(address) for address in addresses]
    return [place if isinstance(place, str) else f"{place[0]}:{place[1]}" for place in places]


def rendezvous_bytes(node: str) -> bytes:
    """Return what pymemcache hashes of a server's name: the low byte of each character."""
    return bytes(ord(character) & 0xFF for character in f"{node}-")


def rendezvous(addresses: Sequence[str]) -> Choose:
    """Choose the server with the largest hash of `node-key`; of equal ones the server with the greatest name."""
    nodes = rendezvous_nodes(addresses)
    ascending = sorted(range(len(nodes)), key=nodes.__getitem__)
    prefixes = [murmur3_prefix(rendezvous_bytes(nodes[index])) for index in ascending]
    groups = []
    for length in range(4):
        ranks = [rank for rank, prefix in enumerate(prefixes) if prefix.length % 4 == length]
        if ranks:
            groups.append((ranks, Murmur3([prefixes[rank] for rank in ranks])))

    def choose(key: bytes) -> int:
        _, rank = max(max(zip(murmur3.hashes(key), ranks, strict=True)) for ranks, murmur3 in groups)
        return ascending[rank]

    return choose


def crc32(addresses: Sequence[str]) -> Choose:
    """Choose by the remainder of the key's CRC-32, servers in the order given."""
    count = len(addresses)
    return lambda key: zlib.crc32(key) % count


def python_memcached(addresses: Sequence[str]) -> Choose:
    """Choose by the remainder of 15 bits of the key's CRC-32, servers in the order given.

    python-memcached up to 1.59 takes 1 where these bits are 0, one key in 32,768: it misses that key here.
    """
    count = len(addresses)
    return lambda key: (zlib.crc32(key) >> 16 & 0x7FFF) % count


def md5(text: bytes) -> bytes:
    """Return the MD5 of a text, which protects nothing here."""
    return hashlib.md5(text, usedforsecurity=False).digest()


def ketama_digests(count: int) -> int:
    """Return how many digests of four points each of `count` equal servers has: 40, or 39 as float32 has it.

    This is libmemcached's `floorf(weight / total * 160 / 4 * count + 1e-10)`, rounded after each step as in C.
    """

    def float32(number: float) -> float:
        rounded: float = struct.unpack("f", struct.pack("f", number))[0]
        return rounded

    share = float32(1 / count)
    return math.floor(float32(float32(float32(share * 160) / 4) * count))  # 1e-10 is lost in rounding


def ketama_ring(addresses: Sequence[str]) -> list[tuple[int, int]]:
    """Return libmemcached's continuum in ascending order: points, and the indices of the servers that own them."""
    ring = []
    for index, address in enumerate(addresses):
        place = parse_address(address)
        host, port = (place, 0) if isinstance(place, str) else place
        node = host if port == _DEFAULT_PORT else f"{host}:{port}"
        for number in range(ketama_digests(len(addresses))):
            digest = md5(f"{node}-{number}".encode("utf-8", "surrogateescape"))
            ring += [(point, index) for point in struct.unpack("<4I", digest)]
    return sorted(ring)


def ketama(addresses: Sequence[str]) -> Choose:
    """Choose the owner of the first point that is not below the first word of the key's MD5."""
    ring = ketama_ring(addresses)
    points, owners = [point for point, _ in ring], [owner for _, owner in ring]

    def choose(key: bytes) -> int:
        place = bisect_left(points, int.from_bytes(md5(key)[:4], "little"))
        return owners[place] if place < len(points) else owners[0]

    return choose


RULES: Mapping[RoutingName, Rule] = {
    "rendezvous": rendezvous,
    "crc32": crc32,
    "python-memcached": python_memcached,
    "ketama": ketama,
}
