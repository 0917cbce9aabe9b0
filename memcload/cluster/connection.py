"""The way to a Dask cluster, and what is wrong with it where it can't be used."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import distributed

from memcload import __version__
from memcload.cancel import Cancel
from memcload.cluster.failure import ClusterError
from memcload.cluster.leases import lasting
from memcload.cluster.scheduler import RunPlugin, plugin_name
from memcload.log import LOG, printable

_Client: Any = distributed.Client  # Dask has no types, or is not there to be looked at
_LocalCluster: Any = distributed.LocalCluster
_CONNECT_TIMEOUT = 5.0  # seconds
_ASK_TIMEOUT = 5.0  # seconds for an answer of the scheduler
_SIGN_EVERY = 1.0  # seconds between two signs of life
_WITHOUT_WORKERS = 30.0  # seconds for which there may be no worker
_LOOK_EVERY = 0.5  # seconds, at which workers there are

_MARGIN = 0.5  # seconds
_ASK_EVERY = 0.05  # seconds, at the cancel token
_NEVER = logging.CRITICAL + 1
_THREADS = 2  # of a local worker: one that encodes while another stores


class Cluster:
    """A connection to a scheduler, for one run of which it holds the permits.

    finished: futures that have ended, as they do
    """

    def __init__(self, client: Any, address: str, run: str) -> None:
        self.client = client
        self.finished: SimpleQueue[Any] = SimpleQueue()
        self._address = address
        self._run = run
        self._operation = plugin_name(run)
        self._is_over = threading.Event()
        self._last_workers = time.monotonic()
        self._look_at = 0.0
        self._workers: list[str] = []
        self._is_paused = False  # every worker, and it was said

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
            ClusterError: the scheduler is gone, or there has been no such worker for long
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            if self.client.status != "running":
                raise ClusterError(f"the scheduler of {self._address} does not answer any more")
            found = self.client.scheduler_info(n_workers=-1)["workers"]
            self._workers = sorted(address for address, worker in found.items() if worker["status"] == "running")
            if self._workers:
                self._last_workers = now
                self._is_paused = False
            else:
                self._explain(found, now)
        return self._workers

    def _explain(self, found: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """Say why no worker takes tasks: Dask pauses those that are short of memory, which may be for ever."""
        text = f"the cluster {self._address} has no workers: start some with dask worker"
        if is_paused := any(worker["status"] == "paused" for worker in found.values()):
            text = (
                f"all workers of the cluster {self._address} are paused, for they are short of memory: "
                "give them more (--memory-limit), or make --window-size smaller"
            )
        if now - self._last_workers > _WITHOUT_WORKERS:
            raise ClusterError(text)
        if is_paused and not self._is_paused:
            LOG.warning("%s", text)
        self._is_paused = is_paused

    def await_workers(self, cancel: Cancel) -> None:
        """Wait until there is a worker. Raises ClusterError where none comes."""
        while not self.workers() and not cancel.is_set:
            cancel.wait(0.1)

    # -- permits

    def install(self, timeout: float, max_rate: int) -> None:
        """Let the scheduler grant permits, and begin to give it signs of life. Raises ClusterError."""
        try:
            self.client.register_plugin(RunPlugin(self._run, self.client.id, timeout, max_rate))
        except Exception as error:
            raise ClusterError(f"the scheduler of {self._address} does not take a plugin: {error}") from error
        threading.Thread(target=self._give_signs, daemon=True).start()

    def ask(self, action: str, window: str = "") -> Any:
        """Ask the plugin. Raises ClusterError."""
        operation = getattr(self.client.scheduler, self._operation)
        try:
            answer = self.client.sync(operation, action=action, window=window, callback_timeout=_ASK_TIMEOUT)
        except Exception as error:
            raise ClusterError(f"the scheduler of {self._address} does not answer: {error}") from error
        if answer is None:
            raise ClusterError(
                f"the scheduler of {self._address} took this run for dead and has ended it: run it again"
            )
        return answer

    def _give_signs(self) -> None:
        while not self._is_over.wait(_SIGN_EVERY):
            with contextlib.suppress(ClusterError):
                self.ask("sign")

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
        try:
            deadline = time.monotonic() + timeout + _MARGIN
            while not self.ask("end") and time.monotonic() < deadline:
                time.sleep(0.02)
        except ClusterError:  # nobody renews a permit, and nobody knows which are out
            time.sleep(lasting(timeout))
            return
        patiently({"end": lambda: self.client.run(end_run, self._run, on_error="ignore")}, Cancel(), _MARGIN)

    # -- tasks

    def begin(self, function: Callable[..., Any], *arguments: Any, key: str, **options: Any) -> Any:
        """Begin a task; return its future."""
        return self.client.submit(function, *arguments, key=f"{self._run}-{key}", pure=False, **options)

    def submit(self, function: Callable[..., Any], *arguments: Any, key: str, **options: Any) -> Any:
        """Begin a task; its future comes to `finished`."""
        future = self.begin(function, *arguments, key=key, **options)
        future.add_done_callback(self.finished.put)
        return future

    def result(self, future: Any) -> Any:
        """Return what a task has returned. Raises ClusterError."""
        try:
            return future.result(timeout=60)
        except Exception as error:
            self._look_at = 0.0
            self.workers()
            text = printable(str(error)) or type(error).__name__
            raise ClusterError(f"a task failed on the cluster {self._address}: {text}") from error

    def next_finished(self, timeout: float) -> Any | None:
        """Return the next future that has ended; None if there is none in time."""
        try:
            return self.finished.get(timeout=timeout)
        except Empty:
            return None


def patiently(functions: Mapping[str, Callable[[], Any]], cancel: Cancel, timeout: float) -> dict[str, Any]:
    """Return what functions return or raise, those that do so in time. Raises ClusterError once it is cancelled."""
    results: dict[str, Any] = {}

    def call(name: str) -> None:
        try:
            results[name] = functions[name]()
        except Exception as error:
            results[name] = error

    for name in functions:
        threading.Thread(target=call, args=(name,), daemon=True).start()
    deadline = time.monotonic() + timeout
    while len(results) < len(functions) and time.monotonic() < deadline:
        if cancel.wait(_ASK_EVERY):
            raise ClusterError("the run was stopped before the cluster answered")
    return dict(results)


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
            place = stack.enter_context(_local(int(address.removeprefix("local:")), cancel))

        def connect() -> Any:
            return _Client(place, timeout=_CONNECT_TIMEOUT, set_as_default=False)

        client = patiently({"client": connect}, cancel, 2 * _CONNECT_TIMEOUT).get("client", OSError())
        if isinstance(client, Exception):
            cause = printable(str(client)).partition("\n")[0] or "no answer"
            raise ClusterError(f"can't connect to the cluster {address}: {cause}")
        stack.callback(_close, client)
        client.subscribe_topic(plugin_name(run), show_log)
        yield Cluster(client, address, run)


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


@contextlib.contextmanager
def _local(workers: int, cancel: Cancel) -> Iterator[Any]:
    """Start worker processes here. They end with this process, however that ends."""

    def start() -> Any:
        return _LocalCluster(
            n_workers=workers,
            threads_per_worker=_THREADS,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )

    try:
        cluster = start()
    except (OSError, RuntimeError, TimeoutError) as error:
        raise ClusterError(f"can't start {workers} worker processes: {error}") from error
    try:
        yield cluster
    finally:
        for nanny in cluster.workers.values():  # Dask would wait for what their threads do
            nanny.auto_restart = False
            if nanny.pid:
                with contextlib.suppress(OSError):
                    os.kill(nanny.pid, signal.SIGKILL)
        with contextlib.suppress(Exception):
            cluster.close(timeout=1)
        cluster.shutdown_on_close = False  # Dask would try again, for longer, when this process ends
