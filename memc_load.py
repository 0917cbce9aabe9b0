#!/usr/bin/env python3
"""The single-threaded loader: one line, one `set`, one reply.

Plain and obviously right, it is the reference for what memc_load_parallel.py has to leave in
memcached. Its values are made by the protobuf library itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from memcload.cancel import end_at_interrupt

if __name__ == "__main__":
    end_at_interrupt()  # before the imports that take a while

from memc_client import MemcacheClient
from memcload import run
from memcload.encode.encoder import EncodedText, LineReader
from memcload.encode.message import prototest, show, to_message
from memcload.file_load import FileLoad, TextResult
from memcload.memcached.batch import Refusal
from memcload.memcached.routing import Partition
from memcload.memcached.server import ServerDown
from memcload.options import NORMAL_ERR_RATE, Options, parse_options
from memcload.records import AppsInstalled, parse_appsinstalled
from memcload.session import EXIT_OK
from memcload.sink import Client, Delivery
from memcload.source.local import dot_rename
from memcload.text import Text

_DESCRIPTION = (__doc__ or "").partition("\n")[0]  # Python leaves docstrings out if it is told so

__all__ = [
    "NORMAL_ERR_RATE",
    "AppsInstalled",
    "dot_rename",
    "insert_appsinstalled",
    "main",
    "parse_appsinstalled",
    "prototest",
]

_READ_SIZE = 1 << 16  # bytes


def insert_appsinstalled(client: Client, record: AppsInstalled) -> Refusal | None:
    """Store one record; return the server's refusal, if any. Raises ServerDown."""
    return client.set(record.key, to_message(record).SerializeToString())


class ReferenceLoader:
    """Loads the files of a run, one record after the other."""

    def __init__(self, given: run.Run) -> None:
        self._run = given
        self._reader = LineReader(given.router)
        self._throttle = given.throttle
        self._down: dict[str, ServerDown] = {}  # servers marked down for the rest of a file

    def load(self) -> None:
        """Load and finalize the files, in order, until the run is cancelled."""
        tracker = self._run.tracker
        for file in tracker.to_read():
            self._down.clear()
            for text in file.texts(_READ_SIZE):
                if text:
                    file.texts_out += 1
                    tracker.add(self._load_text(file, text))
                if self._run.cancel.is_set:
                    return
            file.is_read = True
            tracker.finalize_complete(last=True)

    def _load_text(self, file: FileLoad, text: Text) -> TextResult:
        found = EncodedText(0, [])
        deliveries = []
        shown = []
        for number, line in enumerate(bytes(text).split(b"\n")[:-1]):
            if self._run.cancel.is_set:
                break
            found.lines += 1
            read = self._reader.read(line, number, found)
            if read is None:
                continue
            partition, record = self._run.router.partitions[read[0]], read[1]
            if self._run.options.dry:
                if self._run.options.shows_records:
                    shown.append(show(partition.server, record))
                delivery = Delivery(answered=1)
            else:
                delivery = self._store(partition, record)
            deliveries.append((number, partition, delivery))
        result = TextResult.of(file, found, shown)
        for number, partition, delivery in deliveries:
            result.add(partition, delivery, text, [number])
        return result

    def _store(self, partition: Partition, record: AppsInstalled) -> Delivery:
        server = self._run.fleet.servers[partition.server]
        if partition.server in self._down:
            return Delivery(failed=1, cause=self._down[partition.server])
        if not self._throttle.wait(1):
            return Delivery()
        try:
            refusal = insert_appsinstalled(self._run.fleet.clients[partition.number], record)
        except ServerDown as error:
            self._down[partition.server] = error
            return Delivery(failed=1, cause=error)
        return Delivery(answered=1, refusals=[refusal] if refusal else [], identities={server.identity})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the reference loader; return its exit code."""
    if arguments is None:
        end_at_interrupt()
    options = parse_options(arguments, _DESCRIPTION, Options)
    if options.test:
        prototest()
        return EXIT_OK
    if options.check:
        from memcload.run_check import check

        return check(options, MemcacheClient)
    return run.main(options, lambda given: ReferenceLoader(given).load(), MemcacheClient)


if __name__ == "__main__":
    sys.exit(main())
