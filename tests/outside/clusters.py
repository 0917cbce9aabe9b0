"""A Dask cluster of real processes on this machine: a scheduler, and workers without anybody who looks after them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60.0  # seconds


class DaskCluster:
    """A scheduler and its workers. A context manager, which ends them, frozen or not.

    directory: where they keep what they keep
    workers: the processes that were started, in order
    """

    def __init__(self, directory: Path, workers: int = 2) -> None:
        self._directory = directory
        self.port = _free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._count = workers

    def __enter__(self) -> DaskCluster:
        self.start_scheduler()
        for _ in range(self._count):
            self.start_worker()
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def start_scheduler(self) -> None:
        """Start the scheduler, and wait until it listens."""
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-show")
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def start_worker(self, path: Path = PROJECT) -> subprocess.Popen[bytes]:
        """Start another worker, for which this program lies in a directory."""
        options = ("--nthreads", "2", "--no-nanny", "--local-directory", str(self._directory))
        worker = self._start("dask_worker", self.address, *options, environ={"PYTHONPATH": str(path)}, directory=path)
        self.workers.append(worker)
        return worker

    def freeze(self, number: int) -> None:
        """Halt a worker."""
        self.workers[number].send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let a worker go on."""
        self.workers[number].send_signal(signal.SIGCONT)

    def kill(self, number: int) -> None:
        """Kill a worker."""
        self.workers[number].kill()

    def _start(
        self, program: str, *options: str, environ: Mapping[str, str] | None = None, directory: Path = PROJECT
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{program}", *options, "--no-dashboard"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(PROJECT), **(environ or {})},
        )


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@contextlib.contextmanager
def dask_cluster(directory: Path, workers: int = 2) -> Iterator[DaskCluster]:
    """Start a cluster for as long as the context lasts."""
    with DaskCluster(directory, workers) as cluster:
        yield cluster
