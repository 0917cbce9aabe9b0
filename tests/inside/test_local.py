"""The directories that logs arrive in: what is found there, who holds them, what is renamed to what."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memcload.source import linux
from memcload.source.holding import DirectoryHeld, NoLocks
from memcload.source.local import LocalFile, LocalSource, dot_rename, set_aside
from memcload.source.names import claim_name, free_name
from memcload.source.pattern import PatternError, find_files, is_done

PROJECT = Path(__file__).resolve().parent.parent.parent
NOBODY = 65534


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
    assert find_files("./*.tsv.gz") == [
        "./10.tsv.gz",
        "./20170929000000.tsv.gz",
        "./20170929000100.tsv.gz",
        "./20170929000200.tsv.gz",
        "./9.tsv.gz",
    ]


def test_the_order_is_the_one_of_the_bytes_of_the_names() -> None:
    touch("b", "B", "a", "é", "z", "😀", "\udcff")
    assert find_files("*") == ["B", "a", "b", "z", "é", "😀", "\udcff"]


@pytest.mark.parametrize("pattern", ["*", ".*", "**", "*.gz*", ".a.gz", "./.a.gz", "[.]a.gz", "**/.a.gz", "?a.gz"])
def test_names_that_start_with_a_dot_are_never_found(pattern: str) -> None:
    touch(".a.gz", ".a.gz.1", "sub/.a.gz")
    assert find_files(pattern) == []


def test_two_stars_reach_into_subdirectories() -> None:
    touch("a.gz", "x/b.gz", "x/y/c.gz", "x/y/c.txt", "x/y/.d.gz")
    assert find_files("**/*.gz") == ["a.gz", "x/b.gz", "x/y/c.gz"]
    assert find_files("x/**") == ["x/b.gz", "x/y/c.gz", "x/y/c.txt"]


def test_no_file_is_found_twice() -> None:
    touch("a.gz", "x/y/b.gz")
    assert find_files("**/**/*.gz") == ["a.gz", "x/y/b.gz"]


def test_directories_are_no_logs() -> None:
    touch("sub.gz/a.gz", "b.gz")
    assert find_files("*.gz") == ["b.gz"]


def test_a_name_may_hold_anything() -> None:
    strange = ["a b.gz", "line\nfeed.gz", "tab\t.gz", "\udcff\udc80.gz", "日本.gz", "'\"$(x).gz", "-l.gz", "[1].gz"]
    touch(*strange)
    assert find_files("*.gz") == sorted(strange, key=os.fsencode)


def test_question_marks_and_brackets_are_of_the_shell() -> None:
    touch("a1", "a2", "a3", "b1")
    assert find_files("a?") == ["a1", "a2", "a3"]
    assert find_files("a[13]") == ["a1", "a3"]
    assert find_files("a[!13]") == ["a2"]


@pytest.mark.parametrize("pattern", ["*.gz", "missing/*.gz", "missing.gz", ""])
def test_nothing_is_found_where_nothing_matches(pattern: str) -> None:
    assert find_files(pattern) == []


def test_done_files_are_found_when_asked_for_in_the_order_in_which_they_were_loaded() -> None:
    touch("b.gz", ".b.gz", ".b.gz.1", ".b.gz.2", ".b.gz.10", ".a.gz", "c.gz", ".c.txt", ".c.txt.1")
    paths = ["./.a.gz", "./.b.gz", "./.b.gz.1", "./.b.gz.2", "./.b.gz.10", "./b.gz", "./c.gz"]
    assert find_files("./*.gz", with_done=True) == paths
    assert [is_done(path) for path in paths] == [True, True, True, True, True, False, False]


@pytest.mark.parametrize("pattern", ["*", "*.gz", "a*"])
def test_what_else_starts_with_a_dot_is_no_done_file(pattern: str) -> None:
    touch(*(f".a.gz{suffix}" for suffix in (".damaged", ".damaged.1", ".rejects.tsv", ".rejects.tsv.2", ".xyz.part")))
    os.mkdir(".a.gz")
    assert find_files(pattern, with_done=True) == []


@pytest.mark.parametrize("name", ["a b.gz", "line\nfeed.gz", "\udcff.gz", "20170929.1.gz"])
def test_a_done_file_is_found_by_the_name_that_it_had(name: str) -> None:
    touch(name)
    for _ in range(2):
        done = dot_rename(name)
        assert find_files("*.gz", with_done=True)[-1] == done
        touch(name)


# --- two stars and links --------------------------------------------------------------------------


def test_links_that_lead_around_in_circles_come_to_an_end() -> None:
    touch("a.gz", "x/b.gz", "x/y/c.gz")
    for name in ("one", "two", "x/up", "x/y/top", "x/y/self"):
        os.symlink({"x/up": "..", "x/y/top": "../.."}.get(name, "."), name)
    assert find_files("**/*.gz") == ["a.gz", "x/b.gz", "x/y/c.gz"]
    assert find_files("**/**/*.gz") == ["a.gz", "x/b.gz", "x/y/c.gz"]
    assert find_files("**") == ["a.gz", "x/b.gz", "x/y/c.gz"]
    assert find_files("./**/x/y/*.gz") == ["./x/y/c.gz"]
    assert find_files("x/y/**/*.gz") == ["x/y/c.gz", "x/y/top/a.gz", "x/y/top/x/b.gz"]  # no other way leads there


def test_many_directories_that_link_to_each_other_come_to_an_end() -> None:
    for number in range(12):
        touch(f"{number:02}/a.gz")
        for other in range(12):
            os.symlink(f"../{other:02}", f"{number:02}/to{other:02}")
    assert find_files("**/*.gz") == [f"{number:02}/a.gz" for number in range(12)]


def test_what_only_a_link_leads_to_is_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "deep").mkdir()
    (elsewhere / "deep" / "a.gz").write_bytes(b"")
    os.mkdir("x")
    os.symlink(elsewhere, "x/link")
    assert find_files("**/*.gz") == ["x/link/deep/a.gz"]
    assert find_files("x/link/**/*.gz") == ["x/link/deep/a.gz"]


def test_no_more_directories_are_looked_into_once_the_search_is_to_stop() -> None:
    touch(*(f"{number}/a" for number in range(9)))
    looks = iter([False] * 4)
    assert len(LocalSource("**/a", stops=lambda: next(looks, True)).find()) < 5


def test_hidden_directories_are_left_alone() -> None:
    touch(".hidden/a.gz", "x/.hidden/a.gz", "x/a.gz")
    assert find_files("**/*.gz") == ["x/a.gz"]


def test_two_stars_find_what_is_done_too() -> None:
    touch(".a.gz", "x/.b.gz", "x/.b.gz.1", "x/y/c.gz")
    os.symlink(".", "x/link")
    assert find_files("**/*.gz", with_done=True) == [".a.gz", "x/.b.gz", "x/.b.gz.1", "x/y/c.gz"]


def test_a_directory_may_be_called_like_a_pattern() -> None:
    touch("[x]/y/a.gz")
    assert find_files("[[]x]/**/*.gz") == ["[x]/y/a.gz"]
    assert find_files("**/*.gz") == ["[x]/y/a.gz"]


# --- patterns that can't be meant -----------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["missing/*.gz", "./missing/**/*.gz", "missing/a.gz", "x/missing/*", "missing.gz"])
def test_a_fixed_part_that_does_not_exist_is_an_error(pattern: str) -> None:
    touch("x/a.gz")
    with pytest.raises(PatternError, match=r"missing.*No such file"):
        LocalSource(pattern).find()


@pytest.mark.parametrize("pattern", ["~/*.gz", "~/a.gz", "~user/x/*.gz"])
def test_a_home_that_no_shell_has_expanded_is_an_error_that_says_so(pattern: str) -> None:
    with pytest.raises(PatternError, match=r"^~.*No such file.* not expanded: write the path in full"):
        LocalSource(pattern).find()


@pytest.mark.parametrize("pattern", ["x", "x/", "./x", "x/y/"])
def test_a_directory_is_an_error_that_says_what_to_do(pattern: str) -> None:
    touch("x/y/a.gz")
    with pytest.raises(PatternError, match=r"is a directory; .*use --pattern .*\*"):
        LocalSource(pattern).find()


@pytest.mark.parametrize("pattern", ["*.gz", "./*.gz", "x*/*.gz"])
def test_a_working_directory_that_was_deleted_is_an_error(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir("deleted")
    monkeypatch.chdir("deleted")
    os.rmdir(Path.cwd())
    with pytest.raises(PatternError, match=r"^\.: The working directory was deleted, so nothing matches"):
        LocalSource(pattern).find()


def test_a_file_where_a_directory_should_be_is_an_error() -> None:
    touch("a.gz")
    with pytest.raises(PatternError, match=r"a\.gz: Not a directory"):
        LocalSource("a.gz/*.gz").find()


@pytest.mark.parametrize("pattern", ["*.gz", "x/*.gz", "x/**/*.gz", "x*/*.gz", "none*/*.gz", "x/.a", "x/a", "x/b"])
def test_nothing_new_in_a_directory_that_can_be_read_is_no_error(pattern: str) -> None:
    touch("x/.a", "x/.b.damaged")  # these were loaded
    assert LocalSource(pattern).find() == []


def as_nobody(question: Callable[[], object]) -> str:
    """Ask a question as a user who is not root, in a directory of that user's own, and return the answer."""
    with tempfile.TemporaryDirectory() as directory:
        answer, end = os.pipe()
        process = os.fork()
        if not process:
            try:
                os.chdir(directory)
                if os.geteuid() == 0:
                    os.chown(directory, NOBODY, NOBODY)
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                os.write(end, os.fsencode(str(question())))
            finally:
                os._exit(0)
        os.close(end)
        os.waitpid(process, 0)
        with open(answer) as file:
            told = file.read()
        for path, _, _ in os.walk(directory):
            os.chmod(path, 0o700)
    return told


@pytest.mark.parametrize("mode", [0, 0o400, 0o100])
@pytest.mark.parametrize("pattern", ["x/*.gz", "x/**/*.gz"])
def test_a_fixed_part_that_can_not_be_read_is_an_error(pattern: str, mode: int) -> None:
    def find() -> object:
        os.mkdir("x", mode)
        try:
            return LocalSource(pattern).find()
        except PatternError as error:
            return error

    assert as_nobody(find).startswith("x: Permission denied")


# --- age ------------------------------------------------------------------------------------------


def test_younger_files_can_be_left_for_the_next_run() -> None:
    touch("future", "new", "old")
    now = time.time()
    os.utime("future", (now + 1e6, now + 1e6))
    os.utime("old", (now - 100, now - 100))
    assert LocalSource("*").find() == ["future", "new", "old"]
    assert LocalSource("*", min_age=50).find() == ["future", "old"]
    assert LocalSource("*", min_age=500).find() == ["future"]


def test_the_age_of_a_file_is_that_of_its_content() -> None:
    touch("a")
    for age in (0, 100, -1000):
        os.utime("a", (time.time(), time.time() - age))
        file = LocalFile("a")
        assert age <= file.age < age + 5
        file.close()


# --- holding ------------------------------------------------------------------------------------

HOLDER = (
    "import sys; from memcload.source.local import *\n"
    "with LocalSource(sys.argv[1]).lock():\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextmanager
def another_process_holds(pattern: str) -> Iterator[subprocess.Popen[bytes]]:
    """Let a second process hold the directories of the files that match until the end of the `with` block."""
    command = [sys.executable, "-c", HOLDER, pattern]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process


def test_what_is_held_are_the_directories_of_the_files() -> None:
    touch("a", "b", "x/c", "x/d", "x/y/e")
    with LocalSource("**").lock() as held:
        assert held == {"", "x", "x/y"}


def test_a_second_holder_is_refused_and_told_who_the_first_is() -> None:
    touch("x/a")
    with (
        another_process_holds("x/a") as holder,
        pytest.raises(DirectoryHeld, match=rf"^x: process {holder.pid} "),
        LocalSource("x/a").lock(),
    ):
        pass


def test_one_directory_of_several_that_is_held_is_enough_to_be_refused() -> None:
    touch("x/a", "y/a")
    with another_process_holds("y/a"):
        with pytest.raises(DirectoryHeld, match=r"^y: "), LocalSource("[xy]/a").lock():
            pass
        with LocalSource("x/a").lock():  # was let go again
            pass


def test_the_directory_is_held_by_whatever_name() -> None:
    touch("x/a")
    os.symlink("x", "link")
    with another_process_holds("x/a"), pytest.raises(DirectoryHeld), LocalSource("link/a").lock():
        pass


def test_one_run_may_reach_a_directory_by_two_names() -> None:
    touch("x/a")
    os.symlink("x", "link")
    with LocalSource("**/a").lock():
        pass


def test_other_directories_can_be_held_meanwhile() -> None:
    touch("x/a", "y/a")
    with another_process_holds("x/a"), LocalSource("y/a").lock():
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
        with LocalSource("a").lock():
            pass
    with another_process_holds("a"):
        pass


def test_a_directory_is_let_go_when_the_context_ends_in_an_error() -> None:
    touch("a")
    with pytest.raises(ZeroDivisionError), LocalSource("a").lock():
        raise ZeroDivisionError
    with another_process_holds("a"):
        pass


def test_a_killed_holder_holds_nothing() -> None:
    touch("a")
    with another_process_holds("a") as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with LocalSource("a").lock():
            pass
    assert names() == ["a"]


def test_no_descriptor_is_left_open() -> None:
    touch("x/a", "y/a", "z/a")
    before = os.listdir("/proc/self/fd")
    with LocalSource("[xz]/a").lock():
        pass
    with another_process_holds("y/a"), pytest.raises(DirectoryHeld), LocalSource("[xyz]/a").lock():
        pass
    assert os.listdir("/proc/self/fd") == before


def test_a_directory_that_is_gone_is_an_error() -> None:
    with pytest.raises(PatternError, match="gone"), LocalSource("gone/a").lock():
        pass


def test_while_there_is_a_lock_only_files_of_its_directories_are_found() -> None:
    touch("x/a")
    source = LocalSource("*/a")
    with source.lock() as held:
        assert held == {"x"}
        touch("x/b", "y/a")
        os.rename("x/b", "x/a")
        assert source.find() == ["x/a"]
    assert source.find() == ["x/a", "y/a"]


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="this system does not tell")
def test_the_holder_of_a_file_with_the_same_number_on_another_device_is_not_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch("x/a")
    with another_process_holds("x/a") as holder:
        descriptor = os.open("x", os.O_RDONLY)
        try:
            assert linux.lock_holder(descriptor) == holder.pid
            device, _ = linux._mount(descriptor)
            assert device is not None
            monkeypatch.setattr(linux, "_mount", lambda _: ((device[0], device[1] + 1), "ext4"))
            assert linux.lock_holder(descriptor) is None
        finally:
            os.close(descriptor)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_named_and_what_to_do(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    touch("x/a")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(NoLocks, match=rf"^x: .*{os.strerror(code)}.*move the logs"), LocalSource("x/a").lock():
        pass


def test_the_holder_is_another_process_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("x/a")
    monkeypatch.setattr(linux, "lock_holder", lambda _: None)
    with (
        another_process_holds("x/a"),
        pytest.raises(DirectoryHeld, match=r"^x: another process "),
        LocalSource("x/a").lock(),
    ):
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


def test_a_claimed_name_is_claimed_once() -> None:
    assert [claim_name("a", ".b") for _ in range(3)] == ["a.b", "a.b.1", "a.b.2"]
    assert names() == ["a.b", "a.b.1", "a.b.2"]


def test_a_file_is_finalized_as_what_it_is() -> None:
    touch("x/a", "x/b")
    source = LocalSource("x/*")
    assert source.finalize("x/a", damaged=False) == "x/.a"
    assert source.finalize("x/b", damaged=True) == "x/.b.damaged"


def test_a_name_that_is_free_is_taken_as_it_is() -> None:
    touch("b", "c", "c.1", "c.3")
    assert [free_name(name) for name in "abc"] == ["a", "b.1", "c.2"]


# --- can it be renamed? ---------------------------------------------------------------------------


def why_not(path: str) -> str | None:
    return LocalSource("*").why_not_renamable(path)


def test_a_file_in_a_directory_of_ones_own_can_be_renamed() -> None:
    touch("a", "x/a", "x/" + "b" * 254)
    for path in ("a", "x/a", os.path.abspath("a"), "x/" + "b" * 254):
        assert why_not(path) is None


@pytest.mark.parametrize("name", ["b" * 255, "日" * 85, "é" * 127 + "x"], ids=["ascii", "kanji", "accents"])
def test_a_name_that_leaves_no_room_for_a_dot_is_too_long(name: str) -> None:
    touch(name)
    reason = why_not(name)
    assert reason is not None
    assert "too long" in reason
    with pytest.raises(OSError, match="too long"):
        dot_rename(name)
    assert names() == [name]


def test_a_name_that_leaves_no_room_for_a_number_is_too_long_if_it_needs_one() -> None:
    touch("b" * 254)
    assert why_not("b" * 254) is None
    touch("." + "b" * 254)
    assert "too long" in str(why_not("b" * 254))


@pytest.mark.parametrize("name", ["b" * 250, "日" * 84, "\udcff" * 250], ids=["ascii", "kanji", "bytes"])
def test_a_long_name_is_cut_where_the_suffix_needs_the_room(name: str) -> None:
    for _ in range(3):
        touch(name)
        assert why_not(name) is None
        renamed = set_aside(name)
        assert renamed.startswith(f".{name[:75]}")
        assert ".damaged" in renamed
        assert find_files("*", with_done=True) == []
    assert len(names()) == 3


def test_a_done_file_keeps_its_name_whatever_that_is() -> None:
    touch("." + "b" * 254)
    assert why_not("." + "b" * 254) is None


def test_a_directory_that_can_not_be_written_is_known_before() -> None:
    def ask() -> object:
        touch("x/a")
        before = why_not("x/a")
        os.chmod("x", 0o500)
        return before, why_not("x/a")

    assert as_nobody(ask) == str((None, "directory x is not writable"))
    assert "/proc/self is not writable" in str(why_not("/proc/self/status"))


@pytest.mark.skipif(os.geteuid() != 0, reason="a directory of another user is needed")
def test_a_sticky_directory_of_another_user_is_known_before() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "a")
        Path(path).write_bytes(b"")
        for mode, owner, renamable in ((0o1777, 0, False), (0o777, 0, True), (0o1777, NOBODY, True)):
            os.chmod(directory, mode)
            os.chown(path, owner, owner)
            reason = as_nobody(lambda: why_not(path))
            assert reason == "None" if renamable else "sticky directory" in reason


# --- is it open for writing? ----------------------------------------------------------------------

needs_leases = pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="only Linux can tell")


def is_open_for_writing(path: str) -> bool:
    file = LocalFile(path)
    try:
        return file.is_open_for_writing()
    finally:
        file.close()


@needs_leases
@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_a_file_that_another_process_has_open_for_writing_is_noticed(mode: str) -> None:
    touch("a")
    code = "import sys; file = open('a', sys.argv[1]); print(flush=True); sys.stdin.read()"
    assert not is_open_for_writing("a")
    with subprocess.Popen([sys.executable, "-c", code, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert is_open_for_writing("a")
        writer.communicate()
    assert not is_open_for_writing("a")


@needs_leases
def test_a_file_that_others_read_is_not_open_for_writing() -> None:
    touch("a")
    with open("a", "rb"):
        assert not is_open_for_writing("a")


@needs_leases
def test_a_closed_file_can_still_be_asked_about() -> None:
    touch("a")
    file = LocalFile("a")
    list(file.texts(1000))
    assert not file.is_open_for_writing()
    with open("a", "ab"):
        assert file.is_open_for_writing()
        os.rename("a", "b")
        touch("a")  # another one
        assert not file.is_open_for_writing()
    os.unlink("a")
    assert not file.is_open_for_writing()


@needs_leases
def test_a_writer_that_comes_in_between_does_no_harm() -> None:
    touch("a")
    code = "import os\nprint(flush=True)\nwhile True: os.close(os.open('a', os.O_WRONLY))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen = {is_open_for_writing("a") for _ in range(3000)}  # the usual signal would have ended this process
        writer.kill()
    assert seen <= {False, True}


@needs_leases
def test_what_refuses_leases_for_reasons_of_its_own_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("a")
    with open("a", "ab"):
        for system, known in (("ext4", True), ("nfs4", False), ("cifs", False), ("smb3", False), (None, False)):
            monkeypatch.setattr(linux, "_mount", lambda _, system=system: (None, system))
            assert is_open_for_writing("a") == known


def test_systems_without_leases_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fcntl, "F_SETLEASE", raising=False)
    touch("a")
    with open("a", "ab"):
        assert not is_open_for_writing("a")


def test_nothing_is_known_of_mounts_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    found = open

    def hide(path: str, mode: str = "r") -> object:
        raise FileNotFoundError(path)

    monkeypatch.setattr("builtins.open", hide)
    with found(os.devnull) as file:
        assert linux._mount(file.fileno()) == (None, None)
        assert linux.lock_holder(file.fileno()) is None


# --- what is no regular file ------------------------------------------------------------------------


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"a line\n")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="link"):
        LocalFile(str(tmp_path / "link"))


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        LocalFile(str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/null", "not a regular file"), ("/", "directory"), ("missing", "No such file.*missing")]
)
def test_what_is_no_file_is_refused(path: str, why: str) -> None:
    with pytest.raises(OSError, match=why):
        LocalFile(path)


# --- has it changed? ----------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalFile]:
    (tmp_path / "log").write_bytes(b"a line\n")
    os.utime(tmp_path / "log", (1e9, 1e9))
    log = LocalFile(str(tmp_path / "log"))
    yield log
    log.close()


def test_a_file_that_was_only_read_is_unchanged(log: LocalFile) -> None:
    assert b"".join(map(bytes, log.texts(100))) == b"a line\n"
    os.utime(log.path, (2e9, 1e9))  # when it was last read
    assert log.is_unchanged()


def test_a_file_that_grew_is_changed(log: LocalFile) -> None:
    with open(log.path, "ab") as file:
        file.write(b"x")
    os.utime(log.path, (1e9, 1e9))
    assert not log.is_unchanged()


def test_a_file_that_was_written_over_is_changed(log: LocalFile) -> None:
    with open(log.path, "r+b") as file:
        file.write(b"x")
    assert not log.is_unchanged()


def test_a_file_that_was_replaced_is_changed(log: LocalFile) -> None:
    other = Path(f"{log.path}.new")
    other.write_bytes(b"a line\n")
    os.utime(other, (1e9, 1e9))
    other.replace(log.path)
    assert not log.is_unchanged()


def test_a_file_that_was_deleted_is_changed(log: LocalFile) -> None:
    os.unlink(log.path)
    assert not log.is_unchanged()


def test_a_file_that_became_a_link_to_itself_is_changed(log: LocalFile) -> None:
    os.rename(log.path, f"{log.path}.moved")
    os.symlink(f"{log.path}.moved", log.path)
    assert not log.is_unchanged()
