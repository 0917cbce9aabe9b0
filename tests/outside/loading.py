"""Run a loader as a user does, as a process: its exit code, its log, its report.

    finished = load(loader, inbox / "*", servers, "--ttl", "60")

loads into real servers and reads the report. `run` needs no servers. `Running` is a loader that a test disturbs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.outside.forking import FLAGS, Forked, can_fork
from tests.outside.memcached import Servers, addresses

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds for a loader to end, or to log what is waited for
WRONG_USAGE = 2

Loader = tuple[str, ...]
REFERENCE: Loader = ("memc_load.py",)
PARALLEL: Loader = ("memc_load_parallel.py", "--engine", "python", "--workers", "2", "--block-size", "1000")
DEFAULT: Loader = ("memc_load_parallel.py",)  # as it comes, with the engine that it finds
SMALL_BLOCKS: Loader = (*DEFAULT, "--block-size", "1000")

both_loaders = pytest.mark.parametrize("loader", [REFERENCE, PARALLEL], ids=["reference", "parallel"])
in_small_blocks = pytest.mark.parametrize(
    "loader", [REFERENCE, PARALLEL, SMALL_BLOCKS], ids=["reference", "python", "default"]
)
engines_in_small_blocks = pytest.mark.parametrize("loader", [PARALLEL, SMALL_BLOCKS], ids=["python", "default"])
all_loaders = pytest.mark.parametrize("loader", [REFERENCE, PARALLEL, DEFAULT], ids=["reference", "python", "default"])

LOG_LINE = re.compile(r"\[\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d\] ([DIWE]) (.+)")


@dataclass
class Finished:
    """A run that has ended. `log` are the lines on its standard error, `output` is its standard output."""

    exit_code: int
    log: list[str]
    output: str = ""
    report: dict[str, Any] = field(default_factory=dict)

    def messages(self, levels: str = "IWE") -> list[str]:
        """Return what was logged at these levels, without times and levels."""
        return [found[2] for found in map(LOG_LINE.fullmatch, self.log) if found and found[1] in levels]

    def says(self, text: str, levels: str = "IWE") -> bool:
        """Return True if a message at one of these levels contains the text."""
        return any(text in message for message in self.messages(levels))

    def statuses(self) -> dict[str, str]:
        """Return what became of each file, by its name."""
        return {os.path.basename(file["path"]): file["status"] for file in self.report["files"]}

    def file(self, name: str) -> dict[str, Any]:
        """Return what the report says about a file."""
        (entry,) = (entry for entry in self.report["files"] if os.path.basename(entry["path"]) == name)
        assert isinstance(entry, dict)
        return entry

    def device(self, dev_type: str) -> dict[str, Any]:
        """Return what the report says about a device type."""
        device = self.report["devices"][dev_type]
        assert isinstance(device, dict)
        return device

    def address(self, dev_type: str) -> str:
        """Return the address of the only server of a device type, as the report has it."""
        device = self.device(dev_type)
        (server,) = device.get("servers", [device])
        return str(server["address"])


class Running:
    """A loader that runs as a process of its own. A context manager, which ends it.

    pattern: the value of `--pattern`, or None to leave that option out
    environ: all environment variables; by default those of the tests, without any `MEMC_LOAD_…`
    prefix: a command that runs the loader's
    """

    def __init__(
        self,
        loader: Loader,
        pattern: str | Path | None,
        *options: str,
        environ: Mapping[str, str] | None = None,
        directory: str | Path = PROJECT,
        prefix: Sequence[str] = (),
    ) -> None:
        script = PROJECT / loader[0]
        arguments = [*loader[1:], *(() if pattern is None else ("--pattern", str(pattern))), *options]
        if environ is None:
            environ = own_environ()
        self.process: Forked | subprocess.Popen[bytes]
        if can_fork(environ) and not prefix:
            modules = ["s3fs"] if str(pattern).startswith("s3://") else []
            self.process = Forked(script, modules, arguments, environ, directory)
        else:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *FLAGS, script, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=directory,
                env=environ,
                start_new_session=True,  # so that what a prefix started is killed with it
            )
        self._log: list[str] = []
        self._output = b""
        self._news = threading.Condition()
        self._readers = [threading.Thread(target=self._read_log), threading.Thread(target=self._read_output)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._collect()

    def _collect(self) -> int:
        exit_code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return exit_code

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            with self._news:
                self._log.append(text.decode(errors="backslashreplace").removesuffix("\n"))
                self._news.notify_all()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        self._output = self.process.stdout.read()

    @property
    def log(self) -> list[str]:
        """What it has said so far."""
        with self._news:
            return self._log[:]

    def wait_for(self, pattern: str) -> None:
        """Wait until a line of the log matches."""

        def is_there() -> bool:
            return any(re.search(pattern, text) for text in self._log)

        with self._news:
            assert self._news.wait_for(is_there, PATIENCE), f"{pattern} is not in {self._log}"

    def send(self, number: signal.Signals) -> None:
        """Send the loader a signal."""
        self.process.send_signal(number)

    def send_until_it_ends(self, number: signal.Signals) -> None:
        """Send the loader a signal, again and again."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"{number.name} does not end the loader: {self._log}"
            self.send(number)
            time.sleep(0.05)

    def finish(self) -> Finished:
        """Wait for the end."""
        exit_code = self._collect()
        return Finished(exit_code, self._log, self._output.decode())


def own_environ() -> dict[str, str]:
    """Return the environment of the tests, without any option of the loaders."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MEMC_LOAD_")}


def run(
    loader: Loader,
    pattern: str | Path | None,
    *options: str,
    environ: Mapping[str, str] | None = None,
    directory: str | Path = PROJECT,
    prefix: Sequence[str] = (),
) -> Finished:
    """Run a loader to its end. All that it says on standard error has to be log, but for wrong usage."""
    with Running(loader, pattern, *options, environ=environ, directory=directory, prefix=prefix) as running:
        finished = running.finish()
    if finished.exit_code != WRONG_USAGE:
        assert [text for text in finished.log if not LOG_LINE.fullmatch(text)] == []
    return finished


def load(loader: Loader, pattern: str | Path, servers: Servers, *options: str, **other: str) -> Finished:
    """Load files into these servers and read the report; `other` are addresses in place of the servers'."""
    return with_report(run(loader, pattern, *addresses(servers, **other), "--report", "-", *options))


def with_report(finished: Finished) -> Finished:
    """Read the report that a run wrote to its standard output, and check that it adds up."""
    assert finished.output, finished.log
    finished.report = json.loads(finished.output)
    check_sums(finished.report)
    return finished


def check_sums(report: Mapping[str, Any]) -> None:
    """Check that the counts of a report add up."""
    for counts in (report["totals"], *report["files"]):
        rejected = sum(counts["rejected"].values())
        assert counts["records"] == counts["stored"] + rejected + counts["failed"]
        assert counts["error_rate"] == (rejected / counts["records"] if counts["records"] else 0)
    for count in ("records", "stored", "partial", "failed", "blank"):
        assert report["totals"][count] == sum(entry[count] for entry in report["files"])
    rejected_in_files: Counter[str] = Counter()
    for entry in report["files"]:
        rejected_in_files.update(entry["rejected"])
    assert report["totals"]["rejected"] == dict(rejected_in_files)
    for count in ("stored", "failed"):
        assert report["totals"][count] == sum(device[count] for device in report["devices"].values())
