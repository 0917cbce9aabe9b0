"""What a large cluster costs its scheduler and the program that starts a run, with stand-ins for all that workers do.

    python -m benchmarks.scheduler --workers 100 --partitions 40 --windows 3

The scheduler is Dask's own, in a process of its own; the workers are too, all in one process. The tasks are those of
a load, cut and dealt as for a load, but they read, send and store nothing. What is measured is processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import distributed
import numpy as np

import memcload.cluster.tasks as tasks
from memc_client import MemcacheClient
from memcload.cancel import Cancel
from memcload.cluster.connection import Cluster, connected
from memcload.cluster.job import Buffer, Delivered, Job, Segment, Summary, Unit
from memcload.cluster.reader import Reader, deal
from memcload.counts import RejectedLines
from memcload.file_load import FileLoad

_PART = 16 << 20  # bytes of commands that each part says it has
_PARTS_A_FILE = 4
_PARTS_A_WORKER = 4  # of a window


def read_part(job: Job, unit: Unit, number: int, previous: Summary | None) -> list[Any]:
    """Stand in for the reading of a part."""
    partitions = int(job.pattern)
    is_last = number >= _PARTS_A_FILE - 1
    if number >= _PARTS_A_FILE:
        return [Summary([], 0, True), *[None] * partitions]
    segment = Segment(0, 1, [1] * partitions, RejectedLines(), 0, 0, 0, [], 0, None)
    few = np.zeros(1, np.int32)
    return [Summary([segment], _PART, is_last), *[Buffer(few, few, few, [1]) for _ in range(partitions)]]


def deliver(job: Job, window: str, partition: int, retries: bool, *groups: object) -> Delivered:
    """Stand in for the storing of a partition."""
    return Delivered([], [], set(), "", 0, 0)


def stand_in() -> None:
    """Put the stand-ins where workers and scheduler look for the tasks."""
    for function in (read_part, deliver):
        function.__module__ = tasks.__name__
        setattr(tasks, function.__name__, function)


def run_workers(count: int, address: str, directory: str) -> None:
    """Be this many workers, until the scheduler ends."""
    stand_in()

    async def run() -> None:
        made: Any = distributed.Worker
        workers = [
            made(address, nthreads=2, memory_limit=0, local_directory=directory, dashboard=False) for _ in range(count)
        ]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(run())


def measure(cluster: Cluster, partitions: int, windows: int, scheduler: int) -> None:
    """Put windows through the cluster; print what that took."""
    begun = 0
    begin = cluster.begin

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        return begin(*arguments, **options)

    cluster.begin = counted  # type: ignore[method-assign]
    workers = len(cluster.workers())
    size = _PART * _PARTS_A_WORKER * workers
    job = Job(pattern=f"{partitions}", servers={}, routing="crc32", new_client=MemcacheClient, part_size=_PART)
    stub = cast(Any, SimpleNamespace(size=_PART * _PARTS_A_FILE, close=lambda: None))
    files = (FileLoad(f"{n}", n, input=stub) for n in range(windows * workers * _PARTS_A_WORKER // _PARTS_A_FILE))
    reader = Reader(cluster, job, files, 2 * size, "1")

    def used(process: int) -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    own = os.getpid()
    before, started = (used(scheduler), used(own)), time.monotonic()
    parts: list[Any] = []
    open_deliveries: dict[str, Any] = {}
    number = 0
    while not (reader.is_done and not open_deliveries):
        reader.advance()
        if not open_deliveries:
            reader.release(parts)
            parts = reader.take(size)
            if parts:
                number += 1
                for dealt in deal(cluster, parts, partitions, f"{number}"):
                    key = f"delivery-{number}-{dealt.partition}"
                    future = cluster.submit(
                        tasks.deliver, job, "", dealt.partition, True, *dealt.groups, key=key, **dealt.options
                    )
                    open_deliveries[future.key] = future
        future = cluster.next_finished(0.05)
        if future is not None and not reader.add(future) and future.key in open_deliveries:
            cluster.result(open_deliveries.pop(future.key))
    seconds = time.monotonic() - started
    scheduling, asking = used(scheduler) - before[0], used(own) - before[1]
    print(
        f"{workers} workers, {partitions} partitions: {number} windows, {begun / number:.0f} tasks a window. "
        f"Scheduler: {scheduling / number:.1f} s a window, {1000 * scheduling / begun:.2f} ms a task. "
        f"The program that starts the run: {asking / number:.1f} s a window, {1000 * asking / begun:.2f} ms a task. "
        f"{seconds:.0f} s in all."
    )


def main() -> None:
    """Start a scheduler and workers, and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("--workers", 100), ("--partitions", 40), ("--windows", 3)):
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"(default: {default})")
    parser.add_argument("--be", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        count, address, directory = options.be
        run_workers(int(count), address, directory)
        return
    stand_in()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, python = f"tcp://127.0.0.1:{port}", [sys.executable, "-m"]
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": Path(__file__).parents[1],
    }
    environ = {**os.environ, "PYTHONPATH": str(quiet["cwd"])}
    with tempfile.TemporaryDirectory() as scratch:
        module = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", f"{port}", "--no-dashboard")
        scheduler = subprocess.Popen([*python, *module], env=environ, **quiet)
        be = ("benchmarks.scheduler", "--be", f"{options.workers}", address, scratch)
        workers = subprocess.Popen([*python, *be], env=environ, **quiet)
        try:
            time.sleep(3)
            with connected(address, "simulation", Cancel()) as cluster:
                deadline = time.monotonic() + 120
                while len(cluster.workers()) < options.workers and time.monotonic() < deadline:
                    time.sleep(0.2)
                measure(cluster, options.partitions, options.windows, scheduler.pid)
        finally:
            for process in (workers, scheduler):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
