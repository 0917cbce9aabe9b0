#!/usr/bin/env python3
"""The single-threaded loader: one line, one `set`, one reply.

Plain and obviously right, it is the reference for what memc_load_parallel.py has to leave in
memcached. Its values are made by the protobuf library itself.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from memc_client import MemcacheClient, Refusal, ServerUnavailable
from memcload import run
from memcload.log import LOG
from memcload.options import NORMAL_ERR_RATE, Options, parse_options
from memcload.prototest import prototest, show, to_message
from memcload.records import AppsInstalled, parse_appsinstalled
from memcload.tally import BlockResult, Reject, Tally
from memcload.throttle import Throttle

__all__ = [
    "NORMAL_ERR_RATE",
    "AppsInstalled",
    "insert_appsinstalled",
    "main",
    "parse_appsinstalled",
    "prototest",
]

_READ_SIZE = 1 << 16  # bytes


def insert_appsinstalled(client: MemcacheClient, record: AppsInstalled) -> Refusal | None:
    """Store one record; return the server's refusal, if any. Raises ServerUnavailable."""
    return client.set(record.key, to_message(record).SerializeToString())


class ReferenceLoader:
    """Loads the files of a run, one record after the other."""

    def __init__(self, task: run.Run) -> None:
        self._run = task
        self._throttle = Throttle(task.options.max_rate, lambda: task.is_stopped)
        self._down: set[str] = set()  # device types whose server was given up, for the rest of a file

    def load(self) -> None:
        """Load and settle the files, in order, until the run is stopped."""
        for path in self._run.paths:
            if self._run.is_stopped:
                return
            self._load_file(path)

    def _load_file(self, path: str) -> None:
        ledger, servers = self._run.ledger, self._run.servers
        file = ledger.begin(path)
        restarts = servers.restarts()
        self._down.clear()
        for block in file.blocks(_READ_SIZE):
            ledger.absorb(file, self._load_block(block))
            if self._run.is_stopped:
                break
        ledger.settle(file, self._run.hindrance or self._doubt(file.tally, restarts))

    def _doubt(self, tally: Tally, restarts: dict[str, int]) -> str | None:
        """Say why the servers may not hold any more what they acknowledged, or None."""
        if self._run.options.dry or tally.failed.total():
            return None
        servers = self._run.servers
        unreachable = servers.confirm(tally.stored)
        return next(iter(unreachable.values()), None) or servers.restarted(tally.stored, restarts)

    def _load_block(self, block: bytes) -> BlockResult:
        lines = block.split(b"\n")[:-1]
        result = BlockResult(len(lines), self._run.options.only)
        for index, line in enumerate(lines):
            if self._run.is_stopped:
                break
            record = result.read(index, line)
            if record is not None:
                self._store(record, index, line, result)
        return result

    def _store(self, record: AppsInstalled, index: int, line: bytes, result: BlockResult) -> None:
        name, tally = record.dev_type, result.tally
        if self._run.options.dry:
            if LOG.isEnabledFor(logging.DEBUG):
                result.shown.append(show(self._run.servers.addresses[name], record))
            tally.stored[name] += 1
            return
        refusal = None
        if name not in self._down:
            if not self._throttle.wait(1):
                return
            try:
                refusal = insert_appsinstalled(self._run.servers.clients[name], record)
            except ServerUnavailable:
                self._down.add(name)
        if name in self._down:
            tally.failed[name] += 1
        elif refusal is None:
            tally.stored[name] += 1
        else:
            result.refuse(name, refusal, Reject(index, "too_large", line))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the reference loader; return its exit code."""
    options = parse_options(arguments, (__doc__ or "").splitlines()[0], Options)
    if options.test:
        prototest()
        return run.EXIT_OK
    return run.main(options, lambda task: ReferenceLoader(task).load())


if __name__ == "__main__":
    sys.exit(main())
