"""Consoles and streams that are closed, full, gone or odd: the load goes on, and all that it leaves is written."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.outside.loading import (
    DEFAULT,
    PATIENCE,
    PROJECT,
    REFERENCE,
    Loader,
    Running,
    own_environ,
    run,
)
from tests.outside.logs import Inbox, make_inbox, numbered
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.spec import expected

both_commands = pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])
SECONDS = ("--max-rate", "300")  # a load of the inbox takes one and a half


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return make_inbox(tmp_path / "inbox", [numbered(400, prefix=f"{n}-") + b"rejected\n" for n in range(2)])


def outputs(directory: Path) -> list[str]:
    """Return the options that have everything written that can be."""
    return [
        *("--log", str(directory / "log"), "--report", str(directory / "report.json")),
        *("--metrics", str(directory / "load.prom")),
    ]


def assert_written(directory: Path, inbox: Inbox, servers: Servers) -> None:
    """Check that a load came to a good end, and that log, report and metrics say so."""
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items
    assert "exit code 0" in (directory / "log").read_text().splitlines()[-1]
    assert json.loads((directory / "report.json").read_bytes())["totals"]["stored"] == 800
    assert "memc_load_last_success_timestamp_seconds" in (directory / "load.prom").read_text()


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-", "2>/dev/full >/dev/full", ">&-"])
@both_commands
def test_standard_streams_are_not_needed(
    inbox: Inbox, tmp_path: Path, servers: Servers, loader: Loader, streams: str
) -> None:
    prefix = ("sh", "-c", f'exec "$@" {streams}', "streams")
    finished = run(loader, inbox.pattern, *addresses(servers), *outputs(tmp_path), prefix=prefix)
    assert finished.exit_code == 0
    assert_written(tmp_path, inbox, servers)


@pytest.mark.parametrize("stream", [">&-", ">/dev/full"])
@both_commands
def test_a_report_that_standard_output_can_not_take_fails_the_run_after_the_load(
    inbox: Inbox, tmp_path: Path, servers: Servers, loader: Loader, stream: str
) -> None:
    prefix = ("sh", "-c", f'exec "$@" {stream}', "streams")
    options = ("--report", "-", "--metrics", str(tmp_path / "load.prom"))
    finished = run(loader, inbox.pattern, *addresses(servers), *options, prefix=prefix)
    assert finished.exit_code == 1
    assert finished.says("report", "E")
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items
    assert (tmp_path / "load.prom").exists()


@pytest.mark.parametrize("log", [True, False], ids=["with a log", "without"])
@both_commands
def test_a_terminal_that_goes_away_does_not_stop_a_load(
    inbox: Inbox, tmp_path: Path, servers: Servers, loader: Loader, log: bool
) -> None:
    options = outputs(tmp_path)[0 if log else 2 :]
    master, slave = pty.openpty()
    command = [sys.executable, str(PROJECT / loader[0]), *loader[1:], "--pattern", str(inbox.pattern)]
    with subprocess.Popen(
        [*command, *addresses(servers), *options, *SECONDS],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**own_environ(), "TERM": "xterm"},
        start_new_session=True,  # so that it gets no SIGHUP: that is another thing, and up to nohup
    ) as process:
        os.close(slave)
        seen = b""
        while b"records" not in seen or b"%" not in seen:
            seen += os.read(master, 1 << 16)
        os.close(master)
        exit_code = process.wait(PATIENCE)
    assert exit_code == 0
    assert inbox.waiting() == []
    assert json.loads((tmp_path / "report.json").read_bytes())["totals"]["stored"] == 800
    if log:
        assert_written(tmp_path, inbox, servers)


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "0"},
        {"COLUMNS": "1"},
        {"COLUMNS": "many", "TERM": "dumb", "NO_COLOR": "1"},
    ],
    ids=str,
)
@both_commands
def test_help_is_shown_wherever(loader: Loader, environ: dict[str, str]) -> None:
    finished = run(loader, None, "--help", environ={**own_environ(), **environ})
    assert (finished.exit_code, finished.log) == (0, [])
    assert "--pattern" in finished.output
    assert "Traceback" not in finished.output


def shown(command: Sequence[str], environ: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and everything that it wrote there."""
    master, slave = pty.openpty()
    surroundings = {name: value for name, value in own_environ().items() if name not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env={**surroundings, **environ}) as process:
        os.close(slave)
        text = b""
        with contextlib.suppress(OSError):  # the end
            while data := os.read(master, 1 << 16):
                text += data
        os.close(master)
        return process.wait(PATIENCE), text.decode(errors="replace")


@pytest.mark.parametrize(
    "environ",
    [
        {"TERM": "xterm", "COLUMNS": "0"},
        {"TERM": "dumb"},
        {"TERM": "xterm", "NO_COLOR": "1"},
        {"TERM": "xterm", "PYTHONIOENCODING": "ascii"},
        {"TERM": "", "COLUMNS": "-5", "LINES": "0"},
    ],
    ids=str,
)
@both_commands
def test_any_terminal_shows_the_load(inbox: Inbox, servers: Servers, loader: Loader, environ: dict[str, str]) -> None:
    command = [sys.executable, str(PROJECT / loader[0]), *loader[1:], "--pattern", str(inbox.pattern)]
    exit_code, text = shown([*command, *addresses(servers), "--max-rate", "2000"], environ)
    assert exit_code == 0
    assert inbox.waiting() == []
    for words in ("Processing", "done", "idfa", "800", "exit code 0"):
        assert words in text
    if environ["TERM"] == "dumb":
        assert "\x1b" not in text
    if "NO_COLOR" in environ:
        assert "\x1b[3" not in text
    if "PYTHONIOENCODING" in environ:
        assert text.isascii()


@both_commands
def test_a_signal_that_was_ignored_stays_ignored(inbox: Inbox, servers: Servers, loader: Loader) -> None:
    prefix = ("sh", "-c", "trap '' INT; exec \"$@\"", "nohup")
    with Running(loader, inbox.pattern, *addresses(servers), *SECONDS, prefix=prefix) as running:
        running.wait_for("Processing")
        for _ in range(3):
            running.send(signal.SIGINT)
            time.sleep(0.1)
        assert running.finish().exit_code == 0
    assert inbox.waiting() == []


# --- pipes --------------------------------------------------------------------------------------


@both_commands
def test_pipes_that_somebody_reads_get_report_and_metrics(
    inbox: Inbox, tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    options, readers = [], {}
    for option in ("--report", "--metrics"):
        pipe = tmp_path / option
        os.mkfifo(pipe)
        readers[option] = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
        options += [option, str(pipe)]
    finished = run(loader, inbox.pattern, *addresses(servers), *options)
    read = {option: reader.communicate(timeout=PATIENCE)[0] for option, reader in readers.items()}
    assert finished.exit_code == 0
    assert json.loads(read["--report"])["totals"]["stored"] == 800
    assert b"memc_load_" in read["--metrics"]
    assert (tmp_path / "--metrics").is_fifo()


@both_commands
def test_pipes_that_nobody_reads_hang_nothing(inbox: Inbox, tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for name in ("report", "metrics"):
        os.mkfifo(tmp_path / name)
    options = ["--report", str(tmp_path / "report"), "--metrics", str(tmp_path / "metrics")]
    started = time.monotonic()
    finished = run(loader, inbox.pattern, *addresses(servers), *options)
    assert time.monotonic() - started < 15
    assert finished.exit_code == 1
    assert finished.says(str(tmp_path / "report"), "E")
    assert finished.says(str(tmp_path / "metrics"), "E")
    assert inbox.waiting() == []


@both_commands
def test_what_lies_in_a_pipe_is_left_there(inbox: Inbox, tmp_path: Path, servers: Servers, loader: Loader) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        os.write(pipe, b"memc_load_last_success_timestamp_seconds 1\n")
        finished = run(loader, inbox.pattern, *addresses(servers), "--metrics", str(tmp_path / "pipe"))
        fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_NONBLOCK)
        text = os.read(pipe, 1 << 20)
    finally:
        os.close(pipe)
    assert finished.exit_code == 0
    assert text.startswith(b"memc_load_last_success_timestamp_seconds 1\n")
    assert text.count(b"\nmemc_load_last_success_timestamp_seconds ") == 1


# --- metrics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
@both_commands
def test_the_directory_of_another_program_s_metrics_is_left_alone(
    inbox: Inbox, tmp_path: Path, servers: Servers, loader: Loader, exists: bool
) -> None:
    other = tmp_path / "other"
    if exists:
        other.mkdir()
    environ = {**own_environ(), "PROMETHEUS_MULTIPROC_DIR": str(other), "prometheus_multiproc_dir": str(other)}
    finished = run(loader, inbox.pattern, *addresses(servers), *outputs(tmp_path), environ=environ)
    assert (finished.exit_code, finished.log) == (0, [])
    assert list(other.iterdir()) == [] if exists else not other.exists()
    assert_written(tmp_path, inbox, servers)


@both_commands
def test_a_directory_that_is_missing_is_no_success(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    finished = run(loader, f"{tmp_path}/missing/*.gz", *addresses(servers), *outputs(tmp_path))
    assert finished.exit_code == 1
    assert "missing" in (tmp_path / "log").read_text()
    assert json.loads((tmp_path / "report.json").read_bytes())["exit_code"] == 1
    metrics = (tmp_path / "load.prom").read_text()
    assert "\nmemc_load_last_success_timestamp_seconds " not in metrics
    (tmp_path / "there").mkdir()
    assert run(loader, f"{tmp_path}/there/*.gz", *addresses(servers), *outputs(tmp_path)).exit_code == 0
    assert "\nmemc_load_last_success_timestamp_seconds " in (tmp_path / "load.prom").read_text()


@pytest.mark.parametrize("option", ["--report", "--metrics", "--log"])
@both_commands
def test_a_relative_path_in_a_directory_that_is_gone_is_wrong_usage(
    inbox: Inbox, tmp_path: Path, servers: Servers, loader: Loader, option: str
) -> None:
    (tmp_path / "gone").mkdir()
    prefix = ("sh", "-c", f'cd {tmp_path}/gone && rmdir ../gone && exec "$@"', "gone")
    finished = run(loader, inbox.pattern, *addresses(servers), option, "file", prefix=prefix)
    assert finished.exit_code == 2
    assert len(finished.log) == 1
    assert option in finished.log[0]
    assert inbox.renamed() == []
