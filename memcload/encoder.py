"""From a block of lines to one batch for each device type; here in plain Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from memc_client import END_OF_BATCH, Batch, Inquiry, inquire, meta_set, meta_set_flags, split_batch
from memcload.records import DEVICE_TYPES, serialize
from memcload.tally import BlockResult


class EncodedBlock(NamedTuple):
    """A block ready for delivery.

    `batches` are by device type. `result` knows the rejects, partial records and blank lines so far;
    what is stored is for the servers to say.
    """

    batches: dict[str, Batch]
    result: BlockResult


class Encoder(Protocol):
    """Turns blocks into batches. One thread uses one encoder."""

    def encode(self, block: bytes) -> EncodedBlock:
        """Encode a block of whole lines. The batches are valid until the next call."""
        ...

    def inquire(self, batch: Batch) -> Iterator[Inquiry]:
        """Yield the questions whether a server holds the records of a batch."""
        ...


def encode_line(line: bytes, index: int, flags: bytes, result: BlockResult) -> tuple[str, bytes] | None:
    """Let the reference parser decide about one line: return its device type and command, or None.

    A line that is no record is added to the result as number `index` of its block.
    """
    record = result.read(index, line)
    if record is None:
        return None
    return record.dev_type, meta_set(record.key, serialize(record), flags)


class PythonEncoder:
    """The encoder that needs nothing but Python, and shows what every other has to do."""

    def __init__(self, ttl: int, only: Sequence[str] = DEVICE_TYPES) -> None:
        self._flags = meta_set_flags(ttl)
        self._only = only

    def encode(self, block: bytes) -> EncodedBlock:
        """Encode a block of whole lines."""
        lines = block.split(b"\n")[:-1]
        result = BlockResult(len(lines), self._only)
        commands: dict[str, list[bytes]] = {name: [] for name in DEVICE_TYPES}
        for index, line in enumerate(lines):
            encoded = encode_line(line, index, self._flags, result)
            if encoded is not None:
                commands[encoded[0]].append(encoded[1])
        batches = {name: Batch(len(sets), b"".join(sets) + END_OF_BATCH) for name, sets in commands.items()}
        return EncodedBlock(batches, result)

    def inquire(self, batch: Batch) -> Iterator[Inquiry]:
        """Yield the questions whether a server holds the records of a batch."""
        return inquire(split_batch(batch))
