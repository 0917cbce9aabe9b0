"""What every run has: a log, a cancel token, servers, files, and an exit code."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from memcload.allocator import keep_freed_memory
from memcload.cancel import Cancel
from memcload.console import warn_console
from memcload.encode.choice import EngineError
from memcload.encode.encoder import Encoder
from memcload.log import LOG, log_failures, start_logging
from memcload.memcached.routing import Router
from memcload.memcached.server import Server
from memcload.memcached.tls import make_tls_context, read_credentials
from memcload.options import Options, ParallelOptions
from memcload.pipeline import Pipeline
from memcload.sink import Client, Fleet, NewClient, Sink
from memcload.source.holding import DirectoryHeld, NoLocks
from memcload.source.pattern import NoLibrary, PatternError
from memcload.source.places import source_of
from memcload.source.source import Source
from memcload.text import Text

if TYPE_CHECKING:
    from memcload.output.progress import Tracked


EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_HELD = 75  # EX_TEMPFAIL of sysexits.h


class UsageError(Exception):
    """The options can't be followed; the message says why."""


def servers_of(
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


def new_fleet(options: Options, new_client: NewClient, cancel: Cancel) -> tuple[Router, Fleet]:
    """Return the partitions and the clients of their servers. Raises UsageError."""
    router, connect = servers_of(options, new_client, cancel, options.retries)
    return router, Fleet(router.partitions, connect)


def open_source(options: Options, cancel: Cancel) -> Source:
    """Return where the files of a run lie. Raises PatternError, NoLibrary."""
    verifies = isinstance(options, ParallelOptions) and options.verify
    return source_of(
        options.pattern, cancel, options.timeout, with_done=options.again, with_named=verifies, min_age=options.min_age
    )


def new_pipeline(
    options: ParallelOptions,
    router: Router,
    sink: Sink,
    new_encoder: Callable[[], Encoder],
    cancel: Cancel,
    show: Callable[[Text], list[str]] | None = None,
) -> Pipeline:
    """Return the pipeline that the options describe, not started yet."""
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


def nothing_to(act: str, options: Options) -> str:
    """Return what was looked for in vain, and how to choose other files."""
    if options.min_age:
        found = f"No file that matches {options.pattern} is {options.min_age:g} s old (--min-age)"
    else:
        found = f"No file matches {options.pattern}"
    done = "" if options.again else ", --again includes those that are done"
    return f"{found}: nothing to {act} (--pattern chooses the files{done})"


def progress(
    options: Options, tracked: Tracked, router: Router, fleet: Fleet, cancel: Cancel
) -> AbstractContextManager[None]:
    """Return what shows the progress while it is open, where that is wanted."""
    if not options.progress:
        return nullcontext()
    from memcload.output.progress import show_progress  # imported here: cron never needs it

    return show_progress(tracked, router.partitions, fleet.servers, cancel)


def guard(options: Options, body: Callable[[Cancel], int]) -> int:
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
        return exit_code_of(options, cancel, is_clean=False)
    except Exception as error:
        LOG.error("Internal error: %s: %s (run with --log-level debug for details)", type(error).__name__, error)
        LOG.debug("%s", traceback.format_exc())
        return EXIT_FAILED


def exit_code_of(options: Options, cancel: Cancel, is_clean: bool) -> int:
    """Return the exit code of a run that has come to its end."""
    unstopped = EXIT_OK if is_clean and not (options.log and log_failures()) else EXIT_FAILED
    return unstopped if cancel.signal is None else 128 + cancel.signal


def finished(started: float, exit_code: int) -> int:
    """Log the last line of a run, which began at this time of the monotonic clock; return its exit code."""
    LOG.info("Finished in %.1f s with exit code %d", time.monotonic() - started, exit_code)
    return exit_code
