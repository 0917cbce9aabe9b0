"""Runs a subject in a process of its own against memcached, and measures what it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.data import PATTERN, LogStore
from benchmarks.farm import Farm, Farms
from benchmarks.plan import Subject
from benchmarks.results import Figures

PROJECT = Path(__file__).resolve().parent.parent
SHORTEST = 0.001  # seconds; finer than this no report tells


class BenchmarkError(Exception):
    """A subject did not do what it is measured for; the message says which and what."""


class Finished(NamedTuple):
    """A process that has ended: how long it took, the CPU it used, and the most memory it had.

    The system counts what the measuring process has at the start, too, so less than that can't be seen.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


class Laboratory:
    """The logs and servers, and how a subject is measured with them."""

    def __init__(self, logs: LogStore, farms: Farms) -> None:
        self.logs = logs
        self.farms = farms

    def measure(self, subject: Subject) -> Figures:
        """Run a subject against servers that have just been started. Raises BenchmarkError or ServerError."""
        with self.farms.running(subject.setup, subject.logs.records) as farm:
            if subject.refills:
                self.load(subject, farm)
            return self.load(subject, farm)

    def load(self, subject: Subject, farm: Farm) -> Figures:
        """Run a subject against running servers. Raises BenchmarkError."""
        records = subject.logs.records
        held_before = farm.stat(b"curr_items")
        with self.logs.linked(subject.logs) as directory:
            # Its name starts with a dot and it does not match, so no loader takes it for a log.
            report_path = directory / ".report.json"
            command = [*subject.command, "--pattern", str(directory / PATTERN), "--report", str(report_path)]
            server_cpu = farm.cpu_seconds()
            finished = run(subject.name, *command, *farm.load_options)
            server_cpu = farm.cpu_seconds() - server_cpu
            report = json.loads(report_path.read_bytes())
        stored = report["totals"]["stored"]
        if subject.stores and stored != records:
            raise BenchmarkError(f"{subject.name}: {stored} records of {records}")
        held = farm.stat(b"curr_items")
        if held != (expected := max(held_before, records if subject.stores else 0)):
            raise BenchmarkError(f"{subject.name}: the servers hold {held} records, not {expected}")
        if farm.stat(b"evictions"):
            raise BenchmarkError(f"{subject.name}: a memcached ran out of memory")
        return {
            "records_per_second": records / max(report["seconds"], SHORTEST),
            "whole_records_per_second": records / finished.seconds,
            "whole_seconds": finished.seconds,
            "busy": (finished.cpu_seconds + server_cpu) / (cores() * finished.seconds),
            "cpu_microseconds_per_record": finished.cpu_seconds * 1e6 / records,
            "memcached_cpu_microseconds_per_record": server_cpu * 1e6 / records,
            "peak_megabytes": finished.peak_bytes / 1e6,
        }


def run(name: str, *command: str) -> Finished:
    """Run a command in the project's folder and measure it. Raises BenchmarkError where it fails."""
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        usage: Any
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would look for it in vain
        if process.returncode:
            errors.seek(0)
            text = errors.read().decode(errors="replace")[-2000:]
            raise BenchmarkError(f"{name}: exit code {process.returncode}\n{text}")
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def say(text: str, end: str = "\n") -> None:
    """Print on standard error how far it got."""
    print(text, end=end, file=sys.stderr, flush=True)
