"""What reading a reply costs, whole and byte by byte: `python -m benchmarks.replies`.

Nothing is looked at twice, so the cost of a byte does not depend on how long the reply is. Byte by byte, it is that of
the calls; the column of calls shows what calls that do nothing take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from memcload.memcached.protocol import value_reply
from memcload.memcached.replies import BatchReply, LookupReplies, Reply, SetReplies

SIZES = (1_000_000, 10_000_000)  # bytes
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


def large_value(size: int) -> tuple[Reply[Any], bytes]:
    """Return the reply to the lookup of one large value."""
    return LookupReplies(1, _WANTED), value_reply(bytes(size))


def nanoseconds_a_byte(reply: Reply[Any], data: bytes, piece: int) -> float:
    """Return what it costs to read a reply in pieces."""
    receive = reply.receive
    started = time.process_time()
    for at in range(0, len(data), piece):
        receive(data[at : at + piece])
    assert reply.is_complete
    return (time.process_time() - started) / len(data) * 1e9


def main() -> None:
    """Print the costs."""
    print(f"{'nanoseconds a byte':<20}{'size':>12}{'whole':>10}{'64 KiB':>10}{'1 byte':>10}{'calls':>10}")
    kinds: list[Callable[[int], tuple[Reply[Any], bytes]]] = [batch, sets, same_values, other_values, large_value]
    for kind in kinds:
        for size in SIZES:
            costs = [nanoseconds_a_byte(*kind(size), piece) for piece in (size + 1000, 1 << 16, 1)]
            calls = nanoseconds_a_byte(_Nothing(), kind(size)[1], 1)
            print(f"{kind.__name__:<20}{size:>12,}" + "".join(f"{cost:>10.1f}" for cost in (*costs, calls)))


if __name__ == "__main__":
    main()
