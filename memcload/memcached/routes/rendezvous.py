"""The rule of pymemcache, for the kernel."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from memcload.memcached.routes.layout import (
    COUNTS,
    SECTIONS,
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
from memcload.memcached.routing import Router
from memcload.memcached.routing_rules import murmur3_prefix, rendezvous_bytes, rendezvous_nodes

_GROUP = 4  # nodes hashed side by side: as many states as fit into registers
_GROUP_SIZE = 1 + 4 * _GROUP  # bytes of a key that complete a word; states, rests, lengths, ranks


def rendezvous_table(router: Router) -> array[int]:
    """Return the table for the rule of pymemcache."""

    def section(device_type: str, addresses: Sequence[str]) -> list[int]:
        nodes = rendezvous_nodes(addresses)
        ascending = sorted(range(len(nodes)), key=nodes.__getitem__)
        prefixes = [murmur3_prefix(rendezvous_bytes(nodes[index]) + f"{device_type}:".encode()) for index in ascending]
        groups = []
        for length in range(4):
            ranks = [rank for rank, prefix in enumerate(prefixes) if prefix.length % 4 == length]
            groups += [ranks[start : start + _GROUP] for start in range(0, len(ranks), _GROUP)]
        numbers = [len(groups)]
        for ranks in groups:
            ranks = ranks + ranks[:1] * (_GROUP - len(ranks))  # the same node again changes nothing
            numbers.append(-prefixes[ranks[0]].length % 4)
            numbers += [prefixes[rank].state for rank in ranks]
            numbers += [prefixes[rank].rest for rank in ranks]
            numbers += [prefixes[rank].length for rank in ranks]
            numbers += ranks
        return numbers + ascending

    return lay_out(router, [], section)


def make_rendezvous_route(compile: Compile) -> Function:
    """Compile the rule of pymemcache."""
    from numba import int64, uint32

    word_at = make_word_at()
    bytes_at = make_bytes_at()

    @helper
    def scramble(word: Word) -> Word:
        word = uint32(word * uint32(0xCC9E2D51))
        return uint32(uint32(word << uint32(15) | word >> uint32(17)) * uint32(0x1B873593))

    @helper
    def absorb(state: Word, scrambled: Word) -> Word:
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
        group = int64(table[SECTIONS + device])
        groups_end = group + 1 + table[group] * _GROUP_SIZE
        group += 1
        highest = int64(-1)
        while group < groups_end:
            missing = int64(table[group])
            a, b, c, d = table[group + 1], table[group + 2], table[group + 3], table[group + 4]
            p = id_start
            while p < id_end and p - id_start < missing:
                p += 1
            if missing:  # the first bytes of the id complete the word that each name has begun
                word = uint32(bytes_at(text, id_start, p) << uint32(32 - 8 * missing))
                word_a = scramble(uint32(table[group + 5] | word))
                word_b = scramble(uint32(table[group + 6] | word))
                word_c = scramble(uint32(table[group + 7] | word))
                word_d = scramble(uint32(table[group + 8] | word))
                if p - id_start == missing:
                    a, b, c, d = absorb(a, word_a), absorb(b, word_b), absorb(c, word_c), absorb(d, word_d)
                else:  # the id is too short: these are the last bytes of the key
                    a, b, c, d = uint32(a ^ word_a), uint32(b ^ word_b), uint32(c ^ word_c), uint32(d ^ word_d)
            while p + 4 <= id_end:
                word = scramble(word_at(text, p))
                a, b, c, d = absorb(a, word), absorb(b, word), absorb(c, word), absorb(d, word)
                p += 4
            word = scramble(bytes_at(text, p, id_end))  # nothing left is 0, which changes nothing
            a = finish(uint32(uint32(a ^ word) ^ uint32(table[group + 9] + length)))
            b = finish(uint32(uint32(b ^ word) ^ uint32(table[group + 10] + length)))
            c = finish(uint32(uint32(c ^ word) ^ uint32(table[group + 11] + length)))
            d = finish(uint32(uint32(d ^ word) ^ uint32(table[group + 12] + length)))
            # Of equal hashes the greater rank wins.
            best = max(int64(a) << 6 | table[group + 13], int64(b) << 6 | table[group + 14])
            best = max(best, max(int64(c) << 6 | table[group + 15], int64(d) << 6 | table[group + 16]))
            highest = max(highest, best)
            group += _GROUP_SIZE
        return table[groups_end + (highest & 63)]

    return route
