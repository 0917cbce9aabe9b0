"""A Dask cluster of real processes on this machine: a scheduler, and workers without anybody who looks after them."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tests.outside.faults import held_while
from tests.outside.proxy import FaultyProxy

PROJECT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60.0  # seconds


class DaskCluster:
    """A scheduler and its workers. A context manager, which ends them, frozen or not.

    directory: where they keep what they keep
    environ: for all of them, beside that of the tests
    workers: the processes that were started and not replaced, in order; the last has a proxy before its scheduler
    is_cut_off: while this is set, nothing passes that proxy
    """

    def __init__(
        self, directory: Path, *, workers: int = 2, protocol: str = "tcp", environ: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self._count = workers
        self._protocol = protocol
        self._environ = environ or {}
        self._harmed: set[subprocess.Popen[bytes]] = set()
        self._others: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.is_cut_off = threading.Event()
        self._proxy: FaultyProxy | None = None

    @property
    def log(self) -> str:
        """What its processes have logged so far."""
        return (self._directory / "log").read_text()

    def __enter__(self) -> DaskCluster:
        self.start_scheduler()
        self.is_cut_off.clear()
        self._proxy = FaultyProxy(f"127.0.0.1:{self._port}", held_while(self.is_cut_off))
        self.workers = [self._start_worker(number) for number in range(self._count)]
        return self

    def __exit__(self, *error: object) -> None:
        self._end(*self.workers, *self._others, self.scheduler)
        if self._proxy is not None:
            self._proxy.close()

    @property
    def address(self) -> str:
        """Return the value of `--cluster`."""
        return f"{self._protocol}://127.0.0.1:{self._port}"

    def last_run(self) -> tuple[Counter[str], list[str]]:
        """Return how often the scheduler was given each task of the last run, and what it keeps of any run."""

        def look(dask_scheduler: Any) -> tuple[Counter[str], list[str]]:
            log = [(entry[0], entry[1], entry[2]) for entry in dask_scheduler.transition_log]
            run = log[-1][0].partition("-")[0]
            tasks = Counter(key for key, *change in log if key.startswith(run) and change == ["released", "waiting"])
            kept = [*dask_scheduler.plugins, *dask_scheduler.handlers, *dask_scheduler.tasks]
            return tasks, [name for name in kept if name.startswith("memcload")]

        found: tuple[Counter[str], list[str]] = self._within_scheduler(look)
        return found

    @contextlib.contextmanager
    def scheduler_of_version(self, version: str) -> Iterator[None]:
        """Let the scheduler have another version of the program than it has, for as long as the context lasts."""

        def become(version: str) -> str:
            program: Any = importlib.import_module("memcload")
            was: str = program.__version__
            program.__version__ = version
            return was

        was = self._within_scheduler(become, version)
        try:
            yield
        finally:
            self._within_scheduler(become, was)

    def end_runs(self) -> None:
        """Let the scheduler take the programs that started runs for dead, though they are connected."""

        def end(dask_scheduler: Any) -> None:
            for plugin in list(dask_scheduler.plugins.values()):
                for client in dask_scheduler.clients:
                    plugin.remove_client(scheduler=dask_scheduler, client=client)

        self._within_scheduler(end)

    def _within_scheduler(self, function: Callable[..., Any], *arguments: str) -> Any:
        import distributed  # here: it takes long

        client: Any = distributed.Client(self.address, set_as_default=False)
        with client:
            return client.run_on_scheduler(function, *arguments)

    def make_ready(self) -> None:
        """Have all workers sound, whatever an earlier test did to them."""
        self._end(*self._others)
        self._others.clear()
        self.is_cut_off.clear()
        if self.scheduler.poll() is not None:
            self.__exit__()
            self.__enter__()
        for number, worker in enumerate(self.workers):
            if worker in self._harmed or worker.poll() is not None:
                self._end(worker)
                self.workers[number] = self._start_worker(number)
        self._harmed.clear()

    def start_scheduler(self) -> None:
        """Start a scheduler, and wait until it listens."""
        self._port = _free_port()
        options = ("--host", f"{self._protocol}://127.0.0.1", "--port", str(self._port), "--no-show")
        self.scheduler = self._start("dask_scheduler", *options)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return
            assert self.scheduler.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def start_other_worker(self, path: Path) -> None:
        """Start one more worker, for which this program lies in a directory. The next test has it not."""
        log = path / "worker.log"
        with log.open("wb") as file:
            self._others.append(self._start_worker(0, path, log=file))
        deadline = time.monotonic() + START_TIMEOUT
        while b"Registered to" not in log.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def freeze(self, number: int) -> None:
        """Halt a worker."""
        self._harm(number, signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let a worker go on."""
        self._harm(number, signal.SIGCONT)

    def thaw_all(self) -> None:
        """Let all workers go on."""
        for worker in self._harmed:
            worker.send_signal(signal.SIGCONT)  # which does nothing where it has ended

    def kill(self, number: int) -> None:
        """Kill a worker."""
        self._harm(number, signal.SIGKILL)

    def cut_off(self) -> None:
        """Let nothing pass between the scheduler and the last worker; all other ways are open."""
        self._harmed.add(self.workers[-1])
        self.is_cut_off.set()

    def _harm(self, number: int, by: signal.Signals) -> None:
        self._harmed.add(self.workers[number])
        self.workers[number].send_signal(by)

    def _start_worker(self, number: int, path: Path = PROJECT, log: BinaryIO | None = None) -> subprocess.Popen[bytes]:
        address = self.address
        if number and self._proxy is not None:
            address = f"{self._protocol}://{self._proxy.address}"
        options = ("--nthreads", "2", "--no-nanny", "--local-directory", str(self._directory), "--memory-limit", "2GB")
        return self._start("dask_worker", address, *options, path=path, log=log)

    def _start(
        self, program: str, *options: str, path: Path = PROJECT, log: BinaryIO | None = None
    ) -> subprocess.Popen[bytes]:
        self._directory.mkdir(exist_ok=True)
        with (self._directory / "log").open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{program}", *options, "--no-dashboard"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log or file,
                cwd=path,
                env={**os.environ, "PYTHONPATH": str(path), **self._environ},
            )

    @staticmethod
    def _end(*processes: subprocess.Popen[bytes]) -> None:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
