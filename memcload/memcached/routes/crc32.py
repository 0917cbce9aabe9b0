"""The rules of gomemcache and python-memcached, for the kernel."""

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
    make_word_at,
)
from memcload.memcached.routing import Router

_TABLES = SHARED  # eight tables of 256: eight bytes are taken at a time ("slicing-by-8")


def _crc_tables() -> list[int]:
    tables = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
        tables.append(crc)
    for _ in range(7):
        tables += [crc >> 8 ^ tables[crc & 0xFF] for crc in tables[-256:]]
    return tables


def crc32_table(router: Router) -> array[int]:
    """Return the table for both rules."""
    tables = _crc_tables()

    def section(device_type: str, _: Sequence[str]) -> list[int]:
        state = 0xFFFFFFFF
        for byte in f"{device_type}:".encode():
            state = state >> 8 ^ tables[(state ^ byte) & 0xFF]
        return [state]

    return lay_out(router, tables, section)


def _make_crc32() -> Function:
    from numba import uint32

    word_at = make_word_at()

    @helper
    def crc32(text: Bytes, start: int, end: int, state: Word, table: Table) -> Word:
        p = start
        while p + 8 <= end:
            low = uint32(word_at(text, p) ^ state)
            state = uint32(
                table[_TABLES + 7 * 256 + uint32(low & uint32(0xFF))]
                ^ table[_TABLES + 6 * 256 + uint32(low >> uint32(8) & uint32(0xFF))]
                ^ table[_TABLES + 5 * 256 + uint32(low >> uint32(16) & uint32(0xFF))]
                ^ table[_TABLES + 4 * 256 + uint32(low >> uint32(24))]
                ^ table[_TABLES + 3 * 256 + text[p + 4]]
                ^ table[_TABLES + 2 * 256 + text[p + 5]]
                ^ table[_TABLES + 256 + text[p + 6]]
                ^ table[_TABLES + text[p + 7]]
            )
            p += 8
        while p < end:
            state = uint32(state >> uint32(8) ^ table[_TABLES + uint32((state ^ text[p]) & uint32(0xFF))])
            p += 1
        return uint32(~state)

    return crc32


def make_crc32_route(compile: Compile) -> Function:
    """Compile the rule of gomemcache."""
    from numba import uint32

    crc32 = _make_crc32()

    @compile
    def route(text: Bytes, id_start: int, id_end: int, device: int, table: Table) -> Any:
        count = table[COUNTS + device]
        if count < 2 or id_start < 0:  # an index is never negative: knowing it, the compiler leaves out tests
            return 0
        return uint32(crc32(text, id_start, id_end, table[table[SECTIONS + device]], table) % count)

    return route


def make_python_memcached_route(compile: Compile) -> Function:
    """Compile the rule of python-memcached."""
    from numba import uint32

    crc32 = _make_crc32()

    @compile
    def route(text: Bytes, id_start: int, id_end: int, device: int, table: Table) -> Any:
        count = table[COUNTS + device]
        if count < 2 or id_start < 0:
            return 0
        crc = crc32(text, id_start, id_end, table[table[SECTIONS + device]], table)
        return uint32(uint32(crc >> uint32(16) & uint32(0x7FFF)) % count)

    return route
