"""The directory that logs arrive in: what is found there, who holds it, and what is renamed to what."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from memcload.inbox import (
    DirectoryHeld,
    dot_rename,
    find_logs,
    free_name,
    hold_directories,
    is_done,
    is_writable,
    set_aside,
    written_whole,
)

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in an empty directory of its own."""
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(os.fsencode(name))


def names() -> list[str]:
    return sorted(os.listdir())


# --- finding ------------------------------------------------------------------------------------


def test_logs_are_found_in_the_order_of_their_names() -> None:
    touch("20170929000200.tsv.gz", "20170929000000.tsv.gz", "20170929000100.tsv.gz", "10.tsv.gz", "9.tsv.gz", "a.txt")
    assert find_logs("./*.tsv.gz") == [
        "./10.tsv.gz",
        "./20170929000000.tsv.gz",
        "./20170929000100.tsv.gz",
        "./20170929000200.tsv.gz",
        "./9.tsv.gz",
    ]


def test_the_order_is_the_one_of_the_bytes_of_the_names() -> None:
    touch("b", "B", "a", "é", "z", "😀", "\udcff")
    assert find_logs("*") == ["B", "a", "b", "z", "é", "😀", "\udcff"]


@pytest.mark.parametrize("pattern", ["*", ".*", "**", "*.gz*", ".a.gz", "./.a.gz", "[.]a.gz", "**/.a.gz", "?a.gz"])
def test_names_that_start_with_a_dot_are_never_found(pattern: str) -> None:
    touch(".a.gz", ".a.gz.1", "sub/.a.gz")
    assert find_logs(pattern) == []


def test_two_stars_reach_into_subdirectories() -> None:
    touch("a.gz", "x/b.gz", "x/y/c.gz", "x/y/c.txt", "x/y/.d.gz")
    assert find_logs("**/*.gz") == ["a.gz", "x/b.gz", "x/y/c.gz"]
    assert find_logs("x/**") == ["x/b.gz", "x/y/c.gz", "x/y/c.txt"]


def test_no_file_is_found_twice() -> None:
    touch("a.gz", "x/y/b.gz")
    assert find_logs("**/**/*.gz") == ["a.gz", "x/y/b.gz"]


def test_directories_are_no_logs() -> None:
    touch("sub.gz/a.gz", "b.gz")
    assert find_logs("*.gz") == ["b.gz"]


def test_a_name_may_hold_anything() -> None:
    strange = ["a b.gz", "line\nfeed.gz", "tab\t.gz", "\udcff\udc80.gz", "日本.gz", "'\"$(x).gz", "-l.gz", "[1].gz"]
    touch(*strange)
    assert find_logs("*.gz") == sorted(strange, key=os.fsencode)


def test_question_marks_and_brackets_are_of_the_shell() -> None:
    touch("a1", "a2", "a3", "b1")
    assert find_logs("a?") == ["a1", "a2", "a3"]
    assert find_logs("a[13]") == ["a1", "a3"]
    assert find_logs("a[!13]") == ["a2"]


@pytest.mark.parametrize("pattern", ["*.gz", "missing/*.gz", "missing.gz", ""])
def test_nothing_is_found_where_nothing_matches(pattern: str) -> None:
    assert find_logs(pattern) == []


def test_done_files_are_found_when_asked_for_in_the_order_in_which_they_were_loaded() -> None:
    touch("b.gz", ".b.gz", ".b.gz.1", ".b.gz.2", ".b.gz.10", ".a.gz", "c.gz", ".c.txt", ".c.txt.1")
    paths = ["./.a.gz", "./.b.gz", "./.b.gz.1", "./.b.gz.2", "./.b.gz.10", "./b.gz", "./c.gz"]
    assert find_logs("./*.gz", with_done=True) == paths
    assert [is_done(path) for path in paths] == [True, True, True, True, True, False, False]


@pytest.mark.parametrize("pattern", ["*", "*.gz", "a*"])
def test_what_else_starts_with_a_dot_is_no_done_file(pattern: str) -> None:
    touch(*(f".a.gz{suffix}" for suffix in (".damaged", ".damaged.1", ".rejects.tsv", ".rejects.tsv.2", ".xyz.part")))
    os.mkdir(".a.gz")
    assert find_logs(pattern, with_done=True) == []


@pytest.mark.parametrize("name", ["a b.gz", "line\nfeed.gz", "\udcff.gz", "20170929.1.gz"])
def test_a_done_file_is_found_by_the_name_that_it_had(name: str) -> None:
    touch(name)
    for _ in range(2):
        done = dot_rename(name)
        assert find_logs("*.gz", with_done=True)[-1] == done
        touch(name)


# --- holding ------------------------------------------------------------------------------------

HOLDER = (
    "import sys; from memcload.inbox import *\n"
    "with hold_directories(sys.argv[1:]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextmanager
def another_process_holds(*paths: str) -> Iterator[subprocess.Popen[bytes]]:
    """Let a second process hold the directories of these files until the end of the `with` block."""
    command = [sys.executable, "-c", HOLDER, *paths]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process


def test_what_is_held_are_the_directories_of_the_files() -> None:
    touch("a", "b", "x/c", "x/d", "x/y/e")
    with hold_directories(["a", "b", "x/c", "x/d", "x/y/e"]) as held:
        assert held == {"", "x", "x/y"}


def test_a_second_holder_is_refused_and_told_who_the_first_is() -> None:
    touch("x/a")
    with (
        another_process_holds("x/a") as holder,
        pytest.raises(DirectoryHeld, match=rf"^x: process {holder.pid} "),
        hold_directories(["x/a"]),
    ):
        pass


def test_one_directory_of_several_that_is_held_is_enough_to_be_refused() -> None:
    touch("x/a", "y/a")
    with another_process_holds("y/a"):
        with pytest.raises(DirectoryHeld, match=r"^y: "), hold_directories(["x/a", "y/a"]):
            pass
        with hold_directories(["x/a"]):  # was let go again
            pass


def test_the_directory_is_held_by_whatever_name() -> None:
    touch("x/a")
    os.symlink("x", "link")
    with another_process_holds("x/a"), pytest.raises(DirectoryHeld), hold_directories(["link/a"]):
        pass


def test_one_run_may_reach_a_directory_by_two_names() -> None:
    touch("x/a")
    os.symlink("x", "link")
    with hold_directories(find_logs("**/a")):
        pass


def test_other_directories_can_be_held_meanwhile() -> None:
    touch("x/a", "y/a")
    with another_process_holds("x/a"), hold_directories(["y/a"]):
        pass


def test_holding_leaves_no_file_behind() -> None:
    touch("x/a")
    with another_process_holds("x/a"):
        assert os.listdir("x") == ["a"]
    assert os.listdir("x") == ["a"]
    assert names() == ["x"]


def test_a_directory_is_let_go_at_the_end_of_the_context() -> None:
    touch("a")
    for _ in range(2):
        with hold_directories(["a"]):
            pass
    with another_process_holds("a"):
        pass


def test_a_directory_is_let_go_when_the_context_ends_in_an_error() -> None:
    touch("a")
    with pytest.raises(ZeroDivisionError), hold_directories(["a"]):
        raise ZeroDivisionError
    with another_process_holds("a"):
        pass


def test_a_killed_holder_holds_nothing() -> None:
    touch("a")
    with another_process_holds("a") as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with hold_directories(["a"]):
            pass
    assert names() == ["a"]


def test_no_descriptor_is_left_open() -> None:
    touch("x/a", "y/a", "z/a")
    before = os.listdir("/proc/self/fd")
    with hold_directories(["x/a", "z/a"]):
        pass
    with another_process_holds("y/a"), pytest.raises(DirectoryHeld), hold_directories(["x/a", "y/a", "z/a"]):
        pass
    assert os.listdir("/proc/self/fd") == before


def test_a_directory_that_is_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="gone"), hold_directories(["gone/a"]):
        pass


# --- renaming -----------------------------------------------------------------------------------


def test_a_file_that_is_done_gets_a_dot_before_its_name() -> None:
    touch("x/a.tsv.gz")
    assert dot_rename("x/a.tsv.gz") == "x/.a.tsv.gz"
    assert os.listdir("x") == [".a.tsv.gz"]


def test_a_damaged_file_is_set_aside() -> None:
    touch("x/a.tsv.gz")
    assert set_aside("x/a.tsv.gz") == "x/.a.tsv.gz.damaged"
    assert os.listdir("x") == [".a.tsv.gz.damaged"]


@pytest.mark.parametrize(("rename", "first"), [(dot_rename, ".a"), (set_aside, ".a.damaged")])
def test_an_existing_file_is_never_overwritten(rename: Callable[[str], str], first: str) -> None:
    for number in range(4):
        Path("a").write_text(f"{number}")
        assert rename("a") == (f"{first}.{number}" if number else first)
    assert [Path(name).read_text() for name in (first, f"{first}.1", f"{first}.2", f"{first}.3")] == list("0123")


def test_neither_is_a_directory_nor_a_link_that_leads_nowhere() -> None:
    os.mkdir(".a")
    os.symlink("nowhere", ".a.1")
    touch("a")
    assert dot_rename("a") == ".a.2"
    assert names() == [".a", ".a.1", ".a.2"]


def test_any_name_can_be_renamed() -> None:
    for name in ("a b", "line\nfeed", "\udcff", "日本"):
        touch(name)
        assert dot_rename(name) == f".{name}"


def test_a_vanished_file_can_not_be_renamed() -> None:
    for rename in (dot_rename, set_aside):
        with pytest.raises(FileNotFoundError):
            rename("gone")
    assert names() == []


def test_a_name_that_is_free_is_taken_as_it_is() -> None:
    touch("b", "c", "c.1", "c.3")
    assert [free_name(name) for name in "abc"] == ["a", "b.1", "c.2"]


# --- writing ------------------------------------------------------------------------------------


def test_a_written_file_appears_when_it_is_whole() -> None:
    touch("report")
    with written_whole("report") as file:
        file.write(b"new " * 100_000)
        file.flush()
        assert Path("report").read_bytes() == b"report"
    assert Path("report").read_bytes() == b"new " * 100_000
    assert names() == ["report"]


def test_what_is_being_written_is_no_input() -> None:
    with written_whole("report.tsv.gz"):
        assert len(names()) == 1
        assert find_logs("*") == []


def test_a_failed_write_leaves_everything_as_it_was() -> None:
    touch("report")
    with suppress(ZeroDivisionError), written_whole("report") as file:
        file.write(b"half of it")
        raise ZeroDivisionError
    assert (names(), Path("report").read_bytes()) == (["report"], b"report")


def test_a_file_that_can_not_take_its_place_is_not_left_behind() -> None:
    os.mkdir("report")
    with pytest.raises(IsADirectoryError), written_whole("report"):
        pass
    assert names() == ["report"]


def test_a_missing_directory_is_an_error() -> None:
    with pytest.raises(FileNotFoundError), written_whole("missing/report"):
        pass


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666])
def test_a_written_file_has_the_mode_that_was_asked_for(mode: int) -> None:
    with written_whole("report", mode):
        pass
    assert stat.S_IMODE(os.stat("report").st_mode) == mode


def test_a_written_file_can_be_read_by_all_unless_asked_otherwise() -> None:
    with written_whole("report"):
        pass
    assert stat.S_IMODE(os.stat("report").st_mode) == 0o644


@pytest.mark.parametrize("name", ["a" * 255, "ж" * 127, "日" * 85], ids=["ascii", "cyrillic", "kanji"])
def test_a_name_may_be_as_long_as_the_system_allows(name: str) -> None:
    with written_whole(name):
        pass
    assert names() == [name]


# --- may it be renamed? -------------------------------------------------------------------------


def test_a_directory_of_ones_own_is_writable() -> None:
    assert is_writable("")
    assert is_writable(os.getcwd())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_directory_without_permission_to_write_is_not_writable() -> None:
    os.mkdir("x", 0o500)
    assert not is_writable("x")


def test_a_directory_that_is_missing_or_the_kernels_is_not_writable() -> None:
    assert not is_writable("missing")
    assert not is_writable("/proc/self")
