"""The rule of pymemcache, for the kernel."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from memcload.memcached.routes.layout import (
    COUNTS,
    SECTIONS,
    SHARED,
    Bytes,
    Compile,
    Function,
    Table,
    Word,
    helper,
    lay_out,
    make_bytes_at,
    make_word_at,
)
from memcload.memcached.routing import MAX_SERVERS, Router
from memcload.memcached.routing_rules import murmur3_prefix, rendezvous_bytes, rendezvous_nodes

_STATES = SHARED  # scratch space: the state of the hash for each node of a group

# A section is the number of its groups, the groups, and the servers by rank: in the order of their nodes' names.
# Nodes whose names end at the same place in a word are a group, because they share the words of the key: how many
# they are, how many bytes of the key complete a word, then their states, the bytes after them, lengths and ranks.


def rendezvous_table(router: Router) -> array[int]:
    """Return the table for pymemcache's rule; its route keeps states there while it works."""

    def section(device_type: str, addresses: Sequence[str]) -> list[int]:
        nodes = rendezvous_nodes(addresses)
        ascending = sorted(range(len(nodes)), key=nodes.__getitem__)
        prefixes = [murmur3_prefix(rendezvous_bytes(nodes[index]) + f"{device_type}:".encode()) for index in ascending]
        numbers = [len({prefix.length % 4 for prefix in prefixes})]
        for length in range(4):
            ranks = [rank for rank, prefix in enumerate(prefixes) if prefix.length % 4 == length]
            if ranks:
                numbers += [len(ranks), -length % 4]
                numbers += [prefixes[rank].state for rank in ranks]
                numbers += [prefixes[rank].rest for rank in ranks]
                numbers += [prefixes[rank].length for rank in ranks]
                numbers += ranks
        return numbers + ascending

    return lay_out(router, [0] * MAX_SERVERS, section)


def make_rendezvous_route(compile: Compile) -> Function:
    """Compile pymemcache's rule."""
    from numba import int64, uint32

    word_at = make_word_at()
    bytes_at = make_bytes_at()

    @helper
    def scramble(word: Word) -> Word:
        word = uint32(word * uint32(0xCC9E2D51))
        return uint32(uint32(word << uint32(15) | word >> uint32(17)) * uint32(0x1B873593))

    @helper
    def mix(state: Word, scrambled: Word) -> Word:
        state = uint32(state ^ scrambled)
        return uint32(uint32(state << uint32(13) | state >> uint32(19)) * uint32(5) + uint32(0xE6546B64))

    @helper
    def finish(state: Word) -> Word:
        state = uint32(uint32(state ^ state >> uint32(16)) * uint32(0x85EBCA6B))
        state = uint32(uint32(state ^ state >> uint32(13)) * uint32(0xC2B2AE35))
        return uint32(state ^ state >> uint32(16))

    @compile
    def route(text: Bytes, id_start: int, id_end: int, device: int, table: Table) -> Any:
        if table[COUNTS + device] < 2 or id_start < 0:
            return 0
        length = uint32(id_end - id_start)
        at = int64(table[SECTIONS + device])
        groups = int64(table[at])
        at += 1
        highest = int64(-1)
        for _ in range(groups):
            nodes = int64(table[at])
            missing = int64(table[at + 1])
            at += 2
            p = id_start
            while p < id_end and p - id_start < missing:
                p += 1
            is_whole = p - id_start == missing
            if missing:  # the first bytes of the id complete the word that each name has begun
                word = uint32(bytes_at(text, id_start, p) << uint32(32 - 8 * missing))
                for k in range(nodes):
                    begun = scramble(uint32(table[at + nodes + k] | word))
                    state = table[at + k]
                    table[_STATES + k] = mix(state, begun) if is_whole else uint32(state ^ begun)
            else:
                for k in range(nodes):
                    table[_STATES + k] = table[at + k]
            while p + 4 <= id_end:
                word = scramble(word_at(text, p))
                for k in range(nodes):  # side by side: the compiler makes SIMD of it
                    table[_STATES + k] = mix(table[_STATES + k], word)
                p += 4
            word = scramble(bytes_at(text, p, id_end))  # nothing left is 0, which changes nothing
            for k in range(nodes):
                key_length = uint32(table[at + 2 * nodes + k] + length)
                score: Any = int64(finish(uint32(uint32(table[_STATES + k] ^ word) ^ key_length)))
                highest = max(highest, score << 6 | table[at + 3 * nodes + k])  # of equal scores the greatest name
            at += 4 * nodes
        return table[at + (highest & 63)]

    return route
