"""Compares log files with what the servers hold. Nothing is written, to the servers or beside the files."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from memcload.cancel import Cancel
from memcload.encode.encoder import Encoder
from memcload.file_load import FileLoad, TextResult
from memcload.log import LOG
from memcload.memcached.batch import Batch, Lookup, lookups
from memcload.memcached.item_size import CAS_SIZE, SMALLEST_LIMIT, item_size, largest_item
from memcload.memcached.routing import Partition
from memcload.memcached.server import ServerDown
from memcload.output.verification import Found, VerifiedFile
from memcload.pipeline import Pipeline, blocks_of
from memcload.sink import Delivery, Fleet
from memcload.source.source import Source

_Kind = Literal["missing", "different", "too_large"]

_SHOWN_OF_A_KIND = 3
_CRC_RANGE = 1 << 32
_MAX_MISSING = 100_000  # keys that are remembered; when more are missing, something is wrong anyway


@dataclass
class Known:
    """What is known of the records of one partition.

    A record that is too large was rejected when it was loaded, and the server dropped what it had held under the key:
    that was superseded, and is not missing.

    differing: keys whose last record differs from what is held, and the file that it was last read in
    missing: keys of which nothing is held, the file that they were last read in, and how many records that were
    """

    found: Found = field(default_factory=Found)
    differing: dict[bytes, int] = field(default_factory=dict)
    missing: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    @property
    def is_as_it_should_be(self) -> bool:
        """True as long as nothing is remembered that later records could change."""
        return not self.differing and not self.missing

    def add_missing(self, key: bytes, file: int) -> None:
        """Add a record of whose key nothing is held."""
        self.found.missing += 1
        if key in self.missing or len(self.missing) < _MAX_MISSING:
            self.missing[key] = file, self.missing.get(key, (0, 0))[1] + 1

    def add_too_large(self, key: bytes) -> None:
        """Add such a record that the server would not take."""
        self.found.too_large += 1
        count = self.missing.pop(key, (0, 0))[1]
        self.found.missing -= count
        self.found.superseded += count

    def add_different(self, key: bytes, file: int) -> None:
        """Add a record under whose key something else is held."""
        if key in self.differing:
            self.found.superseded += 1
        else:
            self.found.different += 1
        self.differing[key] = file

    def add_present(self, key: bytes) -> None:
        """Add a record that is held."""
        self.found.present += 1
        if self.differing.pop(key, None) is not None:
            self.found.different -= 1
            self.found.superseded += 1


class ComparingSink:
    """Looks up the records of each partition, in order, instead of storing them.

    Args:
        paths: of the files, by number.
        sample: what fraction of the keys to look up.

    known: by partition number
    """

    def __init__(
        self,
        fleet: Fleet,
        partitions: Sequence[Partition],
        new_encoder: Callable[[], Encoder],
        paths: Sequence[str],
        sample: float,
    ) -> None:
        self._partitions = partitions
        self._fleet = fleet
        self._paths = paths
        self._limit = sample * _CRC_RANGE if sample < 1 else None
        self._encoders = [new_encoder() for _ in partitions]
        self.known = [Known() for _ in partitions]
        self._limits: dict[str, int | None] = {}  # of an item's size, by server

    @property
    def found(self) -> list[Found]:
        """What was found so far, by partition number."""
        return [known.found for known in self.known]

    def store(self, partition: Partition, batches: Sequence[Batch], files: Sequence[int]) -> list[Delivery]:
        """Compare neighbouring batches with what the server of their partition holds."""
        for batch, file in zip(batches, files, strict=True):
            for lookup in self._lookups(partition, batch):
                self._compare(partition, lookup, file)
        return [Delivery(answered=batch.count) for batch in batches]

    def _lookups(self, partition: Partition, batch: Batch) -> Iterator[Lookup]:
        limit = self._limit
        if limit is None:
            return self._encoders[partition.number].lookups(batch)
        return lookups(record for record in batch.records() if zlib.crc32(record[0]) < limit)

    def _compare(self, partition: Partition, lookup: Lookup, file: int) -> None:
        known = self.known[partition.number]
        kinds = self._differences(partition, lookup)
        if kinds is None:
            known.found.unanswered += lookup.count
            return
        if not kinds and known.is_as_it_should_be:
            known.found.present += lookup.count
            return
        for position, key in enumerate(lookup.keys()):
            kind = kinds.get(position)
            if kind is None:
                known.add_present(key)
            elif kind == "different":
                known.add_different(key, file)
            elif kind == "too_large":
                known.add_too_large(key)
            else:
                known.add_missing(key, file)

    def _differences(self, partition: Partition, lookup: Lookup) -> dict[int, _Kind] | None:
        """Return what is not held as it should be, by position; None if the server does not answer."""
        if self._fleet.servers[partition.server].state == "down":
            return None
        try:
            kinds: dict[int, _Kind] = dict(self._fleet.clients[partition.number].lookup(lookup))
            missing = [position for position, kind in kinds.items() if kind == "missing"]
            for position in self._too_large(partition, lookup, missing):
                kinds[position] = "too_large"
        except ServerDown:  # which its server has logged
            return None
        return kinds

    def _too_large(self, partition: Partition, lookup: Lookup, positions: Sequence[int]) -> list[int]:
        """Return those of these positions whose records the server would not take. Raises ServerDown."""
        if not positions:
            return []
        lengths, keys = lookup.value_lengths(), lookup.keys()
        sizes = {position: item_size(len(keys[position]), lengths[position]) for position in positions}
        if max(sizes.values()) + CAS_SIZE <= SMALLEST_LIMIT:
            return []
        limit = self._limit_of(partition)
        return [position for position, size in sizes.items() if limit is not None and size > limit]

    def _limit_of(self, partition: Partition) -> int | None:
        """Return the largest size of an item, without its CAS; None if the server does not tell. Raises ServerDown."""
        if partition.server not in self._limits:
            self._limits[partition.server] = largest_item(self._fleet.clients[partition.number].settings())
        return self._limits[partition.server]

    def warn(self) -> None:
        """Log the first few keys that are missing or differ, and how many more records do."""
        by_type: dict[str, list[Known]] = {}
        for partition, known in zip(self._partitions, self.known, strict=True):
            by_type.setdefault(partition.device_type, []).append(known)
        for device_type, all_known in by_type.items():
            missing = [(key, *what) for known in all_known for key, what in known.missing.items()]
            different = [(key, file, 1) for known in all_known for key, file in known.differing.items()]
            total = sum(known.found.missing for known in all_known)
            self._warn("missing", f"missing from {device_type}", missing, total)
            self._warn("different", f"different in {device_type}", different, len(different))

    def _warn(self, kind: str, kind_and_place: str, named: Sequence[tuple[bytes, int, int]], total: int) -> None:
        """Log keys with their files and how many records each stands for, of `total` records."""
        for key, file, count in named[:_SHOWN_OF_A_KIND]:
            LOG.warning("%s: %s of %s", kind, key.decode(), self._paths[file])
            total -= count
        if total:
            LOG.warning("… and %d more %s", total, kind_and_place)


class Verifier:
    """Reads files in the order in which they were loaded, and judges each key by its last record.

    records_seen, rejects_seen: of what was compared so far
    current: the file that is being read
    """

    def __init__(self, paths: Sequence[str], source: Source, sink: ComparingSink, cancel: Cancel) -> None:
        self.files = [VerifiedFile(path) for path in paths]
        self.records_seen = 0
        self.rejects_seen = 0
        self._source = source
        self._sink = sink
        self._cancel = cancel
        self._bytes_before = 0  # of the files that were read
        self.current: FileLoad | None = None

    @property
    def is_clean(self) -> bool:
        """True if all was read, and all that was read is present or superseded."""
        return all(file.status == "readable" for file in self.files) and not any(
            found.missing or found.different or found.unanswered for found in self._sink.found
        )

    @functools.cached_property
    def bytes_to_read(self) -> int:
        """How large the files were together when this was first asked."""
        return self._source.size_of([file.path for file in self.files])

    @property
    def bytes_read(self) -> int:
        """How many bytes of all files, as they lie on disk, have been read so far."""
        current = self.current
        return self._bytes_before + (current.input.bytes_read if current and current.input else 0)

    def verify(self, pipeline: Pipeline, block_size: int) -> None:
        """Compare all files, in order, until the run is cancelled."""
        with pipeline:
            for block in blocks_of(self._read(), block_size, mixed=False):
                if block:
                    pipeline.put(block)
                self._count(pipeline.finished())
                if self._cancel.is_set:
                    break
            self._count(pipeline.drain())

    def _read(self) -> Iterator[FileLoad]:
        for file in self.opened():
            self.current = file
            yield file
            if self.files[file.number].status == "unread":
                self.finish(file)

    def opened(self) -> Iterator[FileLoad]:
        """Open the files, in order, and yield them; of one that can't be opened there is nothing to read."""
        for number, verified in enumerate(self.files):
            LOG.info("Verifying %s", verified.path)
            file = FileLoad(verified.path, number)
            try:
                file.input = self._source.open(verified.path)
            except OSError as error:
                file.read_error = error.strerror or str(error)
                self.finish(file)
            yield file

    def finish(self, file: FileLoad) -> None:
        """Note how the reading of a file ended."""
        verified = self.files[file.number]
        damage = file.input.damage if file.input else None
        if file.read_error:
            verified.status, verified.detail = "error", file.read_error
            LOG.error("%s: %s", file.path, file.read_error)
        elif damage:
            verified.status, verified.detail = "damaged", f"{damage.kind}: {damage.description}"
            LOG.error("%s is %s: %s", file.path, damage.kind, damage.description)
        else:
            verified.status = "readable"
        self._bytes_before, self.current = self.bytes_read, None

    def _count(self, results: Iterable[TextResult]) -> None:
        for result in results:
            self.records_seen += result.counts.records
            self.rejects_seen += result.counts.total_rejected
