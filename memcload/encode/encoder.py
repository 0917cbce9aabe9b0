"""From lines to one batch a partition; here in plain Python, which shows what every encoder has to do."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from memcload.counts import Reject, RejectedLines
from memcload.memcached.batch import Batch, Lookup, lookups
from memcload.memcached.protocol import meta_set, meta_set_flags
from memcload.memcached.routing import Router
from memcload.records import (
    DEVICE_TYPES,
    AppsInstalled,
    InvalidLine,
    is_blank,
    parse_appsinstalled,
    serialize,
    strip_line_ending,
)
from memcload.text import Text


@dataclass
class EncodedText:
    """What one text (whole lines of one file) was found to hold.

    lines: how many lines it has
    records: by partition, how many records of the batch come from this text
    """

    lines: int
    records: list[int]
    rejects: RejectedLines = field(default_factory=RejectedLines)
    partial: int = 0
    blank: int = 0
    skipped: int = 0


class Encoded(NamedTuple):
    """Texts ready for delivery: a batch for each partition, and what is known of each text."""

    batches: list[Batch]
    texts: list[EncodedText]


def never() -> bool:
    """Return False: go on to the end."""
    return False


class Encoder(Protocol):
    """Turns texts into batches. One thread uses one encoder."""

    def encode(self, texts: Sequence[Text], stops: Callable[[], bool] = never) -> Encoded:
        """Encode texts; a batch has the records of all texts in order.

        Once `stops()` is true it returns soon, whatever is left, and the caller has to throw away what it gets.
        """
        ...

    def lookups(self, batch: Batch) -> Iterator[Lookup]:
        """Yield the lookups that tell whether a server holds the records of a batch."""
        ...


class LineReader:
    """Decides about single lines for every encoder: the reference parser, and which partition a record belongs to."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def read(self, line: bytes, number: int, text: EncodedText) -> tuple[int, AppsInstalled] | None:
        r"""Return the partition and the record of a line; count in `text` why there is none.

        line: without its `\n`; number: counts the lines of the text from 0
        """
        stripped = strip_line_ending(line)
        if is_blank(stripped):
            text.blank += 1
            return None
        try:
            record = parse_appsinstalled(stripped)
        except InvalidLine as error:
            if self._is_of_another_type(stripped):
                text.skipped += 1
            else:
                text.rejects.append(Reject(number, error.reason, line))
            return None
        partition = self._router.partition_of(record.dev_type, record.key)
        if partition is None:
            text.skipped += 1
            return None
        text.partial += bool(record.dropped)
        return partition, record

    def _is_of_another_type(self, line: bytes) -> bool:
        """Return True for a line that is recognizably of a device type that is not to be loaded."""
        device_type = line.partition(b"\t")[0]
        return any(device_type == name.encode() and not self._router.loads(name) for name in DEVICE_TYPES)


class PythonEncoder:
    """The encoder that needs nothing but Python."""

    def __init__(self, router: Router, ttl: int) -> None:
        self._reader = LineReader(router)
        self._partitions = len(router.partitions)
        self._flags = meta_set_flags(ttl)

    def encode(self, texts: Sequence[Text], stops: Callable[[], bool] = never) -> Encoded:
        """Encode texts, unless that has to stop."""
        commands: list[list[bytes]] = [[] for _ in range(self._partitions)]
        ends = [array("i") for _ in range(self._partitions)]
        lines = [array("i") for _ in range(self._partitions)]
        sizes = [0] * self._partitions
        encoded = []
        for text in texts:
            split = bytes(text).split(b"\n")
            split.pop()
            found = EncodedText(len(split), [0] * self._partitions)
            for number, line in enumerate(split):
                if stops():
                    break
                record = self._reader.read(line, number, found)
                if record is None:
                    continue
                partition, apps_installed = record
                command = meta_set(apps_installed.key, serialize(apps_installed), self._flags)
                commands[partition].append(command)
                sizes[partition] += len(command)
                ends[partition].append(sizes[partition])
                lines[partition].append(number)
                found.records[partition] += 1
            encoded.append(found)
        batches = [Batch(len(c), b"".join(c), e, n) for c, e, n in zip(commands, ends, lines, strict=True)]
        return Encoded(batches, encoded)

    def lookups(self, batch: Batch) -> Iterator[Lookup]:
        """Yield the lookups that tell whether a server holds the records of a batch."""
        return lookups(batch.records())
