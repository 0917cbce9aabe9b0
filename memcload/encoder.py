"""From a block of lines to one batch for each device type; here in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from memc_client import END_OF_BATCH, Batch, meta_set, meta_set_flags
from memcload.options import ParallelOptions
from memcload.records import (
    DEVICE_TYPES,
    InvalidLine,
    is_blank,
    parse_appsinstalled,
    serialize,
    strip_line_ending,
)
from memcload.tally import BlockResult, Reject


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


class PythonEncoder:
    """The encoder that needs nothing but Python, and shows what every other has to do."""

    def __init__(self, ttl: int) -> None:
        self._flags = meta_set_flags(ttl)

    def encode(self, block: bytes) -> EncodedBlock:
        """Encode a block of whole lines."""
        lines = block.split(b"\n")[:-1]
        result = BlockResult(len(lines))
        commands: dict[str, list[bytes]] = {name: [] for name in DEVICE_TYPES}
        for index, line in enumerate(lines):
            text = strip_line_ending(line)
            if is_blank(text):
                result.tally.blank += 1
                continue
            try:
                record = parse_appsinstalled(text)
            except InvalidLine as error:
                result.reject(Reject(index, error.reason, line))
                continue
            result.tally.partial += bool(record.dropped)
            commands[record.dev_type].append(meta_set(record.key, serialize(record), self._flags))
        batches = {name: Batch(len(sets), b"".join(sets) + END_OF_BATCH) for name, sets in commands.items()}
        return EncodedBlock(batches, result)


def choose_encoder(options: ParallelOptions) -> Callable[[], Encoder]:
    """Return what makes an encoder for a worker."""
    return lambda: PythonEncoder(options.ttl)
