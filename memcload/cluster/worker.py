"""What a worker process keeps of a run between its tasks: connections, encoders, files that are half read."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from distributed import get_worker

from memcload import __version__
from memcload.allocator import keep_freed_memory
from memcload.cancel import Cancel
from memcload.cluster.job import Job
from memcload.cluster.permit import Permit
from memcload.cluster.reading import Stream
from memcload.cluster.scheduler import plugin_name
from memcload.encode.choice import choose_encoder
from memcload.encode.encoder import Encoder
from memcload.log import LOG
from memcload.memcached.routing import Router
from memcload.memcached.server import Server
from memcload.memcached.tls import make_tls_context, read_credentials
from memcload.sink import Client, Fleet
from memcload.source.pattern import NoLibrary
from memcload.source.places import source_of
from memcload.verify import ComparingSink

_FORGOTTEN_AFTER = 600.0  # seconds without a task: its coordinator was killed

_runs: dict[str, WorkerRun] = {}
_lock = threading.Lock()


class WrongVersion(Exception):
    """This worker has another version of the program than the coordinator; the message names both."""


class CannotWork(Exception):
    """Something is missing where this worker runs; the message names both."""


class Connected:
    """A client for one partition, the server that it leads to and the permit that it needs.

    lock: held by the delivery that uses it
    """

    def __init__(self, run: WorkerRun, number: int) -> None:
        partition = run.router.partitions[number]
        self.lock = threading.Lock()
        self.permit = Permit(run.ask, run.address)
        self.server = Server(partition.server, f"{partition.device_type} {partition.server}")
        self.client = run.new_client(self.server, self.permit)


class WorkerRun:
    """One run, as this process sees it.

    cancel: set when it has ended: nothing more is to be begun
    source: where the files lie
    """

    def __init__(self, job: Job) -> None:
        keep_freed_memory()  # a nanny has told the allocator to give back everything
        self.job = job
        self.worker = get_worker()
        self.address: str = self.worker.address
        self.router = Router(job.servers, job.routing)
        self.used = time.monotonic()
        self.cancel = Cancel()
        self.source = source_of(
            job.pattern, self.cancel, job.timeout, with_done=False, with_named=False, min_age=0
        )  # only to open what the coordinator has found
        self._new_encoder = choose_encoder(job.engine, self.router, job.ttl, job.pending_bytes)
        self._connected: dict[int, Connected] = {}
        self._streams: dict[tuple[str, int], Stream] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def encoder(self) -> Encoder:
        """Return the encoder of this thread."""
        if not hasattr(self._local, "encoder"):
            self._local.encoder = self._new_encoder()
        encoder: Encoder = self._local.encoder
        return encoder

    def new_client(self, server: Server, cancel: Cancel) -> Client:
        """Make a client of a server."""
        job = self.job
        return job.new_client(
            server,
            timeout=job.timeout,
            connect_timeout=job.connect_timeout,
            retries=job.retries,
            ttl=job.ttl,
            cancel=cancel,
            tls=make_tls_context(*job.tls) if job.tls else None,
            credentials=read_credentials(job.auth_file) if job.auth_file else None,
        )

    @functools.cached_property
    def comparing(self) -> ComparingSink:
        """What compares records with what the servers hold; one partition by one thread at a time."""
        fleet = Fleet(self.router.partitions, lambda server: self.new_client(server, self.cancel))
        return ComparingSink(fleet, self.router.partitions, self._new_encoder, (), self.job.sample)

    def connected(self, number: int) -> Connected:
        """Return the connection for a partition, which is kept from window to window."""
        with self._lock:
            if number not in self._connected:
                self._connected[number] = Connected(self, number)
            return self._connected[number]

    def take_stream(self, unit: str, part: int) -> Stream | None:
        """Return the files of a unit, read up to a part, if they are kept."""
        with self._lock:
            return self._streams.pop((unit, part), None)

    def keep_stream(self, unit: str, part: int, stream: Stream) -> None:
        """Keep the files of a unit, read up to a part, for whoever reads on."""
        unwanted: Stream | None = stream
        with self._lock:
            if not self.cancel.is_set:
                unwanted = self._streams.pop((unit, part), None)
                self._streams[unit, part] = stream
        if unwanted is not None:
            unwanted.close()

    def ask(self, action: str, **what: Any) -> Any:
        """Ask the run's plugin in the scheduler. Raises OSError where that does not answer."""
        from distributed.utils import sync

        operation = getattr(self.worker.scheduler, plugin_name(self.job.run))
        try:
            return sync(self.worker.loop, operation, action=action, callback_timeout=self.job.timeout + 5, **what)
        except OSError:
            raise
        except Exception as error:  # an operation that is not known any more, a loop that has ended
            raise OSError(None, f"the scheduler does not answer: {error}") from error

    def end(self) -> None:
        """Close everything, as soon as nothing uses it."""
        with self._lock:
            self.cancel.set()
            streams, self._streams = self._streams, {}
            connected, self._connected = self._connected, {}
        for stream in streams.values():
            stream.close()
        for one in connected.values():
            if one.lock.acquire(blocking=False):  # or its delivery is still at work, and has no permit any more
                one.client.close()


class _Forwarding(logging.Handler):
    """Sends the log of a run's tasks to the coordinator."""

    def emit(self, record: logging.LogRecord) -> None:
        run: WorkerRun | None = getattr(_current, "run", None)
        if run is not None:
            with contextlib.suppress(Exception):
                run.worker.log_event(plugin_name(run.job.run), [record.levelno, record.getMessage()])


_current = threading.local()


@contextlib.contextmanager
def working_for(job: Job) -> Iterator[WorkerRun]:
    """Give what this process keeps of a run, for a task. Raises WrongVersion, CannotWork."""
    address = get_worker().address
    if job.version != __version__:
        raise WrongVersion(f"the worker {address} has version {__version__}, not {job.version}")
    try:
        run = _run_of(job)
        _current.run = run
        yield run
    except (NoLibrary, OSError, ValueError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        raise CannotWork(f"the worker {address}: {text}") from error
    finally:
        _current.run = None


def _run_of(job: Job) -> WorkerRun:
    with _lock:
        if not any(isinstance(handler, _Forwarding) for handler in LOG.handlers):
            LOG.addHandler(_Forwarding())
            LOG.setLevel(logging.INFO)
            LOG.propagate = False
        _forget_old_runs()
        if job.run not in _runs:
            _runs[job.run] = WorkerRun(job)
        run = _runs[job.run]
    run.used = time.monotonic()
    return run


def _forget_old_runs() -> None:
    now = time.monotonic()
    for name in [name for name, run in _runs.items() if now - run.used > _FORGOTTEN_AFTER]:
        _runs.pop(name).end()


def end_run(name: str) -> None:
    """Close what this process keeps of a run."""
    with _lock:
        run = _runs.pop(name, None)
    if run is not None:
        run.end()
