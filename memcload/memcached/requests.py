"""From batches to what is sent: buffers that stay as they are, or classic sets where a server needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memcload.memcached.batch import Batch
from memcload.memcached.protocol import END_OF_BATCH, classic_set
from memcload.memcached.transport import TLS_SEND_SIZE, Buffer

_CLASSIC_SEND_SIZE = 1 << 16  # bytes of classic sets that are made at once


def meta_sets(batches: Sequence[Batch], is_tls: bool) -> list[Buffer]:
    """Return the commands of batches, closed by the one that asks for the reply.

    Over TLS a buffer holds one large command, or small ones that fit one send.
    """
    if is_tls:
        batches = [part for batch in batches for part in batch.slices(max_bytes=TLS_SEND_SIZE)]
    return [*[batch.commands for batch in batches], END_OF_BATCH]


def classic_sets(batches: Sequence[Batch], expires: int, is_tls: bool) -> Iterator[Buffer]:
    """Yield the records of batches as classic sets, which are answered one by one."""
    limit = TLS_SEND_SIZE if is_tls else _CLASSIC_SEND_SIZE
    commands: list[bytes] = []
    size = 0
    for batch in batches:
        for key, value in batch.records():
            command = classic_set(key, value, expires)
            if commands and size + len(command) > limit:
                yield b"".join(commands)
                commands, size = [], 0
            commands.append(command)
            size += len(command)
    if commands:
        yield b"".join(commands)
