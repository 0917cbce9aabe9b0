"""One run of a loader, from its options to its exit code; what both loaders have in common."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from memcload.cancel import Cancel
from memcload.encode.choice import EngineError, choose_encoder
from memcload.encode.message import show_records
from memcload.log import LOG, log_failures, start_logging
from memcload.memcached.routing import Router
from memcload.memcached.server import Server
from memcload.memcached.tls import Credentials, make_tls_context, read_credentials
from memcload.options import Options, ParallelOptions
from memcload.output.progress import show_progress
from memcload.output.report import write_report
from memcload.output.results import Results
from memcload.output.summary import summarize
from memcload.pipeline import Pipeline, blocks_of
from memcload.records import DEVICE_TYPES
from memcload.sink import Client, Fleet, MemcachedSink, NoSink, Sink
from memcload.source.local import DirectoryHeld, LocalSource, PatternError
from memcload.throttle import Throttle
from memcload.tracker import Rules, Tracker
from memcload.verify import Verifier

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_HELD = 75  # EX_TEMPFAIL of sysexits.h


class UsageError(Exception):
    """The options can't be followed; the message says why."""


class NewClient(Protocol):
    """What makes a client of a server: memc_client.MemcacheClient."""

    def __call__(
        self,
        server: Server,
        *,
        timeout: float,
        connect_timeout: float,
        retries: int,
        ttl: int,
        cancel: Cancel,
        tls: object,
        credentials: Credentials | None,
    ) -> Client:
        """Make a client; it connects on first use."""
        ...


@dataclass(frozen=True)
class Run:
    """What a loader is given."""

    options: Options
    router: Router
    fleet: Fleet
    tracker: Tracker
    cancel: Cancel

    def throttle(self) -> Throttle:
        """Return the limit on the records a second that was asked for."""
        return Throttle(self.options.max_rate, self.cancel)


def load_in_parallel(run: Run) -> None:
    """Load and finalize the files of a run with the pipeline, in order, until the run is cancelled."""
    options, tracker = run.options, run.tracker
    assert isinstance(options, ParallelOptions)
    sink: Sink = NoSink() if options.dry else MemcachedSink(run.fleet, run.throttle())
    shows = options.dry and LOG.isEnabledFor(logging.DEBUG)
    pipeline = Pipeline(
        run.router.partitions,
        sink,
        choose_encoder(options.engine, run.router, options.ttl, tracker.bytes_to_read),
        encode_threads=options.workers,
        slots=options.workers + options.queue_size,
        cancel=run.cancel,
        show=(lambda lines: show_records(lines, run.router)) if shows else None,
    )
    with pipeline:
        while not tracker.is_finished and not run.cancel.is_set:
            for block in blocks_of(tracker.to_read(), options.block_size):
                if block:
                    pipeline.put(block)
                tracker.add_all(pipeline.finished())
                tracker.finalize_complete()
                if tracker.must_rewind or run.cancel.is_set:
                    break
            tracker.add_all(pipeline.drain())
            if not tracker.must_rewind and not run.cancel.is_set:
                tracker.finalize_complete(last=True)
            if tracker.must_rewind:
                tracker.rewind()


def main(options: Options, load: Callable[[Run], None], new_client: NewClient) -> int:
    """Lock and load the files, report, and return the exit code.

    Args:
        options: what was asked for.
        load: loads and finalizes the files of a run, in order, until all are or until the run was cancelled.
        new_client: makes the clients.
    """
    started = time.monotonic()

    def lock_and_load(cancel: Cancel) -> int:
        source = _source(options)
        try:
            if options.dry:  # reads only, so another run may be at work
                return _load(options, source, source.find(), load, new_client, cancel, started)
            with source.lock() as paths:
                return _load(options, source, paths, load, new_client, cancel, started)
        except PatternError as error:
            LOG.error("%s", error)
            return _tell(options, _results(options, None, None, EXIT_FAILED, started))

    return _guard(options, lock_and_load)
