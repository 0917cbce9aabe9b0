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

RoutingName = Literal["rendezvous", "crc32", "python-memcached", "ketama"]
"""`rendezvous`: pymemcache's HashClient with str keys; `crc32`: Go's gomemcache; `python-memcached`: itself, from
1.60 on; `ketama`: libmemcached's weighted ketama, as pylibmc's `ketama_weighted` turns it on."""

ROUTING_NAMES: tuple[RoutingName, ...] = get_args(RoutingName)

Choose = Callable[[bytes], int]
Rule = Callable[[Sequence[str]], Choose]

_MASK = 0xFFFFFFFF
_DEFAULT_PORT = "11211"


class Endpoint(NamedTuple):
    """An address taken apart, as all libraries write hosts: without brackets. A Unix socket has no port."""

    host: str
    port: str

    @property
    def is_unix(self) -> bool:
        """Return True for the path of a Unix socket."""
        return not self.port


def endpoint(address: str) -> Endpoint:
    """Take a valid address apart: host:port, [v6]:port or unix:/path."""
    if address.startswith("unix:"):
        return Endpoint(address.removeprefix("unix:"), "")
    host, _, port = address.rpartition(":")
    return Endpoint(host.strip("[]"), str(int(port)))


class Murmur3Prefix(NamedTuple):
    """The beginning of a text, hashed as far as it can be: whole words are in `state`, the 0 to 3 bytes after them not."""

    state: int = 0
    rest: bytes = b""
    length: int = 0


def murmur3_prefix(text: bytes) -> Murmur3Prefix:
    """Hash the beginning of texts once and for all."""
    whole = len(text) & ~3
    return Murmur3Prefix(_murmur3_words(0, text[:whole]), text[whole:], len(text))


def murmur3_32(text: bytes, prefix: Murmur3Prefix | None = None) -> int:
    """Return the MurmurHash3_x86_32, seed 0, of a text that continues the prefix."""
    state, rest, length = prefix or Murmur3Prefix()
    length += len(text)
    text = rest + text
    whole = len(text) & ~3
    state = _murmur3_words(state, text[:whole])
    if whole < len(text):
        state ^= _murmur3_scramble(int.from_bytes(text[whole:], "little"))
    state ^= length
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    return state ^ state >> 16


def _murmur3_words(state: int, text: bytes) -> int:
    for (word,) in struct.iter_unpack("<I", text):
        state ^= _murmur3_scramble(word)
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & _MASK
    return state


def _murmur3_scramble(word: int) -> int:
    word = word * 0xCC9E2D51 & _MASK
    return (word << 15 | word >> 17) * 0x1B873593 & _MASK


def rendezvous_nodes(addresses: Sequence[str]) -> list[str]:
    """Return what pymemcache calls the servers: host:port, an IPv6 host bare, or a socket's path."""
    return [place.host if place.is_unix else f"{place.host}:{place.port}" for place in map(endpoint, addresses)]


def rendezvous_bytes(node: str) -> bytes:
    """Return what pymemcache hashes of a server's name: the low byte of each character."""
    return bytes(ord(character) & 0xFF for character in f"{node}-")


def rendezvous(addresses: Sequence[str]) -> Choose:
    """Choose the server with the largest hash of `node-key`; of equal ones the server with the greatest name."""
    nodes = rendezvous_nodes(addresses)
    ascending = sorted(range(len(nodes)), key=nodes.__getitem__)
    prefixes = [(index, murmur3_prefix(rendezvous_bytes(nodes[index]))) for index in ascending]

    def choose(key: bytes) -> int:
        winner, highest = 0, -1
        for index, prefix in prefixes:
            score = murmur3_32(key, prefix)
            if score >= highest:
                winner, highest = index, score
        return winner

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
    for index, (host, port) in enumerate(map(endpoint, addresses)):
        node = host if port == _DEFAULT_PORT else f"{host}:{port or 0}"
        for number in range(ketama_digests(len(addresses))):
            digest = md5(f"{node}-{number}".encode("utf-8", "surrogateescape"))
            ring += [(point, index) for point in struct.unpack("<4I", digest)]
    return sorted(ring)


def ketama(addresses: Sequence[str]) -> Choose:
    """Choose the owner of the first point that is not below the first word of the key's MD5."""
    points, owners = zip(*ketama_ring(addresses), strict=True)

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
