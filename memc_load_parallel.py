#!/usr/bin/env python3
"""The parallel loader: logs of installed apps into memcached, fast and in order.

The main thread reads the files and cuts them into blocks of whole lines, which go into a bounded queue.
Worker threads encode the blocks and deliver them through ordered lanes, one for each device type. What
became of each block comes back to the main thread, which alone keeps the accounts and renames files.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from memcload import run
from memcload.encoder import Encoder
from memcload.engine import choose_encoder
from memcload.lanes import Delivery, Lanes
from memcload.ledger import FileLoad
from memcload.log import LOG
from memcload.options import NORMAL_ERR_RATE, ParallelOptions, parse_options
from memcload.pool import Block, WorkerPool
from memcload.prototest import prototest, show_records
from memcload.records import DEVICE_TYPES, AppsInstalled, parse_appsinstalled, records_of
from memcload.tally import BlockResult, Reject
from memcload.throttle import Throttle

__all__ = ["NORMAL_ERR_RATE", "AppsInstalled", "main", "parse_appsinstalled", "prototest"]

_CONFIRM_INTERVAL = 0.1  # seconds; files that are done within it are confirmed and renamed together


class BlockTask:
    """What a worker does with a block: encode it, deliver it, account for it."""

    def __init__(self, options: ParallelOptions, encoder: Encoder, lanes: Lanes) -> None:
        self._options = options
        self._encoder = encoder
        self._lanes = lanes
        self._addresses = {name: options.addresses[name] for name in options.only}
        self._shows_records = options.dry and LOG.isEnabledFor(logging.DEBUG)

    def __call__(self, block: Block[_OpenFile]) -> BlockResult:
        """Return what became of the block."""
        batches, result = self._encoder.encode(block.lines)
        for name in DEVICE_TYPES:
            if name not in self._options.only:
                result.tally.skipped += batches.pop(name).count
        if self._options.dry:
            result.tally.stored.update({name: batch.count for name, batch in batches.items()})
            if self._shows_records:
                result.shown = show_records(block.lines, self._addresses)
            return result
        for name, delivery in self._lanes.deliver(block.number, block.tag.number, batches).items():
            _account(result, block.lines, name, delivery)
        return result


def _account(result: BlockResult, lines: bytes, name: str, delivery: Delivery) -> None:
    """Add what became of the batch of a device type to the result of its block of lines."""
    result.tally.stored[name] += delivery.acknowledged - len(delivery.refusals)
    result.tally.failed[name] += delivery.failed
    if delivery.refusals:
        records = list(records_of(lines, name))
        for refusal in delivery.refusals:
            index, line = records[refusal.position]
            result.refuse(name, refusal, Reject(index, "too_large", line))


@dataclass(eq=False)
class _OpenFile:
    """A file that is not settled yet."""

    number: int
    file: FileLoad
    restarts: dict[str, int]  # of the servers, before its first record was sent
    blocks_out: int = 0  # that were submitted and are not absorbed
    is_read: bool = False

    @property
    def is_complete(self) -> bool:
        return self.is_read and not self.blocks_out


class ParallelLoader:
    """Loads the files of a run: reads ahead of the servers, settles file by file in order."""

    def __init__(self, task: run.Run, options: ParallelOptions) -> None:
        self._run = task
        self._options = options
        self._lanes = Lanes(task.servers.clients, Throttle(options.max_rate, lambda: task.is_stopped))
        new_encoder = choose_encoder(options)
        self._pool: WorkerPool[_OpenFile, BlockResult] = WorkerPool(
            options.workers,
            options.queue_size,
            lambda: BlockTask(options, new_encoder(), self._lanes),
            on_failure=self._lanes.shut,
        )
        self._waiting = deque(task.paths)
        self._open: deque[_OpenFile] = deque()  # in the order of their names
        self._attempts: Counter[str] = Counter()  # how often the load of a path was begun
        self._files_begun = 0
        self._last_confirmed = 0.0

    def load(self) -> None:
        """Load and settle the files, in order, until the run is stopped."""
        with self._pool:
            while (self._waiting or self._open) and not self._run.is_stopped:
                if self._waiting:
                    self._read(self._waiting.popleft())
                else:
                    self._drain()
                    self._settle_complete(is_last=True)
            self._drain()
        while self._open:
            self._run.ledger.settle(self._open.popleft().file, self._run.hindrance)

    def _read(self, path: str) -> None:
        """Read one file into the queue. Between its blocks, settle the files before it."""
        opened = _OpenFile(self._files_begun, self._run.ledger.begin(path), self._run.servers.restarts())
        self._files_begun += 1
        self._attempts[path] += 1
        self._open.append(opened)
        for lines in opened.file.blocks(self._options.block_size):
            self._submit(opened, lines)
            self._settle_complete()
            if opened not in self._open or self._run.is_stopped:
                return
        opened.is_read = True

    def _submit(self, opened: _OpenFile, lines: bytes) -> None:
        while self._pool.is_full:
            self._absorb_next()
        opened.blocks_out += 1
        self._pool.submit(opened, lines)

    def _absorb_next(self) -> None:
        opened, result = self._pool.take()
        opened.blocks_out -= 1
        self._run.ledger.absorb(opened.file, result)

    def _drain(self) -> None:
        while not self._pool.is_empty:
            self._absorb_next()

    def _settle_complete(self, *, is_last: bool = False) -> None:
        """Settle the files that are complete and have no incomplete one before them.

        Where a server has lost records of one of them, this file and all that were begun after it are
        taken back, to be loaded anew.
        """
        complete = list(itertools.takewhile(lambda opened: opened.is_complete, self._open))
        if not complete:
            return
        unreachable: dict[str, str] = {}
        if not self._options.dry:
            if not is_last and time.monotonic() - self._last_confirmed < _CONFIRM_INTERVAL:
                return
            doubtful = [opened.file.tally.stored for opened in complete if not opened.file.tally.failed.total()]
            unreachable = self._run.servers.confirm(set().union(*doubtful))
            self._last_confirmed = time.monotonic()
        for opened in complete:
            tally = opened.file.tally
            lost = self._run.servers.restarted(tally.stored, opened.restarts)
            hindrance = next((unreachable[name] for name in tally.stored if name in unreachable), None)
            if lost and not hindrance and not tally.failed.total():
                if self._attempts[opened.file.path] <= self._options.retries:
                    LOG.warning("%s: %s; loading it again", opened.file.path, lost)
                    self._take_back()
                    return
                hindrance = lost
            self._open.popleft()
            self._run.ledger.settle(opened.file, hindrance or self._run.hindrance)

    def _take_back(self) -> None:
        self._drain()
        while self._open:
            opened = self._open.pop()
            self._run.ledger.forget(opened.file)
            self._waiting.appendleft(opened.file.path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parallel loader; return its exit code."""
    options = parse_options(arguments, (__doc__ or "").splitlines()[0], ParallelOptions)
    if options.test:
        prototest()
        return run.EXIT_OK
    if options.verify:
        return run.verify(options)
    return run.main(options, lambda task: ParallelLoader(task, options).load())


if __name__ == "__main__":
    sys.exit(main())
