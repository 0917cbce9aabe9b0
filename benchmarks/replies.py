"""What reading a reply costs, in one piece and byte by byte.

Nothing is looked at twice, so what a byte costs does not depend on how long the reply is. Byte by byte, most of it are
the calls: calls of a method that does nothing show how much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.results import Figures
from memcload.memcached.protocol import value_reply
from memcload.memcached.replies import BatchReply, LookupReplies, Reply, SetReplies

_REFUSAL = b"SERVER_ERROR out of memory storing object\r\n"
_WANTED, _HELD = value_reply(bytes(60)), value_reply(b"x" * 60)


class _Nothing:
    is_complete = True

    def receive(self, data: bytes) -> Sequence[None]:
        return ()


def batch(size: int) -> tuple[Reply[Any], bytes]:
    """Return the reply to a batch of which every record is refused."""
    count = size // len(_REFUSAL)
    return BatchReply(count), _REFUSAL * count + b"MN\r\n"


def sets(size: int) -> tuple[Reply[Any], bytes]:
    """Return the replies to sets that are all refused."""
    count = size // len(_REFUSAL)
    return SetReplies(count), _REFUSAL * count


def same_values(size: int) -> tuple[Reply[Any], bytes]:
    """Return the replies to lookups that find what they should."""
    count = size // len(_WANTED)
    return LookupReplies(count, _WANTED * count), _WANTED * count


def other_values(size: int) -> tuple[Reply[Any], bytes]:
    """Return the replies to lookups that all find something else."""
    count = size // len(_WANTED)
    return LookupReplies(count, _WANTED * count), _HELD * count


KINDS: dict[str, Callable[[int], tuple[Reply[Any], bytes]]] = {
    "a batch, each record refused": batch,
    "sets, each refused": sets,
    "lookups, all as they should be": same_values,
    "lookups, all different": other_values,
}


def nanoseconds_a_byte(reply: Reply[Any], data: bytes, piece: int) -> float:
    """Return what it costs to read a reply in pieces."""
    receive = reply.receive
    started = time.process_time()
    for at in range(0, len(data), piece):
        receive(data[at : at + piece])
    assert reply.is_complete
    return (time.process_time() - started) / len(data) * 1e9


def measure(size: int) -> dict[str, Figures]:
    """Return what a byte of each kind of reply costs, for a reply of this size and for one of a tenth of it."""
    figures: dict[str, Figures] = {}
    for name, kind in KINDS.items():
        short, long = (nanoseconds_a_byte(*kind(length), 1) for length in (size // 10, size))
        figures[name] = {
            "whole_nanoseconds": nanoseconds_a_byte(*kind(size), size + 100),
            "short_nanoseconds": short,
            "long_nanoseconds": long,
            "long_to_short": long / short,
            "calls_nanoseconds": nanoseconds_a_byte(_Nothing(), bytes(size // 10), 1),
        }
    return figures
