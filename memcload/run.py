"""One run of a loader, from its options to its exit code; what both loaders have in common."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from memcload.allocator import keep_freed_memory
from memcload.cancel import Cancel
from memcload.check import Plan, check_load
from memcload.console import warn_console
from memcload.encode.choice import EngineError, choose_encoder
from memcload.encode.encoder import Encoder
from memcload.file_load import Rules
from memcload.log import LOG, log_failures, start_logging
from memcload.memcached.routing import Router
from memcload.memcached.server import Server
from memcload.memcached.tls import make_tls_context, read_credentials
from memcload.options import Options, ParallelOptions
from memcload.output.checks import show_findings
from memcload.output.progress import Tracked, show_progress
from memcload.output.results import Results
from memcload.output.telling import tell, tell_how_to_be_quiet, tell_verification
from memcload.output.verification import Verification
from memcload.pipeline import Pipeline, block_size, blocks_of
from memcload.records import DEVICE_TYPES
from memcload.sink import Client, Fleet, MemcachedSink, NewClient, NoSink, Sink
from memcload.source.holding import DirectoryHeld, NoLocks
from memcload.source.pattern import NoLibrary, PatternError
from memcload.source.places import source_of
from memcload.source.source import Source
from memcload.throttle import Throttle
from memcload.tracker import Tracker
from memcload.verify import ComparingSink, Verifier

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_HELD = 75  # EX_TEMPFAIL of sysexits.h


class UsageError(Exception):
    """The options can't be followed; the message says why."""


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


def load_in_parallel(run: Run) -> None:
    """Load and finalize the files of a run with the pipeline, in order, until the run is cancelled."""
    options, tracker = run.options, run.tracker
    assert isinstance(options, ParallelOptions)
    sink: Sink = NoSink() if options.dry else MemcachedSink(run.fleet, run.throttle)
    new_encoder = choose_encoder(options.engine, run.router, options.ttl, tracker.bytes_to_read)
    show = _show(run.router) if options.shows_records else None
    pipeline = _pipeline(options, run.router, sink, new_encoder, run.cancel, show)
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


def _show(router: Router) -> Callable[[bytes], list[str]]:
    from memcload.encode.message import show_records  # brings protobuf, which a load does without

    return lambda lines: show_records(lines, router)


def _pipeline(
    options: ParallelOptions,
    router: Router,
    sink: Sink,
    new_encoder: Callable[[], Encoder],
    cancel: Cancel,
    show: Callable[[bytes], list[str]] | None = None,
) -> Pipeline:
    keep_freed_memory()
    return Pipeline(
        router.partitions,
        sink,
        new_encoder,
        encode_threads=options.workers,
        slots=options.workers + options.queue_size,
        cancel=cancel,
        show=show,
    )


def main(options: Options, load: Callable[[Run], None], new_client: NewClient) -> int:
    """Lock and load the files, report, and return the exit code.

    Args:
        options: what the command line says.
        load: loads and finalizes the files of a run, in order, until all are or until the run was cancelled.
        new_client: makes the clients.
    """
    started = time.monotonic()

    def lock_and_load(cancel: Cancel) -> int:
        router, fleet = _fleet(options, new_client, cancel)
        source = _source(options, cancel)
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
        exit_code = _exit_code(options, cancel, is_clean)
        results = dataclasses.replace(results, exit_code=exit_code, seconds=time.monotonic() - started)
        exit_code = tell(results, as_table=options.progress, report=options.report, metrics=options.metrics)
        LOG.info("Finished in %.1f s with exit code %d", time.monotonic() - started, exit_code)
        return exit_code

    return _guard(options, lock_and_load)


def check(options: Options, new_client: NewClient) -> int:
    """Show what a load with these options would meet; return the exit code."""

    def look(cancel: Cancel) -> int:
        router, connect = _servers(options, new_client, cancel, retries=0)
        plan = Plan(
            source=_source(options, cancel),
            router=router,
            tls=options.tls,
            rejects=options.rejects,
            report=options.report,
            metrics=options.metrics,
            log=options.log,
            engine=options.engine if isinstance(options, ParallelOptions) else None,
        )
        findings = check_load(plan, connect, options.connect_timeout + options.timeout, cancel)
        if cancel.signal is None:
            show_findings(findings, as_table=options.progress)
        return _exit_code(options, cancel, not any(finding.problem for finding in findings))

    return _guard(options, look)


@dataclass(frozen=True)
class VerifyRun:
    """What compares files with what the servers hold is given."""

    options: ParallelOptions
    router: Router
    verifier: Verifier
    sink: ComparingSink
    cancel: Cancel
    new_client: NewClient
    new_encoder: Callable[[], Encoder]


def compare_here(run: VerifyRun) -> None:
    """Compare files on this host, until the run is cancelled."""
    pipeline = _pipeline(run.options, run.router, run.sink, run.new_encoder, run.cancel)
    run.verifier.verify(pipeline, block_size(run.options.block_size, len(run.router.partitions)))


def verify(options: ParallelOptions, compare: Callable[[VerifyRun], None], new_client: NewClient) -> int:
    """Compare files with what the servers hold, and report; return the exit code."""
    started = time.monotonic()

    def find_and_verify(cancel: Cancel) -> int:
        router, fleet = _fleet(options, new_client, cancel)
        source = _source(options, cancel)
        verification = Verification(router.partitions, fleet.servers)
        try:
            paths = source.find()
            if not paths:
                LOG.info("%s", _nothing_to("verify", options))
            new_encoder = choose_encoder(options.engine, router, options.ttl, source.size_of(paths))
            sink = ComparingSink(fleet, router.partitions, new_encoder, paths, options.sample)
            verifier = Verifier(paths, source, sink, cancel)
            try:
                with _progress(options, verifier, router, fleet, cancel) if paths else nullcontext():
                    compare(VerifyRun(options, router, verifier, sink, cancel, new_client, new_encoder))
            finally:
                fleet.close()
            sink.warn()
            verification = dataclasses.replace(verification, files=verifier.files, found=sink.found)
            is_clean = verifier.is_clean
        except PatternError as error:
            LOG.error("%s", error)
            is_clean = False
        exit_code = _exit_code(options, cancel, is_clean)
        verification = dataclasses.replace(verification, exit_code=exit_code, seconds=time.monotonic() - started)
        return tell_verification(verification, options.report, options.metrics)

    return _guard(options, find_and_verify)


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
        LOG.info("%s", _nothing_to("load", run.options))
    if run.options.shows_records:
        tell_how_to_be_quiet(run.tracker.bytes_to_read)
    try:
        with _progress(run.options, run.tracker, run.router, run.fleet, run.cancel) if paths else nullcontext():
            load(run)
    finally:
        run.fleet.close()
    run.tracker.finalize_rest()


def _nothing_to(act: str, options: Options) -> str:
    """Return what was looked for in vain, and how to choose other files."""
    if options.min_age:
        found = f"No file that matches {options.pattern} is {options.min_age:g} s old (--min-age)"
    else:
        found = f"No file matches {options.pattern}"
    done = "" if options.again else ", --again includes those that are done"
    return f"{found}: nothing to {act} (--pattern chooses the files{done})"


def _progress(
    options: Options, tracked: Tracked, router: Router, fleet: Fleet, cancel: Cancel
) -> AbstractContextManager[None]:
    return show_progress(tracked, router.partitions, fleet.servers, cancel) if options.progress else nullcontext()


def _guard(options: Options, body: Callable[[Cancel], int]) -> int:
    """Start the log, run the body and return its exit code; what goes wrong is logged in one line."""
    try:
        start_logging(None if options.check else options.log, options.log_level)  # a check makes no file
    except OSError as error:
        warn_console(f"memc_load: can't open the log {options.log}: {error.strerror}")
        return EXIT_USAGE
    LOG.info("Memc loader started with options: %s", options.shown())
    cancel = Cancel()
    cancel.listen()
    try:
        return body(cancel)
    except DirectoryHeld as error:
        LOG.error("%s", error)
        return EXIT_HELD
    except (EngineError, NoLibrary, UsageError) as error:
        LOG.error("%s", error)
        return EXIT_USAGE
    except (PatternError, NoLocks) as error:
        LOG.error("%s", error)
        return EXIT_FAILED
    except OSError as error:
        LOG.error("%s: %s", error.filename or "memc_load", error.strerror or error)
        return _exit_code(options, cancel, is_clean=False)
    except Exception as error:
        LOG.error("Internal error: %s: %s (run with --log-level debug for details)", type(error).__name__, error)
        LOG.debug("%s", traceback.format_exc())
        return EXIT_FAILED


def _fleet(options: Options, new_client: NewClient, cancel: Cancel) -> tuple[Router, Fleet]:
    router, connect = _servers(options, new_client, cancel, options.retries)
    return router, Fleet(router.partitions, connect)


def _servers(
    options: Options, new_client: NewClient, cancel: Cancel, retries: int
) -> tuple[Router, Callable[[Server], Client]]:
    """Return the partitions, and what makes a client of a server."""
    try:
        router = Router({name: options.servers[name] for name in options.only}, options.routing)
        tls = make_tls_context(options.tls_ca, options.tls_cert, options.tls_key) if options.tls else None
        credentials = read_credentials(options.auth_file) if options.auth_file else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(_unreadable(error, options)) from error
    return router, lambda server: new_client(
        server,
        timeout=options.timeout,
        connect_timeout=options.connect_timeout,
        retries=retries,
        ttl=options.ttl,
        cancel=cancel,
        tls=tls,
        credentials=credentials,
    )


def _unreadable(error: OSError, options: Options) -> str:
    """Return why a file of certificates or a password can't be read, and which option names it."""
    given = ("tls_ca", "tls_cert", "tls_key", "auth_file")
    names = [f" (--{name.replace('_', '-')})" for name in given if getattr(options, name) == error.filename]
    return f"{error.filename}: {(error.strerror or str(error)).lower()}{names[0] if names else ''}"


def _source(options: Options, cancel: Cancel) -> Source:
    verifies = isinstance(options, ParallelOptions) and options.verify
    return source_of(
        options.pattern, cancel, options.timeout, with_done=options.again, with_named=verifies, min_age=options.min_age
    )


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


def _exit_code(options: Options, cancel: Cancel, is_clean: bool) -> int:
    unstopped = EXIT_OK if is_clean and not (options.log and log_failures()) else EXIT_FAILED
    return unstopped if cancel.signal is None else 128 + cancel.signal
