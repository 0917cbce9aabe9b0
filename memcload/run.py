"""One run of a loader, from its command line to its exit code; what both loaders have in common."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType

from memcload import inbox
from memcload.engine import EngineError
from memcload.ledger import FileLoad, Ledger
from memcload.log import LOG, log_failures, start_logging
from memcload.options import Options, ParallelOptions
from memcload.progress import show_progress
from memcload.report import build_report, write_report
from memcload.servers import Servers
from memcload.summary import summarize
from memcload.verify import Verifier

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_HELD = 75  # EX_TEMPFAIL of sysexits.h


class Interruption:
    """What SIGINT and SIGTERM ask for: the first to stop in good order, the second to stop at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)  # and nothing is logged: it may have come in the middle of a line

    def is_here(self) -> bool:
        """Tell whether a signal has come."""
        return self.signal is not None


class Run:
    """What a loader is given: options, the paths of the files in their order, the servers, the ledger."""

    def __init__(self, options: Options, paths: list[str]) -> None:
        self.options = options
        self.paths = paths
        self.ledger = Ledger(options)
        self.servers = Servers(options)
        self.interruption = Interruption()

    @property
    def is_stopped(self) -> bool:
        """Tell whether no more records are to be sent."""
        return self.interruption.is_here()

    @property
    def hindrance(self) -> str | None:
        """Why no file can be called done any more, or None."""
        stopped_by = self.interruption.signal
        return f"the run was stopped by {stopped_by.name}" if stopped_by else None


def main(options: Options, load: Callable[[Run], None]) -> int:
    """Find and hold the files, load them, report; return the exit code.

    load: loads and settles files of a run, in order, until all are or until the run was stopped
    """
    started = time.monotonic()

    def find_and_load() -> int:
        if options.dry:  # reads only, so another run may be at work
            return _run(options, _find(options), load, started)
        with inbox.hold_directories(_find(options)) as held:
            # looked for again: the run that held the directories until now has renamed what it did
            paths = [path for path in _find(options) if os.path.dirname(path) in held]
            return _run(options, paths, load, started)

    return _guard(options, find_and_load)


def verify(options: ParallelOptions) -> int:
    """Compare files with what the servers hold; return the exit code."""

    def find_and_verify() -> int:
        paths = inbox.find_logs(options.pattern, with_done=options.again, with_named=True)
        if not paths:
            LOG.info("No file matches %s", options.pattern)
        servers = Servers(options)
        interruption = Interruption()
        verifier = Verifier(options, servers)
        try:
            verifier.verify(paths, interruption.is_here)
        finally:
            servers.close()
        if interruption.signal is not None:
            return 128 + interruption.signal
        return EXIT_OK if verifier.is_clean and not log_failures() else EXIT_FAILED

    return _guard(options, find_and_verify)


def _guard(options: Options, body: Callable[[], int]) -> int:
    """Start the log, run the body and return its exit code; what goes wrong is logged in one line."""
    try:
        start_logging(options.log, options.log_level)
    except OSError as error:
        print(f"memc_load: can't open the log {options.log}: {error.strerror}", file=sys.stderr)
        return EXIT_USAGE
    LOG.info("Memc loader started with options: %s", options.shown())
    try:
        return body()
    except inbox.DirectoryHeld as error:
        LOG.error("%s", error)
        return EXIT_HELD
    except EngineError as error:
        LOG.error("%s", error)
        return EXIT_USAGE
    except OSError as error:
        LOG.error("%s: %s", error.filename or "memc_load", error.strerror or error)
        return EXIT_FAILED
    except Exception as error:
        LOG.error("This should not happen: %s: %s (--log-level debug tells more)", type(error).__name__, error)
        LOG.debug("%s", traceback.format_exc())
        return EXIT_FAILED


def _find(options: Options) -> list[str]:
    return inbox.find_logs(options.pattern, with_done=options.again)


def _run(options: Options, paths: list[str], load: Callable[[Run], None], started: float) -> int:
    run = Run(options, paths)
    if not paths:
        LOG.info("No file matches %s", options.pattern)
    try:
        shows_progress = options.progress and bool(paths)
        is_stopped = run.interruption.is_here
        with show_progress(paths, run.ledger, run.servers, is_stopped) if shows_progress else nullcontext():
            load(run)
    finally:
        run.servers.close()
    for path in paths[len(run.ledger.files) :]:
        run.ledger.settle(FileLoad(path), run.hindrance)
    exit_code = _write_results(run, time.monotonic() - started)
    LOG.info("Finished in %.1f s with exit code %d", time.monotonic() - started, exit_code)
    return exit_code


def _write_results(run: Run, seconds: float) -> int:
    """Tell people and machines what became of everything; return the exit code."""
    options, ledger, servers = run.options, run.ledger, run.servers
    exit_code = _exit_code(run)
    summarize(ledger, servers, seconds, as_table=options.progress)
    try:
        if options.report is not None:
            report = build_report(ledger, servers, exit_code=exit_code, dry=options.dry, seconds=seconds)
            write_report(report, options.report)
    except OSError as error:
        LOG.error("can't write the report %s: %s", options.report, error.strerror or error)
        exit_code = exit_code or EXIT_FAILED
    try:
        if options.metrics is not None:
            from memcload.metrics import write_metrics  # needs a library that nothing else needs

            write_metrics(options.metrics, ledger, servers, exit_code=exit_code, seconds=seconds)
    except OSError as error:
        LOG.error("can't write the metrics %s: %s", options.metrics, error.strerror or error)
        exit_code = exit_code or EXIT_FAILED
    return exit_code


def _exit_code(run: Run) -> int:
    if run.interruption.signal is not None:
        return 128 + run.interruption.signal
    return EXIT_OK if run.ledger.is_clean() and not log_failures() else EXIT_FAILED
