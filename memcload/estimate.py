"""How much the files will bring to each server, estimated from a sample of their lines."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from memcload.cancel import Cancel
from memcload.encode.encoder import PythonEncoder
from memcload.memcached.routing import Router
from memcload.source.source import Source

ROOM = 1.17  # bytes of memcached's memory for a byte of its items: see docs/operations.md
_BESIDE_COMMAND = 46  # bytes of an item beyond those of the command that stores it
_MAX_SAMPLED = 8  # files
_SAMPLE_SIZE = 1 << 18  # bytes of a file, as they lie on disk
_MAX_TEXT = 1 << 23  # bytes of its text, where an archive holds very much
_TEXT_SIZE = 1 << 16


@dataclass
class Need:
    """What servers will get, by address: how many records, and the memory that they take if all keys are new."""

    records: Counter[str] = field(default_factory=Counter)
    memory: Counter[str] = field(default_factory=Counter)

    def __mul__(self, factor: float) -> Need:
        """Return a multiple of it."""
        records, memory = (
            Counter({server: round(count * factor) for server, count in counts.items()})
            for counts in (self.records, self.memory)
        )
        return Need(records, memory)


def estimate(paths: Sequence[str], source: Source, router: Router, cancel: Cancel) -> Need:
    """Return what the files will bring; a few of them are read, each from its beginning."""
    sampled = 0
    need = Need()
    for path in paths[:: -(-len(paths) // _MAX_SAMPLED) or 1]:
        with contextlib.suppress(OSError):
            sampled += _sample(path, source, router, cancel, need)
    return need * (source.size_of(paths) / sampled) if sampled else need


def _sample(path: str, source: Source, router: Router, cancel: Cancel, need: Need) -> int:
    """Add what the beginning of a file brings; return how many bytes of the file that was. Raises OSError."""
    encoder = PythonEncoder(router, 0)
    file = source.open(path)
    read = length = 0
    try:
        for text in file.texts(_TEXT_SIZE):
            if file.bytes_read > read >= _SAMPLE_SIZE:  # only now all text of what had been read is there
                return read
            for partition, batch in zip(router.partitions, encoder.encode([text]).batches, strict=True):
                need.records[partition.server] += batch.count
                size = len(batch.commands) + batch.count * _BESIDE_COMMAND
                need.memory[partition.server] += round(size * ROOM)
            read = file.bytes_read
            length += len(text)
            if length >= _MAX_TEXT or cancel.is_set:
                break
        return file.bytes_read
    finally:
        file.close()
