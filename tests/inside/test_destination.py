"""Reports and metrics go anywhere: whole into files, as they are into pipes and devices, and never wait for ever."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from memcload.output import destination
from memcload.output.destination import read_file, write_file, write_standard_output

PROJECT = Path(__file__).resolve().parents[2]
LONG = "line\n" * 100_000


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "short\n", LONG, "é … \udcff"])
def test_a_file_has_all_of_the_text_and_can_be_read_by_others(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report"
    for _ in range(2):
        write_file(str(path), text)
        assert path.read_bytes() == text.encode("utf-8", "backslashreplace")
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["report"]


def test_a_relative_path_is_one_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_file("report", "text")
    assert (tmp_path / "report").read_text() == "text"


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("report")
    for text in ("one", "two"):
        write_file(str(tmp_path / "link"), text)
        assert (tmp_path / "report").read_text() == text
    assert (tmp_path / "link").is_symlink()


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("ы" * 127)
    write_file(str(path), "text")
    assert path.read_text() == "text"


def test_who_reads_meanwhile_sees_the_old_text_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "report"
    write_file(str(path), LONG)
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.add(path.read_text())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(30):
        write_file(str(path), LONG.upper() if number % 2 else LONG)
    ended.set()
    watcher.join()
    assert seen <= {LONG, LONG.upper()}


@pytest.mark.parametrize("name", ["missing/report", ".", "file/report"])
def test_a_path_that_can_not_be_written_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"No such file|directory"):
        write_file(str(tmp_path / name), "text")
    assert os.listdir(tmp_path) == ["file"]


# --- pipes and devices --------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_pipe_passes_on_all_of_the_text(pipe: Path) -> None:
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    deadline = time.monotonic() + 30
    while True:  # until it is open
        try:
            write_file(str(pipe), LONG)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    reader.join()
    assert received == [LONG]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_has_open_is_an_error(pipe: Path) -> None:
    with pytest.raises(OSError, match="nobody reads it"):
        write_file(str(pipe), "text")


def test_a_pipe_whose_reader_sleeps_is_an_error(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination, "_STALL", 0.3)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="nobody reads it"):
        write_file(str(pipe), LONG)
    os.close(reader)


def test_a_reader_may_be_slow(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination, "_STALL", 0.5)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = threading.Thread(target=write_file, args=(str(pipe), LONG))
    writer.start()
    received = 0
    while received < len(LONG):
        time.sleep(0.1)
        received += len(os.read(reader, 65536))
    writer.join()
    os.close(reader)


def test_a_reader_that_goes_away_is_an_error(pipe: Path) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    timer = threading.Timer(0.2, os.close, [reader])
    timer.start()
    with pytest.raises(BrokenPipeError):
        write_file(str(pipe), LONG)


def test_a_device_is_written_to_as_it_is() -> None:
    write_file("/dev/null", LONG)
    with pytest.raises(OSError, match="No space left"):
        write_file("/dev/full", LONG)


def test_what_is_in_a_pipe_is_not_read(pipe: Path, tmp_path: Path) -> None:
    holder = os.open(pipe, os.O_RDWR)
    os.write(holder, b"of somebody else")
    assert read_file(str(pipe), 1000) == b""
    assert os.read(holder, 1000) == b"of somebody else"
    os.close(holder)
    assert read_file(str(tmp_path), 1000) == read_file(str(tmp_path / "missing"), 1000) == b""
    (tmp_path / "file").write_bytes(b"text")
    assert read_file(str(tmp_path / "file"), 3) == b"tex"


# --- standard output ----------------------------------------------------------------------------

PROGRAM = """
import sys
from memcload.output.destination import *
try:
    write = write_standard_output if sys.argv[1] == "stream" else lambda text: write_file("/dev/stdout", text)
    write("text\\n" * 50_000)
except OSError as error:
    print(error.strerror, file=sys.stderr)
"""


@pytest.mark.parametrize("way", ["stream", "path"])
@pytest.mark.parametrize(
    ("shell", "said"),
    [("| cat", ""), (">file; cat file", ""), (">/dev/full", "No space left on device"), ("| true", "Broken pipe")],
)
def test_standard_output_gets_all_of_the_text_or_that_is_an_error(
    way: str, shell: str, said: str, tmp_path: Path
) -> None:
    command = f'"$0" -c "$1" {way} {shell}'
    process = subprocess.run(
        ["sh", "-c", command, sys.executable, PROGRAM],
        capture_output=True,
        timeout=30,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert process.stdout == (b"" if said else b"text\n" * 50_000)
    assert process.stderr.decode().strip() == said


def test_standard_output_that_is_closed_is_an_error() -> None:
    command = ["sh", "-c", 'exec "$0" -c "$1" stream >&-', sys.executable, PROGRAM]
    process = subprocess.run(command, capture_output=True, timeout=30, check=True, cwd=PROJECT)
    assert process.stderr == b"standard output is closed\n"


def test_a_notebook_gets_the_text_in_its_own_stream(capsys: pytest.CaptureFixture[str]) -> None:
    write_standard_output("text")
    assert capsys.readouterr().out == "text"
