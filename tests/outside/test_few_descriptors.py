"""However many files and directories there are, few descriptors are enough to load them all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, REFERENCE, Loader, Running, run, with_report
from tests.outside.logs import line, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents, everywhere
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import expected

LIMITED = ("sh", "-c", 'ulimit -n 64; exec "$@"', "limited")
both_commands = pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])


def in_one_directory(inbox: Path, number: int) -> Path:
    return inbox / f"{number:03}.gz"


def in_many_directories(inbox: Path, number: int) -> Path:
    directory = inbox / f"{number // 3:03}"
    directory.mkdir(exist_ok=True)
    return directory / f"{number:03}.gz"


@both_commands
@pytest.mark.parametrize("rejected", [b"", b"rejected\n"], ids=["clean", "rejects"])
@pytest.mark.parametrize("place", [in_one_directory, in_many_directories])
def test_few_descriptors_are_enough(
    tmp_path: Path, servers: Servers, loader: Loader, place: Callable[[Path, int], Path], rejected: bytes
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    logs = [write_gz(place(inbox, n), line(dev_id=f"{n}") + rejected) for n in range(300)]
    options = (*addresses(servers), "--max-error-rate", "1", "--report", "-")
    finished = with_report(run(loader, f"{inbox}/**/*.gz", *options, prefix=LIMITED))
    assert finished.exit_code == 0
    assert set(finished.statuses().values()) == {"done"}
    assert contents(servers) == expected(*logs).items
    assert len(list(inbox.rglob("*.rejects.tsv"))) == (300 if rejected else 0)


@both_commands
def test_each_of_many_directories_is_held(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(300):
        write_gz(in_many_directories(inbox, number), line(dev_id=f"{number}"))
    servers["idfa"].freeze()
    with Running(loader, f"{inbox}/*/*.gz", *addresses(servers), "--timeout", "60", prefix=LIMITED) as running:
        running.wait_for("Processing")
        others = [run(loader, f"{inbox}/{n:03}/*.gz", *addresses(servers)).exit_code for n in (0, 50, 99)]
        servers["idfa"].thaw()
        assert running.finish().exit_code == 0
    assert others == [75, 75, 75]
    assert names(inbox / "099") == [".297.gz", ".298.gz", ".299.gz"]


@both_commands
def test_no_server_is_blamed_for_connections_that_there_are_no_descriptors_for(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(tmp_path / "a.gz", numbered(800))
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(FaultyProxy(servers["idfa"].address)).address for _ in range(20)]
        options = (f"{tmp_path}/*.gz", *everywhere(",".join(proxies)), "--report", "-")
        limited = with_report(run(loader, *options, prefix=LIMITED))
        assert limited.exit_code == 1
        assert limited.says("this process has run out of file descriptors: raise its limit (ulimit -n)", "E")
        assert limited.says("1 file is pending: run again", "W")
        assert not limited.says("marked down")
        assert not limited.says("answer")
        assert run(loader, *options).exit_code == 0
