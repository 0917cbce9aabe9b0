"""Compares log files with what the servers hold. Nothing is written, to the servers or beside the files."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from memc_client import Batch, Difference, Inquiry, ServerUnavailable, inquire, split_batch
from memcload.blocks import LogFile
from memcload.encoder import Encoder
from memcload.engine import choose_encoder
from memcload.log import LOG, Complaints
from memcload.options import ParallelOptions
from memcload.pool import Block, WorkerPool
from memcload.servers import Servers

_CRC_RANGE = 1 << 32
_MOST_KEPT = 100_000  # keys whose records are missing; when there are more, something is wrong anyway


class _Compared(NamedTuple):
    """Some records of one device type; `differences` is None where the server did not answer."""

    name: str
    inquiry: Inquiry
    differences: list[Difference] | None


@dataclass
class _Findings:
    """What is known of the records of one device type. `differing` are keys whose last record differs.

    A record that is too large was rejected when it was loaded, and the server then dropped what it had held
    under the key: earlier records of it are superseded, and not missing.
    """

    checked: int = 0
    missing: int = 0
    too_large: int = 0
    dropped: int = 0
    mismatches: int = 0
    unanswered: int = 0
    differing: dict[bytes, str] = field(default_factory=dict)  # key → the file that it was last read in
    missing_keys: dict[bytes, tuple[str, int]] = field(default_factory=dict)  # key → that file, and how many records

    @property
    def superseded(self) -> int:
        """Records that differ from what is held, because a later record of the key took its place."""
        return self.mismatches - len(self.differing) + self.dropped

    @property
    def present(self) -> int:
        """Records that the server holds."""
        lacking = self.missing + self.too_large + self.dropped + self.mismatches
        return self.checked - lacking - self.unanswered

    def add(self, key: bytes, kind: str | None, path: str) -> None:
        """Account for the next record that was read, of this key; `kind` is None where the server holds it."""
        if kind == "missing":
            self.missing += 1
            if key in self.missing_keys or len(self.missing_keys) < _MOST_KEPT:
                self.missing_keys[key] = path, self.missing_keys.get(key, ("", 0))[1] + 1
        elif kind == "too_large":
            self.too_large += 1
            _, superseded = self.missing_keys.pop(key, ("", 0))
            self.missing -= superseded
            self.dropped += superseded
        elif kind == "different":
            self.mismatches += 1
            self.differing[key] = path
        else:
            self.differing.pop(key, None)


class Verifier:
    """Reads files in the order in which they were loaded, and judges each key by its last record.

    `is_clean` tells whether everything that was read is held by the servers.
    """

    def __init__(self, options: ParallelOptions, servers: Servers) -> None:
        self._options = options
        self._servers = servers
        self._findings = {name: _Findings() for name in options.only}
        self._turns = {name: threading.Lock() for name in options.only}
        self._complaints = Complaints()
        self._is_readable = True

    def verify(self, paths: list[str], is_stopped: Callable[[], bool]) -> None:
        """Compare all files, in order, until `is_stopped` says so; log what was found."""
        started = time.monotonic()
        new_encoder = choose_encoder(self._options)
        pool: WorkerPool[str, list[_Compared]] = WorkerPool(
            self._options.workers, self._options.queue_size, lambda: self._new_task(new_encoder())
        )
        with pool:
            for path in paths:
                self._read(path, pool, is_stopped)
            while not pool.is_empty:
                self._absorb(*pool.take())
        self._report(time.monotonic() - started)

    @property
    def is_clean(self) -> bool:
        """Tell whether all was read, and all that was read is present or superseded."""
        return self._is_readable and not any(
            found.missing or found.differing or found.unanswered for found in self._findings.values()
        )

    def _read(self, path: str, pool: WorkerPool[str, list[_Compared]], is_stopped: Callable[[], bool]) -> None:
        if is_stopped():
            return
        LOG.info("Verifying %s", path)
        try:
            with LogFile(path) as log:
                for lines in log.blocks(self._options.block_size):
                    while pool.is_full:
                        self._absorb(*pool.take())
                    pool.submit(path, lines)
                    if is_stopped():
                        return
        except OSError as error:
            LOG.error("%s: %s", path, error.strerror or error)
            self._is_readable = False
        else:
            if log.damage:
                LOG.error("%s is %s: %s", path, log.damage, log.description)
                self._is_readable = False

    def _new_task(self, encoder: Encoder) -> Callable[[Block[str]], list[_Compared]]:
        def compare(block: Block[str]) -> list[_Compared]:
            batches = encoder.encode(block.lines).batches
            return [
                _Compared(name, inquiry, self._ask(name, inquiry))
                for name in self._findings
                for inquiry in self._inquiries(encoder, batches[name])
            ]

        return compare

    def _inquiries(self, encoder: Encoder, batch: Batch) -> Iterator[Inquiry]:
        if self._options.sample == 1:
            return encoder.inquire(batch)
        limit = self._options.sample * _CRC_RANGE
        return inquire(record for record in split_batch(batch) if zlib.crc32(record[0]) < limit)

    def _ask(self, name: str, inquiry: Inquiry) -> list[Difference] | None:
        client = self._servers.clients[name]
        with self._turns[name]:  # so that who waited for a server that was given up does not try it once more
            if client.state == "down":
                return None
            try:
                return client.compare(inquiry)
            except ServerUnavailable:
                return None

    def _absorb(self, path: str, block: list[_Compared]) -> None:
        for name, inquiry, differences in block:
            found = self._findings[name]
            found.checked += inquiry.count
            if differences is None:
                found.unanswered += inquiry.count
                continue
            if not differences and not found.differing:
                continue
            kinds = {difference.position: difference.kind for difference in differences}
            for position, key in enumerate(inquiry.asked_keys()):
                found.add(key, kinds.get(position), path)

    def _report(self, seconds: float) -> None:
        for name, found in self._findings.items():
            for key, (path, _) in found.missing_keys.items():
                self._complaints.add(f"missing from {name}", f"missing: {key.decode()} of {path}")
            for key, path in found.differing.items():
                self._complaints.add(f"different in {name}", f"different: {key.decode()} of {path}")
        self._complaints.summarize()
        for name, found in self._findings.items():
            LOG.info(
                "%s %s: %d checked: %d present, %d superseded by later ones, %d missing, %d different, %d too large, "
                "%d unanswered",
                name,
                self._servers.addresses[name],
                found.checked,
                found.present,
                found.superseded,
                found.missing,
                len(found.differing),
                found.too_large,
                found.unanswered,
            )
        checked = sum(found.checked for found in self._findings.values())
        LOG.info("%d records verified in %.1f s, %.0f/s", checked, seconds, checked / max(seconds, 0.001))
