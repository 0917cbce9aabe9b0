"""How a table begins, whatever the rule."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from memcload.memcached.routing import Router
from memcload.records import DEVICE_TYPES

Function = Callable[..., Any]
Compile = Callable[[Function], Function]
Bytes = Any  # an array of uint8
Table = Any  # an array of uint32
Word = Any  # a uint32

COUNTS = 0  # how many servers each device type has
SECTIONS = COUNTS + len(DEVICE_TYPES)  # where the section of each device type begins
SHARED = SECTIONS + len(DEVICE_TYPES)  # where what all device types share begins


def lay_out(router: Router, shared: Sequence[int], section: Callable[[str, Sequence[str]], list[int]]) -> array[int]:
    """Return a table; `section` gives what a rule needs to know of a device type with several servers."""
    servers = [router.servers.get(device_type, ()) for device_type in DEVICE_TYPES]
    table = array("I", [len(addresses) for addresses in servers])
    table.extend([0] * len(DEVICE_TYPES))
    table.extend(shared)
    for device, (device_type, addresses) in enumerate(zip(DEVICE_TYPES, servers, strict=True)):
        table[SECTIONS + device] = len(table)
        if len(addresses) > 1:
            table.extend(section(device_type, addresses))
    return table


def helper(function: Function) -> Function:
    """Make a function part of the routes that call it.

    Numba counts references to an array that one compiled function gives another; there are none to be counted in
    one function.
    """
    from numba import njit

    inlined: Function = njit(inline="always", error_model="numpy")(function)
    return inlined


def make_word_at() -> Function:
    """Return a function that reads a word, its least byte first. (The compiler makes one load of it.)"""
    from numba import uint32

    @helper
    def word_at(text: Bytes, p: int) -> Word:
        return uint32(
            uint32(text[p])
            | uint32(text[p + 1]) << uint32(8)
            | uint32(text[p + 2]) << uint32(16)
            | uint32(text[p + 3]) << uint32(24)
        )

    return word_at


def make_bytes_at() -> Function:
    """Return a function that reads less than a word, its least byte first; 0 where nothing is left."""
    from numba import uint32

    @helper
    def bytes_at(text: Bytes, p: int, end: int) -> Word:
        word = uint32(0)
        shift = uint32(0)
        while p < end:
            word = uint32(word | uint32(text[p]) << shift)
            shift = uint32(shift + uint32(8))
            p += 1
        return word

    return bytes_at
