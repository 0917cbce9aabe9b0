"""The way to a Dask cluster, and what is wrong with it where it can't be used."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import distributed
from distributed import KilledWorker

from memcload import __version__
from memcload.cancel import Cancel
from memcload.cluster.failure import ClusterError
from memcload.cluster.leases import lasting
from memcload.cluster.local import local_workers
from memcload.cluster.patience import LOOK_EVERY, patiently
from memcload.cluster.scheduler import RunPlugin, plugin_name
from memcload.log import LOG, printable

_DaskClient: Any = distributed.Client  # Dask has no types, or is not there to be looked at
_Security: Any = distributed.Security
_CONNECT_TIMEOUT = 5.0  # seconds
_ASK_TIMEOUT = 5.0  # seconds for an answer of a worker
_PATIENCE = 30.0  # seconds for an answer of the scheduler
_SIGN_EVERY = 1.0  # seconds between two signs of life
_WITHOUT_WORKERS = 30.0  # seconds for which there may be no worker
_LOOK_EVERY = 0.5  # seconds, at which workers there are

_MORE_MEMORY = "give them more (--memory-limit), or make --window-size smaller"
_MARGIN = 0.5  # seconds
_NEVER = logging.CRITICAL + 1


class _Client(_DaskClient):  # type: ignore[misc]
    """Dask's client, closed by nobody but who made it: what could not connect would be waited for in the end."""

    def __del__(self) -> None:
        pass


class Cluster:
    """A connection to a scheduler, for one run of which it holds the permits.

    finished: futures that have ended, as they do
    """

    def __init__(self, client: Any, address: str, run: str, cancel: Cancel) -> None:
        self.client = client
        self.finished: SimpleQueue[Any] = SimpleQueue()
        self._address = address
        self._run = run
        self._cancel = cancel
        self._operation = plugin_name(run)
        self._is_over = threading.Event()
        self._was_ended = False  # by the scheduler
        self._last_workers = time.monotonic()
        self._look_at = 0.0
        self._workers: list[str] = []
        self._said: set[str] = set()  # warnings

    # -- workers

    def check_versions(self, cancel: Cancel) -> None:
        """Raise ClusterError, which names them, where the scheduler or a worker has not this very version.

        A worker that does not answer is left out: it is frozen, or on its way to its end.
        """

        def version() -> str | None:  # travels as code: what it looks for may be missing
            from importlib.util import find_spec

            if find_spec("memcload") is None or find_spec("memc_client") is None:
                return None
            from memcload import __version__

            return __version__

        def ask_scheduler() -> Any:
            return self.client.run_on_scheduler(version)

        def ask_worker(address: str) -> Callable[[], Any]:
            return lambda: self.client.run(version, workers=[address], on_error="return")[address]

        questions = {f"the worker {address}": ask_worker(address) for address in self.workers()}
        answers = patiently({"the scheduler": ask_scheduler, **questions}, cancel, _ASK_TIMEOUT)
        silent = [name for name in questions if isinstance(answers.get(name, OSError()), OSError)]
        if isinstance(answers.get("the scheduler", OSError()), Exception) or len(silent) == len(questions):
            raise ClusterError(f"the cluster {self._address}, or no worker of it, does not answer")
        for name in silent:
            LOG.warning("%s does not answer; the load goes on without it", name)
        problems = [
            f"{name} has not installed this program" if value is None else f"{name} has version {value}"
            for name, value in sorted(answers.items())
            if name not in silent and value != __version__
        ]
        if problems:
            raise ClusterError(f"{'; '.join(problems)}: install version {__version__}, which this is, there too")

    def workers(self) -> list[str]:
        """Return the addresses of the workers that take tasks, sorted, as they were a moment ago.

        Raises:
            ClusterError: the scheduler is gone or has ended the run, or there has been no such worker for long
        """
        if self._was_ended:
            raise self._ended()
        now = time.monotonic()
        if now >= self._look_at:
            if self.client.status != "running":
                raise self._lost()
            found = self._asked(lambda: self.client.scheduler.identity(n_workers=-1), self._cancel)["workers"]
            now = time.monotonic()
            self._look_at = now + _LOOK_EVERY
            self._workers = sorted(address for address, worker in found.items() if worker["status"] == "running")
            if self._workers:
                self._last_workers = now
            else:
                self._explain(found, now)
        return self._workers

    def _explain(self, found: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """Say why no worker takes tasks: Dask pauses those that are short of memory, which may be for ever."""
        text = f"the cluster {self._address} has no workers: start some with dask worker"
        if any(worker["status"] == "paused" for worker in found.values()):
            text = (
                f"all workers of the cluster {self._address} are paused, for they are short of memory: {_MORE_MEMORY}"
            )
        if now - self._last_workers > _WITHOUT_WORKERS:
            raise ClusterError(text)
        if text not in self._said:
            self._said.add(text)
            LOG.warning("%s", text)

    def await_workers(self, cancel: Cancel) -> None:
        """Wait until there is a worker. Raises ClusterError where none comes."""
        while not self.workers() and not cancel.is_set:
            cancel.wait(0.1)

    # -- permits

    def install(self, timeout: float, max_rate: int) -> None:
        """Let the scheduler grant permits, and begin to give it signs of life. Raises ClusterError."""
        plugin = RunPlugin(self._run, self.client.id, timeout, max_rate)
        answers = patiently({"plugin": lambda: self.client.register_plugin(plugin)}, self._cancel, _PATIENCE)
        error = answers.get("plugin", TimeoutError("it does not answer"))
        if isinstance(error, Exception):
            raise ClusterError(f"the scheduler of {self._address} does not take a plugin: {error}") from error
        threading.Thread(target=self._give_signs, daemon=True).start()

    def ask(self, action: str, window: str = "") -> Any:
        """Ask the plugin. Raises ClusterError."""
        return self._ask(action, self._cancel, window=window)

    def _ask(self, action: str, cancel: Cancel, patience: float = _PATIENCE, **what: Any) -> Any:
        def operate() -> Awaitable[Any]:
            answer: Awaitable[Any] = getattr(self.client.scheduler, self._operation)(action=action, **what)
            return answer

        answer = self._asked(operate, cancel, patience)
        if answer is None:
            self._was_ended = True
            raise self._ended()
        return answer

    def _asked(self, start: Callable[[], Awaitable[Any]], cancel: Cancel, patience: float = _PATIENCE) -> Any:
        """Return what the scheduler answers. Raises ClusterError."""
        try:
            return self._answer(start, cancel, patience)
        except ClusterError:
            raise
        except Exception as error:
            raise self._lost() from error

    def _answer(self, start: Callable[[], Awaitable[Any]], cancel: Cancel, patience: float = _PATIENCE) -> Any:
        """Return what Dask gives; it is not waited for longer than that may take, whatever has died or is frozen.

        Raises:
            ClusterError: it takes too long, or the run was stopped
            Exception: whatever Dask raises
        """

        async def wait() -> Any:
            return await start()

        waiting = asyncio.run_coroutine_threadsafe(wait(), self.client.loop.asyncio_loop)
        deadline = time.monotonic() + patience
        while not concurrent.futures.wait([waiting], LOOK_EVERY).done:
            if cancel.is_set or time.monotonic() > deadline:
                waiting.cancel()
                if cancel.is_set:
                    raise ClusterError("the run was stopped before the cluster answered")
                raise ClusterError(f"the cluster {self._address} has not answered for {patience:.0f} s")
        return waiting.result()

    def _lost(self) -> ClusterError:
        text = "it has ended, or the network between is broken"
        return ClusterError(f"the connection to the scheduler of {self._address} is lost: {text}")

    def _ended(self) -> ClusterError:
        return ClusterError(f"the scheduler of {self._address} took this run for dead and has ended it: run it again")

    def _give_signs(self) -> None:
        while not self._is_over.wait(_SIGN_EVERY) and not self._was_ended:
            with contextlib.suppress(ClusterError):
                self._ask("sign", Cancel())

    def end(self, timeout: float) -> None:
        """End the run: permits first, then what the workers keep.

        Whoever loads next, with or without a cluster, then finds that nobody writes any more.

        Args:
            timeout: seconds that a request may last once its permit has run out.
        """
        from memcload.cluster.worker import end_run

        self._is_over.set()
        if self._address.startswith("local:"):
            return  # its workers are killed, and with them what they were about to write
        now = time.monotonic()
        try:
            while not self._ask("end", Cancel(), lasting(timeout)) and time.monotonic() < now + timeout + _MARGIN:
                time.sleep(0.02)
        except ClusterError:  # nobody renews a permit, and nobody knows which are out
            time.sleep(max(0.0, now + lasting(timeout) - time.monotonic()))
            return
        patiently({"end": lambda: self.client.run(end_run, self._run, on_error="ignore")}, Cancel(), _MARGIN)

    # -- tasks

    def begin(self, function: Callable[..., Any], *arguments: Any, key: str, **options: Any) -> Any:
        """Begin a task; return its future. Raises ClusterError."""
        try:
            return self.client.submit(function, *arguments, key=f"{self._run}-{key}", pure=False, **options)
        except Exception as error:  # the connection has ended since the last look
            raise self._lost() from error

    def submit(self, function: Callable[..., Any], *arguments: Any, key: str, **options: Any) -> Any:
        """Begin a task; its future comes to `finished`."""
        future = self.begin(function, *arguments, key=key, **options)
        future.add_done_callback(self.finished.put)
        return future

    def result(self, future: Any) -> Any:
        """Return what a task has returned. Raises ClusterError."""
        try:
            return self._answer(lambda: self.client.gather([future], asynchronous=True), self._cancel, 2 * _PATIENCE)[0]
        except ClusterError:
            raise
        except Exception as error:
            self._look_at = 0.0
            self.workers()
            self.ask("sign")  # or the scheduler may have ended the run, and with it the task
            text = printable(str(error)) or type(error).__name__
            if isinstance(error, KilledWorker):
                text = f"{error.allowed_failures + 1} workers died with it, the last was {error.last_worker.address}. "
                text += f"Their logs may say why; if they were short of memory, {_MORE_MEMORY}"
            raise ClusterError(f"a task failed on the cluster {self._address}: {text}") from error

    def next_finished(self, timeout: float) -> Any | None:
        """Return the next future that has ended; None if there is none in time."""
        try:
            return self.finished.get(timeout=timeout)
        except Empty:
            return None


def show_log(event: tuple[float, Sequence[Any]]) -> None:
    """Log what a worker has logged."""
    level, message = event[1]
    LOG.log(level, "%s", message)


@contextlib.contextmanager
def connected(address: str, run: str, cancel: Cancel) -> Iterator[Cluster]:
    """Connect to the cluster with this address, or start one here for `local:N`. Raises ClusterError."""
    with contextlib.ExitStack() as stack:
        _silence()
        place: Any = address
        if address.startswith("local:"):
            place = stack.enter_context(local_workers(int(address.removeprefix("local:")), cancel))

        def connect() -> Any:
            if address.startswith("tls:") and not _Security().get_connection_args("client")["ssl_context"]:
                raise OSError("Dask knows no certificates for TLS; its configuration has to name them")
            return _Client(place, timeout=_CONNECT_TIMEOUT, set_as_default=False)

        client = patiently({"client": connect}, cancel, 2 * _CONNECT_TIMEOUT).get("client")
        if client is None or isinstance(client, Exception):
            raise ClusterError(f"can't connect to the cluster {address}: {_explained(client)}")
        stack.callback(_close, client)
        client.subscribe_topic(plugin_name(run), show_log)
        yield Cluster(client, address, run, cancel)


def _explained(error: Exception | None) -> str:
    """Return why a scheduler can't be connected to."""
    cause: BaseException | None = error
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    text = getattr(cause, "strerror", None) or str(error)
    # Whatever comes of taking something else for Dask's protocol need not be an OSError.
    if not isinstance(error, OSError) or isinstance(cause, ConnectionResetError) or "WRONG_VERSION" in text:
        return "what is there does not speak as a Dask scheduler does (over tcp:// or tls://, as the address says)"
    file = f"{error.filename}: " if error.filename else ""
    return file + printable(text.partition("\n")[0])


def _silence() -> None:
    """Keep what Dask has to say, with tracebacks, off standard error: errors are told in words of this program."""
    warnings.simplefilter("ignore")
    logging.getLogger("asyncio").setLevel(_NEVER)
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(_NEVER)


def _close(client: Any) -> None:
    with contextlib.suppress(Exception):
        client.close(timeout=0.5)
