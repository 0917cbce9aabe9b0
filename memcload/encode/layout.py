"""What the kernel and Python share: the structures they both see, and the signatures of the kernel's functions.

Whatever is a limit or a byte of the protocol reaches the kernel in these structures: a kernel that lies in a cache
knows none of them, and a rule that changes reaches it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int64, c_uint8, c_uint32, c_void_p
from typing import NamedTuple

from memcload.memcached.protocol import meta_get, meta_set_prefix, value_reply
from memcload.memcached.routing import Router
from memcload.records import (
    DEVICE_TYPES,
    MAX_APP_ID,
    MAX_KEY_LENGTH,
    MAX_LINE_LENGTH,
    AppsInstalled,
    serialize,
)

WORD = 8  # bytes; the kernel writes wire bytes in whole words, and what follows overwrites the excess
_FLAG_WORDS = 4
_COORDINATE_DIGITS = 15  # below 2**53, so exact in a double


class Rules(Structure):
    """The limits and the wire bytes; wire bytes are words of little-endian bytes."""

    _fields_ = (
        ("device_types", c_uint32 * len(DEVICE_TYPES)),  # their letters
        ("first_partitions", c_int64 * len(DEVICE_TYPES)),  # -1: not to be loaded
        ("prefixes", c_int64 * len(DEVICE_TYPES)),  # how a command begins, up to the device's id
        ("prefix_length", c_int64),
        ("flags", c_int64 * _FLAG_WORDS),  # from the length of the value to the value
        ("flags_length", c_int64),
        ("line_length", c_int64),  # these three: at most
        ("device_id_length", c_int64),
        ("coordinate_digits", c_int64),
        ("app_id_digits", c_int64),  # at most, and such an id is always valid
        ("powers_of_ten", c_double * (_COORDINATE_DIGITS + 1)),
        ("apps_tag", c_uint8),
        ("lat_tag", c_uint8),
        ("lon_tag", c_uint8),
    )


class LookupWords(Structure):
    """The wire bytes of lookups: what stands before and behind a key, and before and behind the length of a value."""

    _fields_ = (
        ("key_at", c_int64),  # where in a meta set the key begins
        ("request", c_int64),
        ("request_length", c_int64),
        ("request_end", c_int64),
        ("request_end_length", c_int64),
        ("reply", c_int64),
        ("reply_length", c_int64),
        ("reply_end", c_int64),
        ("reply_end_length", c_int64),
    )


class Shape(Structure):
    """How large the buffers are: a row of each for every partition."""

    _fields_ = (
        ("partitions", c_int64),
        ("row_bytes", c_int64),  # of commands
        ("row_records", c_int64),  # of ends and lines
        ("table_length", c_int64),
    )


class Progress(Structure):
    """How far the kernel has come in a text."""

    _fields_ = (("position", c_int64), ("line", c_int64), ("skipped", c_int64))


class Row(Structure):
    """How full the rows of a partition are."""

    _fields_ = (("length", c_int64), ("count", c_int64))


class Lengths(Structure):
    """How long the requests and the replies of a lookup are."""

    _fields_ = (("requests", c_int64), ("replies", c_int64))


ENCODE = CFUNCTYPE(
    None,
    c_char_p,  # text
    c_int64,  # its length
    POINTER(Rules),
    POINTER(Progress),
    POINTER(Row),  # one for each partition
    c_void_p,  # commands
    c_void_p,  # ends
    c_void_p,  # lines
    c_void_p,  # table of the route
    POINTER(Shape),
)
LOOK_UP = CFUNCTYPE(
    None,
    c_char_p,  # commands
    c_int64,  # their length
    c_void_p,  # the end of each
    c_int64,  # first record
    c_int64,  # how many records
    POINTER(LookupWords),
    c_void_p,  # requests
    c_void_p,  # replies
    POINTER(Lengths),
)


class Kernel(NamedTuple):
    """The compiled functions, and what keeps them in memory. A call releases the interpreter's lock."""

    encode: Callable[..., None]
    look_up: Callable[..., None]
    keep: object = None


def rules_for(router: Router, flags: bytes) -> Rules:
    """Return the rules of a run; `flags` are meta_set_flags()."""
    prefixes = [meta_set_prefix(name) for name in DEVICE_TYPES]
    firsts = [router.first_partition(name) for name in DEVICE_TYPES]
    tags = serialize(AppsInstalled(DEVICE_TYPES[0], "", 0.0, 0.0, [0]))  # tag, id, tag, 8 bytes, tag, 8 bytes
    if any(len(name) != 4 for name in DEVICE_TYPES):
        raise ValueError("the kernel takes device types of four letters only")
    if len(flags) > _FLAG_WORDS * WORD:
        raise ValueError(f"flags of {len(flags)} bytes are more than the kernel has room for")
    return Rules(
        device_types=tuple(_word(name.encode()) for name in DEVICE_TYPES),
        first_partitions=tuple(-1 if first is None else first for first in firsts),
        prefixes=tuple(map(_word, prefixes)),
        prefix_length=len(prefixes[0]),
        flags=tuple(_word(flags[at : at + WORD]) for at in range(0, len(flags), WORD)),
        flags_length=len(flags),
        line_length=MAX_LINE_LENGTH,
        device_id_length=MAX_KEY_LENGTH - len(f"{DEVICE_TYPES[0]}:"),
        coordinate_digits=_COORDINATE_DIGITS,
        app_id_digits=min(9, len(str(MAX_APP_ID + 1)) - 1),  # nine digits fit into 32 bits
        powers_of_ten=tuple(10.0**exponent for exponent in range(_COORDINATE_DIGITS + 1)),
        apps_tag=tags[0],
        lat_tag=tags[2],
        lon_tag=tags[11],
    )


def lookup_words() -> LookupWords:
    """Return the wire bytes of lookups."""
    request, request_end = meta_get(b"\0").split(b"\0")
    reply, reply_end = value_reply(b"").split(b"0")
    reply_end = reply_end[: len(reply_end) // 2]  # the value is empty, so its end follows at once
    return LookupWords(
        key_at=len(meta_set_prefix("")) - len(":"),
        request=_word(request),
        request_length=len(request),
        request_end=_word(request_end),
        request_end_length=len(request_end),
        reply=_word(reply),
        reply_length=len(reply),
        reply_end=_word(reply_end),
        reply_end_length=len(reply_end),
    )


def _word(text: bytes) -> int:
    return int.from_bytes(text, "little")
