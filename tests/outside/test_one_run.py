"""One run at a time for each directory, whichever way it is reached."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.outside.loading import Loader, Running, both_loaders, load, run
from tests.outside.logs import line, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents, everywhere, silent_server
from tests.outside.spec import expected


@both_loaders
def test_a_second_run_says_who_holds_the_directory_and_comes_back_later(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(10))
    with silent_server() as (address, listening):
        with Running(loader, tmp_path / "*", *everywhere(address), "--timeout", "60") as first:
            connection, _ = listening.accept()
            with connection, Running(loader, tmp_path / "a*", *addresses(servers)) as second:
                refused = second.finish()
            assert refused.exit_code == 75
            assert [text for text in refused.messages("E") if str(tmp_path) in text and str(first.process.pid) in text]
            assert contents(servers) == {}
            assert load(loader, tmp_path / "*", servers, "--dry", "--log-level", "info").exit_code == 0
        assert names(tmp_path) == ["a.tsv.gz"]  # the first run was killed: nothing of it is left, and no lock
    assert load(loader, tmp_path / "*", servers).exit_code == 0
    assert names(tmp_path) == [".a.tsv.gz"]


@both_loaders
def test_runs_in_different_directories_do_not_meet(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        write_gz(tmp_path / directory / "a.tsv.gz", numbered(10))
    with silent_server() as (address, listening), Running(loader, tmp_path / "one/*", *everywhere(address)):
        connection, _ = listening.accept()
        with connection:
            assert load(loader, tmp_path / "two/*", servers).exit_code == 0


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a directory as a run does."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@both_loaders
@pytest.mark.parametrize("other", ["one", "two"])
def test_one_directory_of_several_that_is_held_is_enough_to_wait(
    tmp_path: Path, servers: Servers, loader: Loader, other: str
) -> None:
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        write_gz(tmp_path / directory / "a.gz", line())
    with held(tmp_path / other):
        finished = run(loader, tmp_path / "*/a.gz", *addresses(servers))
    assert finished.exit_code == 75
    assert finished.says(str(tmp_path / other), "E")
    assert contents(servers) == {}
    assert names(tmp_path / "one") == names(tmp_path / "two") == ["a.gz"]


@both_loaders
def test_a_directory_that_is_reached_by_two_names_is_loaded_once(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    log = write_gz(tmp_path / "directory/a.gz", numbered(20))
    finished = load(loader, tmp_path / "*/a.gz", servers)
    assert (finished.exit_code, len(finished.report["files"])) == (0, 1)
    assert finished.report["totals"]["stored"] == 20
    assert contents(servers) == expected(log).items
    assert names(tmp_path / "directory") == [".a.gz"]
