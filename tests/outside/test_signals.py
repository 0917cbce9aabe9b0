"""What a signal does to a load: the first stops it in good order, the second at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.outside.loading import (
    LOG_LINE,
    PROJECT,
    REFERENCE,
    Finished,
    Loader,
    Running,
    both_loaders,
    check_sums,
)
from tests.outside.logs import names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents, everywhere, silent_server

# One worker that is slow enough to be met in the middle of a file.
SLOW = ("memc_load_parallel.py", "--engine", "python", "--workers", "1", "--queue-size", "1", "--block-size", "10000")
both_slowly = pytest.mark.parametrize("loader", [REFERENCE, SLOW], ids=["reference", "parallel"])
both_signals = pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture(scope="module")
def long_log() -> bytes:
    """Lines that keep a loader busy for seconds."""
    return numbered(150_000, prefix="long")


@both_slowly
@both_signals
def test_a_signal_stops_the_load_in_good_order(
    tmp_path: Path, servers: Servers, long_log: bytes, loader: Loader, number: signal.Signals, exit_code: int
) -> None:
    finished, report = load_until_signal(tmp_path, servers, long_log, loader, number)
    assert finished.exit_code == report["exit_code"] == exit_code
    assert [text for text in finished.log if not LOG_LINE.fullmatch(text)] == []
    assert names(tmp_path) == [".a.gz", "b.gz", "c.gz", "report.json"]
    assert [entry["status"] for entry in report["files"]] == ["done", "pending", "pending"]
    assert report["files"][0]["stored"] == 100
    assert report["files"][1]["stored"] < 150_000
    assert report["files"][2]["records"] == 0


@both_slowly
def test_a_stopped_load_has_counted_everything_that_it_stored(
    tmp_path: Path, servers: Servers, long_log: bytes, loader: Loader
) -> None:
    _, report = load_until_signal(tmp_path, servers, long_log, loader, signal.SIGTERM)
    assert report["totals"]["stored"] == len(contents(servers))  # no key comes twice


def load_until_signal(
    directory: Path, servers: Servers, long_log: bytes, loader: Loader, number: signal.Signals
) -> tuple[Finished, dict[str, Any]]:
    """Load three files, and send the signal in the middle of the second; return the report too."""
    write_gz(directory / "a.gz", numbered(100))
    write_gz(directory / "b.gz", long_log)
    write_gz(directory / "c.gz", numbered(10, prefix="last"))
    path = directory / "report.json"
    with Running(loader, directory / "*.gz", *addresses(servers), "--report", str(path)) as running:
        running.wait_for(r"Processing .*/b\.gz")
        running.send(number)
        finished = running.finish()
    report = json.loads(path.read_bytes())
    check_sums(report)
    return finished, report


@both_loaders
@both_signals
def test_a_second_signal_stops_at_once(tmp_path: Path, loader: Loader, number: signal.Signals, exit_code: int) -> None:
    write_gz(tmp_path / "a.gz", numbered(100))
    with silent_server() as (address, listening):
        options = [*everywhere(address), "--timeout", "600", "--retries", "100"]
        with Running(loader, tmp_path / "*.gz", *options, "--report", "-") as running:
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(1)  # now the loader waits for a reply that will never come
                running.send_until_it_ends(number)  # two that come together may count as one
                finished = running.finish()
    assert (finished.exit_code, finished.output) == (exit_code, "")  # without a report
    assert names(tmp_path) == ["a.gz"]


INTERRUPTED_WHILE_IMPORTING = """
import os, runpy, signal, sys
script, count, *arguments = sys.argv[1:]

class Interrupt:
    left = int(count)

    def find_spec(self, name, path=None, target=None):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("count", [20, 40, 60, 80])
@pytest.mark.parametrize("script", ["memc_load.py", "memc_load_parallel.py"])
def test_an_interrupt_amid_the_imports_ends_a_load_without_a_word(tmp_path: Path, script: str, count: int) -> None:
    (tmp_path / "a").write_bytes(numbered(1))
    command = [sys.executable, "-c", INTERRUPTED_WHILE_IMPORTING, script, str(count)]
    arguments = ["--dry", "--pattern", f"{tmp_path}/*"]
    environment = {**os.environ, "PYTHONPATH": "."}
    ended = subprocess.run([*command, *arguments], cwd=PROJECT, env=environment, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("script", ["memc_load.py", "memc_load_parallel.py"])
def test_python_may_leave_out_docstrings(tmp_path: Path, script: str) -> None:
    (tmp_path / "a").write_bytes(numbered(3))
    command = [sys.executable, "-OO", script, "--dry", "--pattern", f"{tmp_path}/*"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "3 records" in ended.stderr
