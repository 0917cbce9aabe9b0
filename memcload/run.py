"""One load, from its options to its exit code; what both loaders have in common."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from memcload.cancel import Cancel
from memcload.encode.choice import choose_encoder
from memcload.file_load import Rules
from memcload.log import LOG
from memcload.memcached.routing import Router
from memcload.options import Options, ParallelOptions
from memcload.output.results import Results
from memcload.output.telling import tell, tell_how_to_be_quiet
from memcload.pipeline import NoThreads, block_size, blocks_of
from memcload.records import DEVICE_TYPES
from memcload.session import exit_code_of, finished, guard, new_fleet, new_pipeline, nothing_to, open_source, progress
from memcload.sink import Fleet, MemcachedSink, NewClient, NoSink, Sink
from memcload.source.pattern import PatternError
from memcload.source.source import Source
from memcload.text import Text
from memcload.throttle import Throttle
from memcload.tracker import Tracker


@dataclass(frozen=True)
class Run:
    """What a loader is given."""

    options: Options
    router: Router
    fleet: Fleet
    tracker: Tracker
    cancel: Cancel
    new_client: NewClient

    @property
    def throttle(self) -> Throttle:
        """Return the limit on the records a second that --max-rate sets."""
        return Throttle(self.options.max_rate, self.cancel)


def main(options: Options, load: Callable[[Run], None], new_client: NewClient) -> int:
    """Lock and load the files, report, and return the exit code.

    Args:
        options: what the command line says.
        load: loads and finalizes the files of a run, in order, until all are or until the run was cancelled.
        new_client: makes the clients.
    """
    started = time.monotonic()

    def lock_and_load(cancel: Cancel) -> int:
        router, fleet = new_fleet(options, new_client, cancel)
        source = open_source(options, cancel)
        results = Results(router.partitions, fleet.servers, options.max_error_rate, options.dry)
        try:
            with _locked(source, options) as paths:
                tracker = Tracker(paths, source, _rules(options), cancel, fleet.servers, fleet.confirm)
                _load(Run(options, router, fleet, tracker, cancel, new_client), load, paths)
            results = dataclasses.replace(results, files=tracker.files, totals=tracker.totals())
            is_clean = tracker.is_clean
        except PatternError as error:
            LOG.error("%s", error)
            is_clean = False
        exit_code = exit_code_of(options, cancel, is_clean)
        results = dataclasses.replace(results, exit_code=exit_code, seconds=time.monotonic() - started)
        exit_code = tell(results, as_table=options.progress, report=options.report, metrics=options.metrics)
        return finished(started, exit_code)

    return guard(options, lock_and_load)


@contextmanager
def _locked(source: Source, options: Options) -> Iterator[list[str]]:
    """Hold the directories of the files that are to be loaded, and give their paths."""
    if options.dry:  # it only reads, so another run may be at work
        yield source.find()
        return
    with source.lock():
        yield source.find()  # again: the run that held a directory until now has renamed what it did


def _load(run: Run, load: Callable[[Run], None], paths: list[str]) -> None:
    if not paths:
        LOG.info("%s", nothing_to("load", run.options))
    if run.options.shows_records:
        tell_how_to_be_quiet(run.tracker.bytes_to_read)
    try:
        with progress(run.options, run.tracker, run.router, run.fleet, run.cancel) if paths else nullcontext():
            load(run)
    except NoThreads as error:
        LOG.error("memc_load: %s", error)
        run.cancel.set(cause="a limit on threads")
    finally:
        run.fleet.close()
    run.tracker.finalize_rest()


def _rules(options: Options) -> Rules:
    return Rules(
        settle=options.settle,
        max_error_rate=options.max_error_rate,
        dry=options.dry,
        only=options.only if len(options.only) < len(DEVICE_TYPES) else (),
        rejects=options.rejects,
        max_rejects=options.max_rejects,
        reloads=options.retries if isinstance(options, ParallelOptions) else 0,
    )


def load_in_parallel(run: Run) -> None:
    """Load and finalize the files of a run with the pipeline, in order, until the run is cancelled."""
    options, tracker = run.options, run.tracker
    assert isinstance(options, ParallelOptions)
    sink: Sink = NoSink() if options.dry else MemcachedSink(run.fleet, run.throttle)
    new_encoder = choose_encoder(options.engine, run.router, options.ttl, tracker.bytes_to_read)
    show = _show(run.router) if options.shows_records else None
    pipeline = new_pipeline(options, run.router, sink, new_encoder, run.cancel, show)
    with pipeline:
        while not tracker.is_finished and not run.cancel.is_set:
            for block in blocks_of(tracker.to_read(), block_size(options.block_size, len(run.router.partitions))):
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


def _show(router: Router) -> Callable[[Text], list[str]]:
    from memcload.encode.message import show_records  # brings protobuf, which a load does without

    return lambda text: show_records(text, router)
