"""The memcached protocol without a socket: the bytes of commands, and the events that replies are made of.

https://github.com/memcached/memcached/blob/master/doc/protocol.txt

How replies are read is in memcload.memcached.replies.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

KEY_OFFSET = len(b"ms ")  # where a quiet meta set has its key
END_OF_BATCH = b"mn\r\n"
VERSION = b"version\r\n"
STATS = b"stats\r\n"
SETTINGS = b"stats settings\r\n"

# A meta set as batches have it, but for a mode that does not exist and a time to live that is over: nothing is stored.
# A server that takes the third word for the length of the value reads `mn` as that value and refuses the command.
# memcached 1.6.0 to 1.6.9, which has the length elsewhere, reads `mn` as a command and answers it.
_PROBE_KEY = b"memcload:probe"
PROBE = b"ms %b 002 T-1 MX q\r\nmn\r\nmg %b v\r\nmn\r\n" % (_PROBE_KEY, _PROBE_KEY)

_MAX_DIGITS = 20  # of a number; 64 bits need no more
_MONTH = 30 * 24 * 3600  # seconds; memcached takes a larger expiry for a point in time


# --- commands -----------------------------------------------------------------------------------


def meta_set_prefix(device_type: str) -> bytes:
    """Return how the quiet meta sets of a device type begin, up to the device's id."""
    return b"ms %b:" % device_type.encode()


def meta_set_flags(ttl: int) -> bytes:
    """Return what follows the length of the value in a quiet meta set, up to the value."""
    return b" T%d q\r\n" % expiry(ttl) if ttl else b" q\r\n"


def meta_set(key: bytes, value: bytes, flags: bytes) -> bytes:
    """Return the quiet meta set of one record; `flags` are meta_set_flags().

    The length has three digits at least: an encoder can leave room for it and write the value first.
    """
    return b"ms %b %03d%b%b\r\n" % (key, len(value), flags, value)


def split_meta_set(command: bytes) -> tuple[bytes, bytes]:
    """Return the key and the value of a quiet meta set."""
    line, _, value = command.partition(b"\r\n")
    return line.split(b" ", 2)[1], value[:-2]


def classic_set(key: bytes, value: bytes, expires: int) -> bytes:
    """Return a `set` of one record; `expires` is an expiry()."""
    return b"set %b 0 %d %d\r\n%b\r\n" % (key, expires, len(value), value)


def expiry(ttl: int) -> int:
    """Return the expiry to send for a time to live in seconds, 0 for none."""
    return ttl if ttl <= _MONTH else int(time.time()) + ttl


def meta_get(key: bytes) -> bytes:
    """Return the lookup of one key."""
    return b"mg %b v\r\n" % key


def value_reply(value: bytes) -> bytes:
    """Return how a meta get is answered by a server that holds this value."""
    return b"VA %d\r\n%b\r\n" % (len(value), value)


def value_lengths_of(replies: bytes) -> list[int]:
    """Return the lengths of the values in value_reply() replies, in order."""
    lengths = []
    start = 0
    while start < len(replies):
        end = replies.index(b"\r\n", start)
        lengths.append(int(replies[start + len(b"VA ") : end]))
        start = end + 2 + lengths[-1] + 2
    return lengths


def keys_of_meta_gets(requests: bytes) -> list[bytes]:
    """Return the keys of lookups, in order."""
    return [line[len(b"mg ") : -len(b" v")] for line in requests.split(b"\r\n")[:-1]]


def classic_gets(keys: Sequence[bytes]) -> bytes:
    """Return the lookups of keys for a server without meta commands."""
    return b"".join([b"get %b\r\n" % key for key in keys])


def authentication(user: bytes, password: bytes) -> bytes:
    """Return the command that shows a password to a server that was started with `-Y`.

    A server that wants no password takes it for a `set` of an item that has already expired.
    """
    return classic_set(b"auth", b"%b %b" % (user, password), -1)


# --- statistics and settings --------------------------------------------------------------------


def numbers_of(stats: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """Return those of a server's statistics, or of its settings, that are numbers."""
    return {name: int(value) for name, value in stats.items() if value.isdigit() and len(value) <= _MAX_DIGITS}


# --- events -------------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """A record that a server answered but did not store.

    `position` counts the records of its request from 0. `too_large` means that the value exceeds the server's
    limit; any other refusal (out of memory, say) may end well another time. `reply` is the server's own words.
    """

    position: int
    too_large: bool
    reply: str


class Difference(NamedTuple):
    """A record that the server does not hold as it should. `position` counts the records looked up from 0."""

    position: int
    kind: Literal["missing", "different"]


class BadReply(Exception):
    """A reply that makes no sense: nothing more on this connection can be trusted."""


class ErrorReply(Exception):
    """The server did not do what it was told, and its reply says why."""

    def __init__(self, line: bytes) -> None:
        super().__init__(shown(line))


class SpeaksTls(Exception):
    """The server answers with TLS what was no TLS."""


@lru_cache(maxsize=64)  # many refusals share their words
def shown(line: bytes) -> str:
    """Return a reply line, or the beginning of it, for people."""
    return line[:80].decode("ascii", "backslashreplace")
