"""Runs a subject in a process of its own against four empty servers, and measures what it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.data import PATTERN, Logs, LogStore
from benchmarks.subjects import Plan, Subject, live
from tools.servers import MemcachedServer

PROJECT = Path(__file__).resolve().parent.parent
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SHORTEST = 0.001  # seconds; finer than this no report tells

Clock = Literal["load", "run", "whole"]
"""What is timed: the load of the one file as the report tells it; the run as the report tells it, which
includes making the encoder ready; the whole process from outside, which includes the start of Python."""


class BenchmarkError(Exception):
    """A subject did not do what it is measured for; the message says which and what."""


@dataclass(frozen=True)
class Measurement:
    """One run of one subject.

    Attributes:
        records: how many it dealt with.
        seconds: by what is timed; "load" is missing where there is more than one file.
        cpu_seconds: of the subject; of its timed part alone where that is a part of the process.
        server_cpu_seconds: of the four servers together.
        peak_bytes: the most memory that the subject's process had. The system also counts what the
            measuring process has at that moment, so that less than that can't be seen.

    """

    records: int
    seconds: Mapping[Clock, float]
    cpu_seconds: float
    server_cpu_seconds: float
    peak_bytes: int

    def rate(self, clock: Clock) -> float:
        """Return the records per second by one of the clocks."""
        return self.records / max(self.seconds[clock], SHORTEST)


Round = Mapping[Subject, Measurement]
"""Every subject measured once, one shortly after the other."""


class Laboratory:
    """Four servers and the logs, and what it takes to measure a subject with them."""

    def __init__(self, servers: Mapping[str, MemcachedServer], logs: LogStore) -> None:
        self._servers = servers
        self._logs = logs

    def rounds(self, plan: Plan) -> list[Round]:
        """Measure every subject of the plan in every round; say on standard error how far it got.

        Raises BenchmarkError.
        """
        for logs in dict.fromkeys(subject.logs for subject in plan.subjects):
            say(f"preparing {logs}")
            for path in self._logs.paths(logs):
                _read(path)  # from now on the system has it in memory
        say("warming up")
        self.measure(live(Logs(plan.small)))  # compiles what is compiled once
        results: list[Round] = []
        for number in range(1, plan.rounds + 1):
            measurements = {}
            for subject in plan.subjects:
                say(f"round {number}/{plan.rounds}: {subject.name}, {subject.logs}:", end=" ")
                measurements[subject] = self.measure(subject)
                say(f"{measurements[subject].seconds['whole']:.1f} s")
            results.append(measurements)
        return results

    def measure(self, subject: Subject) -> Measurement:
        """Run a subject once, against servers that have just been started. Raises BenchmarkError."""
        for server in self._servers.values():
            # Not flushed: memcached would clear up what was flushed while the next subject is measured.
            server.restart()
        with self._logs.inbox(subject.logs) as inbox, tempfile.TemporaryFile() as complaints:
            # Its name starts with a dot and it does not match, so no loader takes it for a log.
            report_path = inbox / ".report.json"
            command = [*subject.command, "--pattern", str(inbox / PATTERN), "--report", str(report_path)]
            for name, server in self._servers.items():
                command += [f"--{name}", server.address]
            server_cpu = self._server_cpu_seconds()
            started = time.perf_counter()
            exit_code, usage = _run(command, complaints.fileno())
            whole = time.perf_counter() - started
            server_cpu = self._server_cpu_seconds() - server_cpu
            if exit_code:
                complaints.seek(0)
                raise BenchmarkError(
                    f"{subject.name}: exit code {exit_code}\n{complaints.read().decode(errors='replace')[-2000:]}"
                )
            report = json.loads(report_path.read_bytes())
        self._verify(subject, report)
        seconds: dict[Clock, float] = {"run": report["seconds"], "whole": whole}
        if len(report["files"]) == 1:
            seconds["load"] = report["files"][0]["seconds"]
        return Measurement(
            records=subject.logs.records,
            seconds=seconds,
            cpu_seconds=report.get("cpu_seconds", usage.ru_utime + usage.ru_stime),
            server_cpu_seconds=server_cpu,
            peak_bytes=usage.ru_maxrss * 1024,
        )

    def _server_cpu_seconds(self) -> float:
        return sum(cpu_seconds_of(server.pid) for server in self._servers.values())

    def _verify(self, subject: Subject, report: Mapping[str, Any]) -> None:
        """See that every record was dealt with and that the servers hold as many."""
        records = report["totals"]["stored"]
        if records != subject.logs.records:
            raise BenchmarkError(f"{subject.name}: {records} records of {subject.logs.records}")
        held = 0
        for name, server in self._servers.items():
            with server.client() as client:
                stats = client.stats()
            held += stats[b"curr_items"]
            if stats[b"evictions"]:
                raise BenchmarkError(f"{subject.name}: the memcached of {name} ran out of memory")
        if held != (expected := subject.logs.records if subject.stores else 0):
            raise BenchmarkError(f"{subject.name}: the servers hold {held} records, not {expected}")


def _read(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 20):  # in pieces: this process has to stay small, see Measurement.peak_bytes
            pass


def _run(command: list[str], complaints: int) -> tuple[int, Any]:
    """Run a command in the project's folder; return its exit code and what it used."""
    process = subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints
    )
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would look for it in vain
    return process.returncode, usage


def cpu_seconds_of(pid: int) -> float:
    """Return the CPU seconds, user and system, that a running process has used. Linux tells them.

    Raises BenchmarkError.
    """
    try:
        # The name of the program, in parentheses, may hold anything: the fields behind it count.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        raise BenchmarkError(f"what process {pid} used can't be known: {error}") from error
    user, system = fields[11], fields[12]
    return (int(user) + int(system)) / TICKS_PER_SECOND


def say(text: str, end: str = "\n") -> None:
    """Print on standard error how far it got."""
    print(text, end=end, file=sys.stderr, flush=True)
