"""Rejected lines are saved beside their file: number, reason and the line as it was."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from memcload.counts import Reject
from memcload.records import MAX_LINE_LENGTH, InvalidLine, Reason, is_blank, parse_appsinstalled, strip_line_ending
from memcload.source.rejects import Rejects

NAME = "20170929000000.tsv.gz"
LIMIT = 1_000_000
PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log file whose lines are rejected."""
    path = tmp_path / NAME
    path.write_bytes(b"")
    path.chmod(0o640)
    return path


@pytest.fixture
def rejects(log: Path) -> Iterator[Rejects]:
    with closing(Rejects(NAME, str(log.parent), LIMIT)) as rejects:
        yield rejects


def reject(line: bytes, reason: Reason = "columns") -> Reject:
    return Reject(0, reason, line)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_a_row_is_line_number_reason_and_line(rejects: Rejects, log: Path) -> None:
    rejects.add(3, reject(b"idfa\t1\tnan\t1\t1", "coordinates"))
    rejects.add(17, reject(b"no columns", "columns"))
    rejects.add(10_270_000, reject(b"ifda\t1\t1\t1\t1", "device_type"))
    assert rejects.save(log.stat().st_mode) == str(log.with_name(f".{NAME}.rejects.tsv"))
    assert log.with_name(f".{NAME}.rejects.tsv").read_bytes() == (
        b"3\tcoordinates\tidfa\t1\tnan\t1\t1\n"
        b"17\tcolumns\tno columns\n"
        b"10270000\tdevice_type\tifda\t1\t1\t1\t1\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    "line", [b"", b"\t\t", b"carriage return\r", b"\x00\xff\x1b[31m", bytes(set(range(256)) - {10})]
)
def test_a_line_is_saved_as_it_was(rejects: Rejects, log: Path, line: bytes) -> None:
    rejects.add(1, reject(line))
    saved = rejects.save(log.stat().st_mode)
    assert saved is not None
    assert Path(saved).read_bytes() == b"1\tcolumns\t" + line + b"\n"


def test_what_cut_makes_of_the_file_loads_again_once_it_is_mended(rejects: Rejects, log: Path) -> None:
    spoiled = [b"idfa\t1\tnan\t1\t1", b"idfa\t2\tnan\t1\t1\r", b"gaid\t3\t1\tnan\t1,x"]
    for number, line in enumerate(spoiled, 1):
        rejects.add(number, reject(line, "coordinates"))
    saved = rejects.save(log.stat().st_mode)
    cut = subprocess.run(["cut", "-f3-", str(saved)], stdout=subprocess.PIPE, check=True).stdout
    assert cut == b"".join(line + b"\n" for line in spoiled)
    mended = [strip_line_ending(line) for line in cut.replace(b"nan", b"0.5").splitlines(keepends=True)]
    assert [parse_appsinstalled(line).key for line in mended] == [b"idfa:1", b"idfa:2", b"gaid:3"]


def test_without_rejects_there_is_no_file(rejects: Rejects, log: Path) -> None:
    assert rejects.save(log.stat().st_mode) is None
    assert names(log.parent) == [NAME]


def test_until_they_are_saved_there_is_no_file_of_that_name_and_none_is_left(rejects: Rejects, log: Path) -> None:
    for number in range(10_000):
        rejects.add(number, reject(b"x" * 100))
    assert [name for name in names(log.parent) if not name.endswith(".part")] == [NAME]
    rejects.close()
    assert names(log.parent) == [NAME]


def test_saving_leaves_nothing_else_behind(rejects: Rejects, log: Path) -> None:
    for number in range(10_000):
        rejects.add(number, reject(b"x" * 100))
    saved = rejects.save(log.stat().st_mode)
    rejects.close()
    assert saved is not None
    assert names(log.parent) == [os.path.basename(saved), NAME]
    assert Path(saved).read_bytes().count(b"\n") == 10_000


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors can't be counted here")
def test_no_file_is_open_between_two_calls(rejects: Rejects, log: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5000):
        rejects.add(number, reject(b"x" * 1000))
        if not number % 1000:
            assert len(os.listdir("/proc/self/fd")) == before
    rejects.save(log.stat().st_mode)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_beyond_the_limit_they_are_only_counted(log: Path, limit: int) -> None:
    with closing(Rejects(NAME, str(log.parent), limit)) as rejects:
        for number in range(5):
            rejects.add(number, reject(b"x"))
        assert rejects.dropped == 5 - limit
        saved = rejects.save(log.stat().st_mode)
    assert (saved is None) == (limit == 0)
    if saved:
        assert Path(saved).read_bytes() == b"".join(b"%d\tcolumns\tx\n" % number for number in range(limit))


SAVER = """
import os, sys
from memcload.counts import Reject
from memcload.source.rejects import Rejects
sys.stdin.read()
for number in range(50):
    rejects = Rejects(os.path.basename(sys.argv[1]), os.path.dirname(sys.argv[1]), 10)
    rejects.add(number, Reject(0, "columns", sys.argv[2].encode()))
    rejects.save(os.stat(sys.argv[1]).st_mode)
"""


def test_processes_that_save_at_once_never_overwrite_each_other(log: Path) -> None:
    command = [sys.executable, "-c", SAVER, str(log)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    savers = [
        subprocess.Popen([*command, name], env=environment, stdin=subprocess.PIPE) for name in ("one", "two", "three")
    ]
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.close()  # and now they start
    assert [saver.wait() for saver in savers] == [0, 0, 0]
    saved = [path.read_bytes() for path in log.parent.glob(".*")]
    assert sorted(saved) == sorted(
        b"%d\tcolumns\t%b\n" % (number, name) for number in range(50) for name in (b"one", b"two", b"three")
    )


def test_a_long_name_is_cut_to_make_room(tmp_path: Path) -> None:
    longest = tmp_path / ("x" * 255)
    longest.write_bytes(b"")
    for _ in range(2):
        with closing(Rejects(longest.name, str(tmp_path), LIMIT)) as rejects:
            rejects.add(1, reject(b"x"))
            saved = rejects.save(longest.stat().st_mode)
        assert saved is not None
        assert ".rejects.tsv" in saved
    assert len(names(tmp_path)) == 3


def test_an_existing_file_is_never_overwritten(log: Path) -> None:
    for number in (1, 2, 3):
        with closing(Rejects(NAME, str(log.parent), LIMIT)) as rejects:
            rejects.add(number, reject(b"x"))
            rejects.save(log.stat().st_mode)
    saved = [log.with_name(f".{NAME}.rejects.tsv{number}") for number in ("", ".1", ".2")]
    assert [path.read_bytes() for path in saved] == [b"1\tcolumns\tx\n", b"2\tcolumns\tx\n", b"3\tcolumns\tx\n"]


def test_they_can_be_saved_elsewhere(log: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with closing(Rejects(NAME, str(elsewhere), LIMIT)) as rejects:
        rejects.add(1, reject(b"x"))
        assert rejects.save(log.stat().st_mode) == f"{elsewhere}/.{NAME}.rejects.tsv"
    assert names(elsewhere) == [f".{NAME}.rejects.tsv"]
    assert names(tmp_path) == [NAME, "elsewhere"]


@pytest.mark.parametrize("name", ["a b.tsv", "line\nfeed.tsv", "\udcff.tsv"])
def test_the_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    with closing(Rejects(name, str(tmp_path), LIMIT)) as rejects:
        rejects.add(1, reject(b"x"))
        rejects.save(tmp_path.stat().st_mode)
    assert names(tmp_path) == [f".{name}.rejects.tsv"]


def test_a_file_of_the_current_directory_has_them_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Rejects(NAME, "", LIMIT)) as rejects:
        rejects.add(1, reject(b"x"))
        assert rejects.save(tmp_path.stat().st_mode) == f".{NAME}.rejects.tsv"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o755])
def test_who_can_read_the_log_can_read_its_rejects(rejects: Rejects, log: Path, mode: int) -> None:
    log.chmod(mode)
    rejects.add(1, reject(b"x"))
    saved = rejects.save(log.stat().st_mode)
    assert saved is not None
    assert stat.S_IMODE(os.stat(saved).st_mode) == mode & 0o666


# --- long lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [b"x" * (MAX_LINE_LENGTH + 1), b"x" * 3 * MAX_LINE_LENGTH, b"x" * (MAX_LINE_LENGTH + 1) + b"\r" * 9],
    ids=["by a byte", "by far", "ended"],
)
def test_a_long_line_is_cut_but_still_too_long(rejects: Rejects, log: Path, line: bytes) -> None:
    rejects.add(1, reject(line, "line_too_long"))
    saved = rejects.save(log.stat().st_mode)
    assert saved is not None
    kept = Path(saved).read_bytes().removeprefix(b"1\tline_too_long\t")
    assert line.startswith(kept.removesuffix(b"\n"))
    assert len(kept) <= MAX_LINE_LENGTH + 3
    with pytest.raises(InvalidLine, match="line_too_long"):
        parse_appsinstalled(strip_line_ending(kept))


def test_a_long_line_that_is_not_blank_does_not_become_blank(rejects: Rejects, log: Path) -> None:
    rejects.add(1, reject(b" " * 2 * MAX_LINE_LENGTH + b"x", "line_too_long"))
    saved = rejects.save(log.stat().st_mode)
    assert saved is not None
    assert not is_blank(strip_line_ending(Path(saved).read_bytes().removeprefix(b"1\tline_too_long\t")))


# --- memory -------------------------------------------------------------------------------------


def test_many_rejects_take_little_memory(rejects: Rejects, log: Path) -> None:
    tracemalloc.start()
    try:
        for number in range(40):
            rejects.add(number, reject(b"x" * MAX_LINE_LENGTH))
        saved = rejects.save(log.stat().st_mode)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saved is not None
    assert os.path.getsize(saved) > 40 * MAX_LINE_LENGTH
    assert peak < 8 * MAX_LINE_LENGTH


def test_millions_of_rejects_take_no_more_than_the_limit(log: Path) -> None:
    bad = reject(b"x" * 100)
    tracemalloc.start()
    try:
        with closing(Rejects(NAME, str(log.parent), 10_000)) as rejects:
            for number in range(400_000):
                rejects.add(number, bad)
            on_disk = sum(path.stat().st_size for path in log.parent.iterdir())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rejects.dropped == 390_000
    assert on_disk < 10_000 * 130
    assert peak < MAX_LINE_LENGTH


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with closing(Rejects(NAME, str(tmp_path / "gone"), LIMIT)) as rejects:
        rejects.add(1, reject(b"x"))
        with pytest.raises(FileNotFoundError):
            rejects.save(tmp_path.stat().st_mode)
