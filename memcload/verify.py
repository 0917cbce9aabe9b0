"""Compares log files with what the servers hold. Nothing is written, to the servers or beside the files."""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from memcload.cancel import Cancel
from memcload.encode.encoder import Encoder
from memcload.file_load import FileLoad, TextResult
from memcload.log import LOG
from memcload.memcached.batch import Batch, Difference, Lookup, lookups
from memcload.memcached.routing import Partition
from memcload.memcached.server import ServerDown
from memcload.pipeline import Pipeline, blocks_of
from memcload.sink import Delivery, Fleet
from memcload.source.local import LocalSource

_SHOWN_OF_A_KIND = 3
_CRC_RANGE = 1 << 32


@dataclass
class Findings:
    """What is known of the records of one partition.

    differing: keys whose last record differs from what is held, and the file that it was last read in
    too_large: records that are missing because no server of this limit takes them
    """

    checked: int = 0
    missing: int = 0
    mismatches: int = 0
    too_large: int = 0
    unanswered: int = 0
    differing: dict[bytes, int] = field(default_factory=dict)

    @property
    def superseded(self) -> int:
        """Records that differ from what is held because a later record of the key took their place."""
        return self.mismatches - len(self.differing)

    @property
    def present(self) -> int:
        """Records that the server holds."""
        return self.checked - self.missing - self.mismatches - self.too_large - self.unanswered


class ComparingSink:
    """Looks up the records of each partition, in order, instead of storing them.

    Args:
        paths: of the files, by number.
        sample: what fraction of the keys to look up.
    """

    def __init__(
        self,
        fleet: Fleet,
        partitions: Sequence[Partition],
        new_encoder: Callable[[], Encoder],
        paths: Sequence[str],
        sample: float,
    ) -> None:
        self.findings = [Findings() for _ in partitions]
        self._partitions = partitions
        self._fleet = fleet
        self._paths = paths
        self._limit = sample * _CRC_RANGE if sample < 1 else None
        self._encoders = [new_encoder() for _ in partitions]
        self._lock = threading.Lock()
        self._warnings: Counter[str] = Counter()

    def store(self, partition: Partition, batches: Sequence[Batch], files: Sequence[int]) -> Delivery:
        """Compare neighbouring batches with what the server of their partition holds."""
        for batch, file in zip(batches, files, strict=True):
            for lookup in self._lookups(partition, batch):
                self._compare(partition, lookup, file)
        return Delivery(answered=sum(batch.count for batch in batches))

    def _lookups(self, partition: Partition, batch: Batch) -> Iterator[Lookup]:
        limit = self._limit
        if limit is None:
            return self._encoders[partition.number].lookups(batch)
        return lookups(record for record in batch.records() if zlib.crc32(record[0]) < limit)

    def _compare(self, partition: Partition, lookup: Lookup, file: int) -> None:
        found = self.findings[partition.number]
        found.checked += lookup.count
        differences: list[Difference] | None = None
        if self._fleet.servers[partition.server].state != "down":
            with contextlib.suppress(ServerDown):  # which its server has logged
                differences = self._fleet.clients[partition.number].lookup(lookup)
        if differences is None:
            found.unanswered += lookup.count
        elif differences or found.differing:
            self._note(partition, lookup, {d.position: d.kind for d in differences}, file)

    def _note(self, partition: Partition, lookup: Lookup, kinds: dict[int, str], file: int) -> None:
        found = self.findings[partition.number]
        for position, key in enumerate(lookup.keys()):
            kind = kinds.get(position)
            if kind == "missing":
                found.missing += 1
                self._warn(f"missing from {partition.server}", f"missing: {key.decode()} of {self._paths[file]}")
            elif kind == "different":
                found.mismatches += 1
                found.differing[key] = file
            else:
                found.differing.pop(key, None)

    def _warn(self, kind: str, message: str) -> None:
        with self._lock:
            self._warnings[kind] += 1
            if self._warnings[kind] <= _SHOWN_OF_A_KIND:
                LOG.warning("%s", message)

    def warn_of_the_rest(self) -> None:
        """Log the keys whose last record differs, and how many warnings of each kind were not shown."""
        for partition, found in zip(self._partitions, self.findings, strict=True):
            for key, file in found.differing.items():
                self._warn(f"different in {partition.server}", f"different: {key.decode()} of {self._paths[file]}")
        for kind, count in self._warnings.items():
            if count > _SHOWN_OF_A_KIND:
                LOG.warning("… and %d more: %s", count - _SHOWN_OF_A_KIND, kind)


class Verifier:
    """Reads files in the order in which they were loaded, and judges each key by its last record.

    is_readable: every file could be read to its end
    """

    def __init__(
        self,
        paths: Sequence[str],
        source: LocalSource,
        partitions: Sequence[Partition],
        sink: ComparingSink,
        cancel: Cancel,
    ) -> None:
        self._paths = paths
        self._source = source
        self._partitions = partitions
        self._sink = sink
        self._cancel = cancel
        self._started = time.monotonic()
        self.is_readable = True

    @property
    def is_clean(self) -> bool:
        """True if all was read, and all that was read is present or superseded."""
        return self.is_readable and not any(
            found.missing or found.differing or found.unanswered for found in self._sink.findings
        )

    def verify(self, pipeline: Pipeline, block_size: int) -> None:
        """Compare all files, in order, until the run is cancelled."""
        with pipeline:
            for block in blocks_of(self._files(), block_size, mixed=False):
                if block:
                    pipeline.put(block)
                _exhaust(pipeline.finished())
                if self._cancel.is_set:
                    break
            _exhaust(pipeline.drain())

    def _files(self) -> Iterator[FileLoad]:
        for number, path in enumerate(self._paths):
            LOG.info("Verifying %s", path)
            file = FileLoad(path, number)
            try:
                file.input = self._source.open(path)
            except OSError as error:
                file.read_error = error.strerror or str(error)
            yield file
            if file.read_error:
                LOG.error("%s: %s", path, file.read_error)
                self.is_readable = False
            elif file.input and file.input.damage:
                LOG.error("%s is %s: %s", path, file.input.damage.kind, file.input.damage.description)
                self.is_readable = False

    def report(self) -> None:
        """Log what was found."""
        seconds = time.monotonic() - self._started
        self._sink.warn_of_the_rest()
        checked = 0
        for partition, found in zip(self._partitions, self._sink.findings, strict=True):
            checked += found.checked
            LOG.info(
                "%s %s: %d checked: %d present, %d superseded by later ones, %d too large, %d missing, %d different, "
                "%d unanswered",
                partition.device_type,
                partition.server,
                found.checked,
                found.present,
                found.superseded,
                found.too_large,
                found.missing,
                len(found.differing),
                found.unanswered,
            )
        LOG.info("%d records verified in %.1f s, %.0f/s", checked, seconds, checked / max(seconds, 0.001))


def _exhaust(results: Iterator[TextResult]) -> None:
    for _ in results:
        pass
