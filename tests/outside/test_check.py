"""--check: what it finds of servers, files and places, what it says to do about it, and that it only looks."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.outside.loading import PARALLEL, REFERENCE, Finished, Loader, Running, both_loaders, load, own_environ, run
from tests.outside.logs import make_old, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port, contents, everywhere, silent_server
from tests.outside.spec import TYPES
from tests.outside.terminal import Session
from tests.outside.test_disks import as_nobody, run_as
from tests.outside.test_one_run import held
from tools.make_logs import write_logs

FINE = "Ready to load"


def check(loader: Loader, pattern: str | Path, servers: Servers, *options: str, **other: str) -> Finished:
    finished = run(loader, pattern, *addresses(servers, **other), "--check", *options)
    assert finished.exit_code == (1 if finished.messages("E") else 0)
    assert finished.says(FINE) == (finished.exit_code == 0)
    assert finished.output == ""
    return finished


def about(finished: Finished, subject: str, levels: str = "IWE") -> list[str]:
    """Return what was found of a subject."""
    return [message for message in finished.messages(levels) if message.split(": ")[0].endswith(subject)]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    directory = tmp_path / "inbox"
    directory.mkdir()
    return directory


# --- when all is well ---------------------------------------------------------------------------


@both_loaders
def test_everything_is_told_of_servers_files_and_places(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "b.gz", numbered(100))
    write_gz(inbox / "a.gz", numbered(60))
    make_old(inbox / "b.gz")

    checked = check(loader, inbox / "*.gz", servers, "--report", "-", "--log", f"{inbox}/log")

    assert (checked.exit_code, checked.messages("WE")) == (0, [])
    for name in TYPES:
        (server,) = about(checked, servers[name].address)
        assert re.search(
            rf"^{name} .*: version [\d.]+, meta commands, [\d,]+ items, \d+ of 64 MiB used, \d+ evictions, "
            "about 40 pending records need 1 MiB",
            server,
        )
    (files,) = about(checked, "files")
    assert "2 files" in files
    assert f"{inbox}/b.gz, 1 hour old" in files
    for subject in ("rename", "lock", "rejects", "log"):
        (place,) = about(checked, subject)
        assert str(inbox) in place
    assert about(checked, "report") == ["report: to standard output"]
    assert bool(about(checked, "engine")) == (loader is not REFERENCE)


def test_what_several_device_types_share_is_told_once_and_each_of_several_servers_for_itself(
    inbox: Path, servers: Servers
) -> None:
    write_gz(inbox / "a.gz", numbered(400))
    shared, other = servers["idfa"].address, servers["gaid"].address
    options = ["--idfa", f"{shared},{other}", "--gaid", shared, "--adid", shared]
    checked = run(PARALLEL, inbox / "*", *options, "--only", "idfa,gaid,adid", "--check")
    assert checked.exit_code == 0
    (of_shared,), (of_other,) = about(checked, shared), about(checked, other)
    assert of_shared.startswith("idfa, gaid, adid ")
    records = [int(re.findall(r"about (\d+) pending records", text)[0]) for text in (of_shared, of_other)]
    assert sum(records) == 300
    assert 20 < records[1] < 80


@both_loaders
def test_without_files_there_is_nothing_wrong(inbox: Path, servers: Servers, loader: Loader) -> None:
    checked = check(loader, inbox / "*.gz", servers)
    assert checked.exit_code == 0
    assert about(checked, "files") == [f"files: no file matches {inbox}/*.gz: there is nothing to load"]


def test_done_files_count_where_again_takes_them(inbox: Path, servers: Servers) -> None:
    write_gz(inbox / ".a.gz", numbered(8))
    assert "no file matches" in about(check(PARALLEL, inbox / "*.gz", servers), "files")[0]
    assert "1 file" in about(check(PARALLEL, inbox / "*.gz", servers, "--again"), "files")[0]


def test_how_much_is_to_come_is_estimated_from_a_part_of_it(inbox: Path, servers: Servers) -> None:
    write_logs(inbox, files=3, lines=20_000, seed=7)
    checked = check(PARALLEL, inbox / "*", servers)
    for name in TYPES:
        (found,) = re.findall(
            r"about ([\d,]+) pending records need (\d+) MiB", about(checked, servers[name].address)[0]
        )
        assert 14_000 < int(found[0].replace(",", "")) < 16_000
        assert found[1] == "5"  # 15,000 items of 310 bytes: 4.4


# --- it only looks ------------------------------------------------------------------------------


@both_loaders
def test_nothing_is_stored_renamed_or_written(inbox: Path, tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(100) + b"rejected\n")
    (tmp_path / "rejects").mkdir()
    options = [part for name in ("report", "metrics", "log") for part in (f"--{name}", str(tmp_path / name))]
    environ = own_environ() | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    before = state(tmp_path, servers)
    checked = run(
        loader,
        inbox / "*",
        *addresses(servers),
        *("--check", "--rejects", str(tmp_path / "rejects"), *options),
        environ=environ,
    )
    assert checked.exit_code == 0
    assert state(tmp_path, servers) == before
    assert load(PARALLEL, inbox / "*", servers).exit_code == 0


def state(directory: Path, servers: Servers) -> object:
    """Return what a write would change, on the disk and in the servers."""
    counters = []
    for server in servers.values():
        with server.client() as client:
            stats = client.stats()
            counters.append([stats[name] for name in (b"cmd_set", b"cmd_touch", b"cmd_flush", b"total_items")])
    paths = [directory, *directory.rglob("*")]
    return [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(paths)], counters, contents(servers)


def test_no_directory_is_held_while_servers_are_waited_for(inbox: Path, servers: Servers) -> None:
    write_gz(inbox / "a.gz", numbered(10))
    options = ("--check", "--timeout", "60")
    with silent_server() as (address, listening), Running(PARALLEL, inbox / "*", *everywhere(address), *options):
        connection, _ = listening.accept()
        time.sleep(0.5)
        with connection:
            assert load(PARALLEL, inbox / "*", servers).exit_code == 0


# --- files and places ---------------------------------------------------------------------------


@both_loaders
def test_a_pattern_that_can_mean_no_file_is_a_problem(inbox: Path, servers: Servers, loader: Loader) -> None:
    for pattern, words in ((inbox / "nowhere/*", "No such file"), (inbox, "is a directory")):
        checked = check(loader, pattern, servers)
        assert words in about(checked, "files", "E")[0]
        assert len(checked.messages("E")) == 2


def test_files_that_can_not_be_read_are_named(inbox: Path, servers: Servers) -> None:
    write_gz(inbox / "fine.gz", numbered(10))
    os.mkfifo(inbox / "0")
    for number in range(1, 5):
        (inbox / f"{number}").symlink_to("nowhere")
    checked = check(PARALLEL, inbox / "*", servers)
    found = about(checked, "files", "E")
    assert [message.split(": ")[1] for message in found[:3]] == [f"{inbox}/{number}" for number in range(3)]
    assert "not a regular file" in found[0]
    assert found[3:] == ["files: 2 more files have such a problem"]


@both_loaders
def test_a_directory_that_another_run_holds_is_a_problem(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(10))
    with held(inbox):
        (found,) = about(check(loader, inbox / "*", servers), "lock", "E")
    assert str(inbox) in found
    assert about(check(loader, inbox / "*", servers), "lock", "I") == [f"lock: no other run holds {inbox}"]
    descriptor = os.open(inbox, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is free again
    os.close(descriptor)


def test_a_name_that_is_too_long_to_be_renamed_is_a_problem(inbox: Path, servers: Servers) -> None:
    write_gz(inbox / ("n" * 255), numbered(10))
    assert "too long" in about(check(PARALLEL, inbox / "*", servers), "rename", "E")[0]


def test_places_that_can_not_be_written_are_problems(servers: Servers) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        root = Path(name)
        root.chmod(0o755)
        opened, closed = root / "opened", root / "closed"
        for directory in (opened, closed):
            directory.mkdir()
            write_gz(directory / "a.gz", numbered(10))
        prefix = stack.enter_context(as_nobody(root))
        closed.chmod(0o555)
        stack.callback(closed.chmod, 0o755)
        outputs = [part for option in ("report", "metrics", "log") for part in (f"--{option}", f"{closed}/{option}")]
        places = ["--rejects", str(closed), *outputs]
        checked = run_as(prefix, PARALLEL, opened / "*", *addresses(servers), "--check", *places)
        renaming = run_as(prefix, PARALLEL, closed / "*", *addresses(servers), "--check")
        fine = run_as(prefix, PARALLEL, opened / "*", *addresses(servers), "--check")
    assert (checked.exit_code, renaming.exit_code, fine.exit_code) == (1, 1, 0)
    for subject in ("rejects", "report", "metrics", "log"):
        (found,) = about(checked, subject, "E")
        assert str(closed) in found
        assert f"--{subject}" in found
    assert [message.split(": ")[0] for message in renaming.messages("E")] == ["rename", "1 problem found"]


@pytest.mark.parametrize("option", ["--report", "--metrics", "--log"])
def test_outputs_without_a_directory_or_that_are_one_are_problems(
    inbox: Path, tmp_path: Path, servers: Servers, option: str
) -> None:
    for path, words in ((tmp_path / "nowhere" / "file", "does not exist"), (inbox, "it is a directory")):
        checked = check(PARALLEL, inbox / "*", servers, option, str(path))
        assert words in about(checked, option[2:], "E")[0]


def test_a_pipe_that_somebody_reads_is_left_alone(inbox: Path, tmp_path: Path, servers: Servers) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(tmp_path / "pipe", os.O_WRONLY)
    assert check(PARALLEL, inbox / "*", servers, "--report", str(tmp_path / "pipe")).exit_code == 0
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    os.close(writing)
    os.close(reading)


# --- what encodes -------------------------------------------------------------------------------


def test_the_engine_is_told_and_where_its_code_lies_or_will_lie(inbox: Path, tmp_path: Path, servers: Servers) -> None:
    pytest.importorskip("numba")
    write_gz(inbox / "a.gz", numbered(10))
    environ = own_environ() | {"NUMBA_CACHE_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "own")}
    compiled = ("memc_load_parallel.py", "--engine", "compiled")
    before = run(compiled, inbox / "*", *addresses(servers), "--check", environ=environ)
    assert str(tmp_path / "memcload") in about(before, "engine", "I")[0]
    assert "not cached yet" in about(before, "engine", "I")[0]
    assert not (tmp_path / "memcload").exists()
    assert run(compiled, inbox / "*", *addresses(servers), environ=environ).exit_code == 0
    after = run(compiled, inbox / "*", *addresses(servers), "--check", environ=environ)
    assert f"compiled, cached as {tmp_path}/memcload/" in about(after, "engine", "I")[0]
    assert about(check(PARALLEL, inbox / "*", servers), "engine") == ["engine: python"]


# --- how it looks -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 200])
def test_on_a_terminal_it_is_a_table_that_fits(inbox: Path, servers: Servers, width: int) -> None:
    write_gz(inbox / "a.gz", numbered(10))
    with closed_port() as nowhere:
        options = ["--pattern", f"{inbox}/*", *addresses(servers, adid=nowhere), "--check"]
        with Session(PARALLEL, *options, width=width) as session:
            assert session.finish() == 1
    rows = session.screen.rows
    assert max(map(len, rows)) <= width
    table = rows[next(number for number, row in enumerate(rows) if row.startswith("ok ")) :]
    assert [row.split()[0] for row in table if row.startswith(("ok ", "problem "))] == [
        *("ok", "ok", "problem", "ok"),
        *("ok", "ok", "ok", "ok", "ok"),
    ]
    (problem,) = [number for number, row in enumerate(table) if row.startswith("problem ")]
    assert "connection refused" in table[problem]
    assert "start memcached there" in "".join(table[problem : problem + 3])
    assert "E 1 problem found: fix it before the load" in " ".join(rows[-3:])
    assert b"\x1b[1;31m" in session.raw


def test_colour_is_not_all_that_tells_a_problem(inbox: Path, servers: Servers) -> None:
    with closed_port() as nowhere:
        options = ["--pattern", f"{inbox}/*", *addresses(servers, adid=nowhere), "--check"]
        with Session(PARALLEL, *options, width=80, environ={"NO_COLOR": "1"}) as session:
            assert session.finish() == 1
    assert b"\x1b[1;31m" not in session.raw
    assert [row for row in session.screen.rows if row.startswith("problem ")] != []


def test_on_a_very_narrow_terminal_it_is_lines(inbox: Path, servers: Servers) -> None:
    options = ["--pattern", f"{inbox}/*", *addresses(servers), "--check"]
    with Session(PARALLEL, *options, width=40) as session:
        assert session.finish() == 0
    assert FINE in "".join(session.screen.rows)


# --- wrong usage --------------------------------------------------------------------------------


def test_wrong_usage_is_none_of_its_findings(inbox: Path, tmp_path: Path, servers: Servers) -> None:
    for options in (["--dry"], ["--rejects", f"{tmp_path}/nowhere"], ["--auth-file", f"{tmp_path}/nowhere"]):
        assert run(PARALLEL, inbox / "*", *addresses(servers), "--check", *options).exit_code == 2
