"""The rule of libmemcached, for the kernel."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
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
from memcload.memcached.routing import Router
from memcload.memcached.routing_rules import ketama_ring

_WORDS = SHARED  # scratch space: the sixteen words of a block that MD5 works on
_SINES = _WORDS + 16  # MD5's constants

# The section of a device type:
_TYPE = 0  # the four letters of the device type
_COLON = 1
_SHIFT = 2  # a point shifted right by this is its slot
_SLOTS = 3  # where the first point of each slot is, counted from the section; then points, each with its owner


def ketama_table(router: Router) -> array[int]:
    """Return the table for libmemcached's rule; its route keeps words there while it works."""

    def section(device_type: str, addresses: Sequence[str]) -> list[int]:
        ring = ketama_ring(addresses)
        ring.append((0xFFFFFFFF, ring[0][1]))  # what lies beyond the last point belongs to the first one's owner
        points = [point for point, _ in ring]
        bits = len(ring).bit_length()  # one to two slots a point
        prefix = f"{device_type}:".encode()
        numbers = [int.from_bytes(prefix[:4], "little"), prefix[4], 32 - bits]
        first = _SLOTS + (1 << bits)
        numbers += [first + 2 * bisect_left(points, slot << (32 - bits)) for slot in range(1 << bits)]
        for point_and_owner in ring:
            numbers += point_and_owner
        return numbers

    sines = [int(abs(math.sin(step + 1)) * 2**32) for step in range(64)]
    return lay_out(router, [0] * 16 + sines, section)


def make_ketama_route(compile: Compile) -> Function:
    """Compile libmemcached's rule."""
    from numba import int64, uint32

    word_at = make_word_at()
    bytes_at = make_bytes_at()

    @helper
    def padded_word_at(text: Bytes, p: int, end: int) -> Word:
        """Return a word of a message, which is padded with one bit and zeros."""
        if p + 4 <= end:
            return word_at(text, p)
        if p > end:
            return uint32(0)
        return uint32(bytes_at(text, p, end) | uint32(0x80) << uint32(8 * (end - p)))

    @helper
    def turn(a: Word, b: Word, mixed: Word, word: Word, sine: Word, bits: int) -> Word:
        a = uint32(uint32(uint32(a + word) + sine) + mixed)
        return uint32(b + uint32(a << uint32(bits) | a >> uint32(32 - bits)))

    @helper
    def first_word_of_md5(text: Bytes, id_start: int, id_end: int, section: int, table: Table) -> Word:
        length = id_end - id_start + 5  # with the device type and its colon
        blocks = (length + 8) // 64 + 1
        a0, b0, c0, d0 = uint32(0x67452301), uint32(0xEFCDAB89), uint32(0x98BADCFE), uint32(0x10325476)
        p = id_start + 3  # the first two words have the device type, the colon and three bytes of the id
        for block in range(blocks):
            first = 0
            if block == 0:
                table[_WORDS] = table[section + _TYPE]
                begin = uint32(padded_word_at(text, id_start, id_end) << uint32(8))
                table[_WORDS + 1] = uint32(table[section + _COLON] | begin)
                first = 2
            for i in range(first, 16):
                table[_WORDS + i] = padded_word_at(text, p, id_end)
                p += 4
            if block == blocks - 1:
                table[_WORDS + 14] = uint32(8 * length)
            a, b, c, d = a0, b0, c0, d0
            for i in range(0, 16, 4):
                w, s = _WORDS + i, _SINES + i
                a = turn(a, b, d ^ b & (c ^ d), table[w], table[s], 7)
                d = turn(d, a, c ^ a & (b ^ c), table[w + 1], table[s + 1], 12)
                c = turn(c, d, b ^ d & (a ^ b), table[w + 2], table[s + 2], 17)
                b = turn(b, c, a ^ c & (d ^ a), table[w + 3], table[s + 3], 22)
            for i in range(0, 16, 4):
                w, s = 5 * i + 1, _SINES + 16 + i
                a = turn(a, b, c ^ d & (b ^ c), table[_WORDS + (w & 15)], table[s], 5)
                d = turn(d, a, b ^ c & (a ^ b), table[_WORDS + (w + 5 & 15)], table[s + 1], 9)
                c = turn(c, d, a ^ b & (d ^ a), table[_WORDS + (w + 10 & 15)], table[s + 2], 14)
                b = turn(b, c, d ^ a & (c ^ d), table[_WORDS + (w + 15 & 15)], table[s + 3], 20)
            for i in range(0, 16, 4):
                w, s = 3 * i + 5, _SINES + 32 + i
                a = turn(a, b, b ^ (c ^ d), table[_WORDS + (w & 15)], table[s], 4)
                d = turn(d, a, a ^ (b ^ c), table[_WORDS + (w + 3 & 15)], table[s + 1], 11)
                c = turn(c, d, d ^ (a ^ b), table[_WORDS + (w + 6 & 15)], table[s + 2], 16)
                b = turn(b, c, c ^ (d ^ a), table[_WORDS + (w + 9 & 15)], table[s + 3], 23)
            for i in range(0, 16, 4):
                w, s = 7 * i, _SINES + 48 + i
                a = turn(a, b, c ^ (b | uint32(~d)), table[_WORDS + (w & 15)], table[s], 6)
                d = turn(d, a, b ^ (a | uint32(~c)), table[_WORDS + (w + 7 & 15)], table[s + 1], 10)
                c = turn(c, d, a ^ (d | uint32(~b)), table[_WORDS + (w + 14 & 15)], table[s + 2], 15)
                b = turn(b, c, d ^ (c | uint32(~a)), table[_WORDS + (w + 21 & 15)], table[s + 3], 21)
            a0, b0, c0, d0 = uint32(a0 + a), uint32(b0 + b), uint32(c0 + c), uint32(d0 + d)
        return a0

    @compile
    def route(text: Bytes, id_start: int, id_end: int, device: int, table: Table) -> Any:
        if table[COUNTS + device] < 2 or id_start < 0:
            return 0
        section = int64(table[SECTIONS + device])
        point = first_word_of_md5(text, id_start, id_end, section, table)
        place = section + table[section + _SLOTS + uint32(point >> table[section + _SHIFT])]
        while table[place] < point:
            place += 2
        return table[place + 1]

    return route
