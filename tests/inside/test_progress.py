"""The progress of a load on real terminals of every kind, and what happens when they fail."""

from __future__ import annotations

import fcntl
import functools
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

# Reads half of the files and all of the options, in as many seconds as it is told; then ends with 7.
PROGRAM = """
import logging, sys, time
from memcload.cancel import Cancel
from memcload.log import LOG, log_failures, log_lines, start_logging
from memcload.output.progress import show_progress
from tests.inside.results import make_results

seconds, servers, log = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None

class Tracked:
    records_seen = rejects_seen = bytes_read = 0
    bytes_to_read = 524_288_000

tracked, cancel, results = Tracked(), Cancel(), make_results(servers)
start_logging(log, "info")
with show_progress(tracked, results.partitions, results.servers, cancel):
    results.servers["host2:1"].report(None, "retrying", "refused")
    tracked.bytes_read, tracked.records_seen, tracked.rejects_seen = 262_144_000, 1_234_567, 12_345
    time.sleep(seconds * 2 / 3)
    LOG.info("Processing /var/spool/appsinstalled/20170929000000.tsv.gz, which is one of many that came today")
    log_lines([(logging.WARNING, "one"), (logging.INFO, "two")])
    cancel.set()
    time.sleep(seconds / 3)
print(log_failures())
sys.exit(7)
"""
_SEQUENCE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


@dataclass
class Shown:
    """What a terminal was sent, and what the program said in the end."""

    raw: str
    output: str
    exit_code: int

    @property
    def rows(self) -> list[str]:
        """All rows that were ever shown, without colors."""
        return [row.rstrip() for row in re.split("[\r\n]+", _SEQUENCE.sub("", self.raw)) if row.strip()]


@functools.cache
def show(width: int = 80, *arguments: str, seconds: float = 1.5, servers: int = 1, **environ: str) -> Shown:
    """Run the program on a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    surroundings = {n: v for n, v in os.environ.items() if n not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-c", PROGRAM, str(seconds), str(servers), *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        cwd=PROJECT,
        env={**surroundings, "TERM": "xterm-256color", **environ},
    )
    os.close(slave)
    raw = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the program has ended
            break
        raw += data
    os.close(master)
    output, _ = process.communicate(timeout=30)
    return Shown(raw.decode(environ.get("PYTHONIOENCODING", "utf-8")), output.decode(), process.returncode)


def test_it_tells_percentage_bytes_time_left_records_rate_rejects_and_servers() -> None:
    rows = show().rows
    assert any(re.fullmatch(r"━{40}   50%  262\.1/524\.3 MB  0:00:01 left", row) for row in rows), rows
    assert any(re.fullmatch(r"1,234,567 records · [\d,]{7,9}/s · 12,345 rejected", row) for row in rows)
    assert "servers  idfa ok  gaid retrying  adid ok  dvid ok" in rows


def test_a_wide_terminal_has_it_in_a_row() -> None:
    rows = show(200).rows
    bar = r"━{40}   50%  262\.1/524\.3 MB  0:00:01 left  1,234,567 records · [\d,]+/s · 12,345 rejected"
    assert any(re.fullmatch(bar, row) for row in rows), rows


def test_of_several_servers_those_with_trouble_are_named() -> None:
    assert "servers  idfa 2 ok  idfa host2:1 retrying  gaid 3 ok  adid 3 ok  dvid 3 ok" in show(servers=3).rows


@pytest.mark.parametrize("width", [40, 60, 80, 110])
def test_no_row_is_too_long_and_columns_stay_apart(width: int) -> None:
    rows = show(width, seconds=1.2, servers=4).rows
    assert max(map(len, rows)) <= width
    assert any("records" in row for row in rows)
    assert not any(re.search(r"\dok|[a-z]ok\b|left\d|%\d|MB\d", row) for row in rows)


@pytest.mark.parametrize("width", [1, 39])
def test_below_40_characters_it_is_left_out(width: int) -> None:
    shown = show(width, seconds=0.1)
    assert "\x1b" not in shown.raw
    assert "records" not in shown.raw
    assert (shown.output, shown.exit_code) == ("0\n", 7)


def test_log_lines_above_it_break_between_words() -> None:
    rows = show(50).rows
    first = next(number for number, row in enumerate(rows) if "Processing" in row)
    assert rows[first : first + 3] == [
        rows[first][:22] + "I Processing",
        "/var/spool/appsinstalled/20170929000000.tsv.gz,",
        "which is one of many that came today",
    ]


def test_the_end_of_a_cancelled_load_is_announced() -> None:
    assert "Finishing what is in flight. Press Ctrl-C again to stop at once." in show().rows


def test_it_is_shown_once_a_second_at_most() -> None:
    refreshes = sum("MB" in row for row in show(seconds=3.3).rows)
    assert 3 <= refreshes <= 3 + 3 + 2  # by itself, with the three writes to the log, at the beginning and the end


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_few_letters_gets_no_others(encoding: str) -> None:
    shown = show(PYTHONIOENCODING=encoding)
    assert shown.raw.isascii()
    assert "\\" not in shown.raw
    assert "?" not in _SEQUENCE.sub("", shown.raw)
    assert any(re.fullmatch(r"-{20} {20}   50%  262\.1/524\.3 MB  0:00:01 left", row) for row in shown.rows)


def test_without_colors_there_are_none() -> None:
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", show(NO_COLOR="1").raw)
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", show().raw)


def test_a_dumb_terminal_gets_the_log_alone() -> None:
    shown = show(200, TERM="dumb")
    assert "\x1b" not in shown.raw
    assert all(row.startswith("[") for row in shown.rows)


@pytest.mark.parametrize("columns", ["0", "x"])
def test_a_wrong_number_of_columns_is_ignored(columns: str) -> None:
    assert any("262.1/524.3 MB" in row for row in show(COLUMNS=columns).rows)


def test_the_cursor_stays() -> None:
    shown = show()
    assert shown.raw.rindex("\x1b[?25h") > shown.raw.rfind("\x1b[?25l")
    assert shown.raw.index("\x1b[?25h") < shown.raw.index("MB")  # for a run that is killed


# --- where it can't be shown --------------------------------------------------------------------


@pytest.mark.parametrize(("shell", "failures"), [("2>/dev/null", 0), ("2>&-", 0), ("2>&- <&-", 0), ("2>/dev/full", 3)])
def test_what_is_no_terminal_gets_no_progress(shell: str, failures: int) -> None:
    command = ["sh", "-c", f'exec "$0" -c "$1" 0.1 1 {shell}', sys.executable, PROGRAM]
    process = subprocess.run(command, capture_output=True, timeout=30, check=False, cwd=PROJECT)
    assert (process.returncode, process.stderr) == (7, b"")
    assert process.stdout == b"%d\n" % (failures + 1 if failures else 0)


@pytest.mark.parametrize("log", [True, False])
def test_a_terminal_that_goes_away_stops_nothing(log: bool, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    path = [str(tmp_path / "log")] if log else []
    command = [sys.executable, "-c", PROGRAM, "3", "1", *path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, cwd=PROJECT) as process:
        os.close(slave)
        assert os.read(master, 10)  # it has begun
        os.close(master)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 7
    assert int(output) == 0 if log else int(output) >= 3
    if log:
        assert (tmp_path / "log").read_text().count("\n") == 4
