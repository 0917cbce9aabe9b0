"""What becomes of files: found, loaded in their order, renamed or left pending."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.outside.faults import trigger
from tests.outside.loading import PARALLEL, REFERENCE, SMALL_BLOCKS, Loader, all_loaders, both_loaders, load, run
from tests.outside.logs import line, make_inbox, make_old, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port, contents, everywhere
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import expected


def processed(log: Sequence[str]) -> list[str]:
    """Return the paths of the files, in the order in which the log has them."""
    return [found[1] for found in (re.search(r" I Processing (.*)", text) for text in log) if found]


# --- found ----------------------------------------------------------------------------------------


@both_loaders
def test_files_are_loaded_in_the_order_of_their_names(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for name in ("b", "a10", "B", "a2", "c"):  # not the order in which they are written
        write_gz(tmp_path / f"{name}.tsv.gz", line(lat=f"{ord(name[0])}", lon=f"{len(name)}"))
    finished = load(loader, tmp_path / "*.tsv.gz", servers)
    in_order = [str(tmp_path / f"{name}.tsv.gz") for name in ("B", "a10", "a2", "b", "c")]
    assert processed(finished.log) == [file["path"] for file in finished.report["files"]] == in_order
    assert contents(servers) == expected(line(lat="99", lon="1")).items


@both_loaders
def test_the_order_is_that_of_paths_and_not_of_names(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for directory, name, apps in (("a", "z.gz", "1"), ("b", "y.gz", "2"), ("c", "x.gz", "3")):
        (tmp_path / directory).mkdir()
        write_gz(tmp_path / directory / name, line(apps=apps))
    assert load(loader, tmp_path / "*/*.gz", servers).exit_code == 0
    assert contents(servers) == expected(line(apps="3")).items


@both_loaders
def test_a_pattern_may_reach_into_directories(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for number, directory in enumerate(("", "2017", "2017/09", "2017/09/29", "2017/.hidden")):
        (tmp_path / directory).mkdir(exist_ok=True, parents=True)
        write_gz(tmp_path / directory / "a.tsv.gz", line(dev_id=f"device{number}"))
    write_gz(tmp_path / "2017/b.txt", line(dev_id="no-match"))
    assert load(loader, tmp_path / "**" / "*.tsv.gz", servers).exit_code == 0
    assert contents(servers).keys() == {b"idfa:device0", b"idfa:device1", b"idfa:device2", b"idfa:device3"}
    assert names(tmp_path) == [".a.tsv.gz", "2017"]
    assert names(tmp_path / "2017") == [".a.tsv.gz", ".hidden", "09", "b.txt"]
    assert names(tmp_path / "2017/09/29") == [".a.tsv.gz"]
    assert names(tmp_path / "2017/.hidden") == ["a.tsv.gz"]


@both_loaders
@pytest.mark.parametrize("pattern", ["*", ".*", ".a.tsv.gz"])
def test_names_that_start_with_a_dot_are_never_input(
    tmp_path: Path, servers: Servers, loader: Loader, pattern: str
) -> None:
    write_gz(tmp_path / ".a.tsv.gz", numbered(10))
    assert load(loader, tmp_path / pattern, servers).exit_code == 0
    assert (contents(servers), names(tmp_path)) == ({}, [".a.tsv.gz"])


@both_loaders
def test_nothing_to_load_is_no_error(tmp_path: Path, loader: Loader, servers: Servers) -> None:
    write_gz(tmp_path / ".done.tsv.gz", numbered(4))
    finished = load(loader, tmp_path / "*.tsv.gz", servers)
    assert (finished.exit_code, finished.report["files"]) == (0, [])


@both_loaders
@pytest.mark.parametrize("pattern", ["no/such/directory/*", "directory"])
def test_a_place_where_no_log_can_be_is_an_error(
    tmp_path: Path, loader: Loader, servers: Servers, pattern: str
) -> None:
    (tmp_path / "directory").mkdir()
    finished = run(loader, tmp_path / pattern, *addresses(servers))
    assert finished.exit_code == 1
    assert finished.says(str(tmp_path), "E")


@both_loaders
@pytest.mark.parametrize(
    "name", [b"two words.gz", b"line\nfeed.gz", b"tab\tand\\n.gz", "журнал.gz".encode(), b"latin-\xe9\xff.gz", b"-.gz"]
)
def test_a_name_may_be_anything(tmp_path: Path, servers: Servers, loader: Loader, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    write_gz(Path(os.fsdecode(path)), numbered(199) + b"bad\n")
    finished = load(loader, tmp_path / "*.gz", servers)
    assert finished.exit_code == 0
    assert finished.report["files"][0]["path"] == os.fsdecode(path)
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"." + name, b"." + name + b".rejects.tsv"]
    assert contents(servers) == expected(numbered(199)).items


# --- done -----------------------------------------------------------------------------------------


@all_loaders
def test_a_file_that_is_done_is_renamed_and_not_loaded_again(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(100))
    packed = (tmp_path / "a.tsv.gz").read_bytes()
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.statuses()) == (0, {"a.tsv.gz": "done"})
    assert names(tmp_path) == [".a.tsv.gz"]  # no file of a lock either
    assert (tmp_path / ".a.tsv.gz").read_bytes() == packed
    assert load(loader, tmp_path / "*", servers).report["files"] == []


@both_loaders
def test_renaming_never_overwrites(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for number in range(4):
        write_gz(tmp_path / "a.tsv.gz", line(apps=str(number)))
        assert load(loader, tmp_path / "*", servers).exit_code == 0
    renamed = [".a.tsv.gz", ".a.tsv.gz.1", ".a.tsv.gz.2", ".a.tsv.gz.3"]
    assert names(tmp_path) == renamed
    loaded = [gzip.decompress((tmp_path / name).read_bytes()) for name in renamed]
    assert loaded == [line(apps=str(number)) for number in range(4)]


@both_loaders
def test_renaming_stops_short_even_of_a_dangling_link(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    (tmp_path / ".a.tsv.gz").symlink_to("nowhere")
    write_gz(tmp_path / "a.tsv.gz", numbered(10))
    assert load(loader, tmp_path / "*", servers).exit_code == 0
    assert names(tmp_path) == [".a.tsv.gz", ".a.tsv.gz.1"]
    assert (tmp_path / ".a.tsv.gz").is_symlink()


# --- pending --------------------------------------------------------------------------------------


@all_loaders
@pytest.mark.parametrize("retries", ["0", "1"])
def test_a_file_with_failed_records_stays_pending_and_so_do_all_later_ones(
    tmp_path: Path, servers: Servers, loader: Loader, retries: str
) -> None:
    others = ("gaid", "adid", "dvid")
    logs = {
        "a.tsv.gz": numbered(100, types=others, prefix="before"),
        "b.tsv.gz": numbered(100) + line(dev_id="twice", apps="1"),
        "c.tsv.gz": numbered(100, types=others, prefix="after"),
        "d.tsv.gz": numbered(50).replace(b"55.55", b"-1") + line(dev_id="twice", apps="2"),
    }
    for name, log in logs.items():
        write_gz(tmp_path / name, log)
    everything = expected(*logs.values()).items

    with closed_port() as nowhere:
        finished = load(loader, tmp_path / "*", servers, "--retries", retries, idfa=nowhere)
    assert finished.exit_code == 1
    pending = {"b.tsv.gz": "pending", "c.tsv.gz": "pending", "d.tsv.gz": "pending"}
    assert finished.statuses() == {"a.tsv.gz": "done", **pending}
    assert names(tmp_path) == [".a.tsv.gz", "b.tsv.gz", "c.tsv.gz", "d.tsv.gz"]
    assert [finished.file(name)["failed"] for name in logs] == [0, 26, 0, 14]
    assert finished.report["devices"]["idfa"]["failed"] == 40
    assert finished.address("idfa") == nowhere
    assert contents(servers) == {key: item for key, item in everything.items() if not key.startswith(b"idfa")}

    finished = load(loader, tmp_path / "*", servers)
    assert finished.exit_code == 0
    assert finished.statuses() == dict.fromkeys(pending, "done")
    assert names(tmp_path) == [f".{name}" for name in logs]
    assert contents(servers) == everything


@both_loaders
def test_nothing_is_done_while_no_server_is_up(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(100) + b"bad\n")
    with closed_port() as nowhere:
        finished = load(loader, tmp_path / "*", servers, *everywhere(nowhere), "--retries", "0")
    assert (finished.exit_code, finished.statuses()) == (1, {"a.tsv.gz": "pending"})
    assert finished.file("a.tsv.gz")["failed"] == 100
    assert names(tmp_path) == ["a.tsv.gz"]  # its rejected lines will be saved when it is done


@both_loaders
@pytest.mark.parametrize("begun", [b"", b"\x1f"], ids=["empty", "one-byte"])
def test_a_young_file_with_nothing_in_it_yet_is_pending_and_holds_later_files_back(
    tmp_path: Path, servers: Servers, loader: Loader, begun: bytes
) -> None:
    (tmp_path / "a.gz").write_bytes(begun)
    write_gz(tmp_path / "b.gz", line())
    finished = load(loader, tmp_path / "*.gz", servers)
    assert (finished.exit_code, finished.statuses()) == (1, {"a.gz": "pending", "b.gz": "pending"})
    assert finished.file("a.gz")["records"] == 0
    assert names(tmp_path) == ["a.gz", "b.gz"]


@both_loaders
def test_an_empty_file_that_nobody_writes_any_more_is_done(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    (tmp_path / "a.gz").write_bytes(b"")
    make_old(tmp_path / "a.gz")
    write_gz(tmp_path / "b.gz", line())
    finished = load(loader, tmp_path / "*.gz", servers)
    assert (finished.exit_code, finished.statuses()) == (0, {"a.gz": "done", "b.gz": "done"})
    assert names(tmp_path) == [".a.gz", ".b.gz"]


# --- errors ---------------------------------------------------------------------------------------


def make_link(path: Path) -> None:
    write_gz(path.parent / "target", numbered(10, prefix="linked"))
    path.symlink_to("target")


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_unreadable(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    write_gz(path, numbered(10))
    path.chmod(0)


@both_loaders
@pytest.mark.parametrize("make", [make_link, make_dangling_link, os.mkfifo, make_unreadable])
def test_what_is_no_readable_file_is_an_error_and_the_others_go_on(
    tmp_path: Path, servers: Servers, loader: Loader, make: Callable[[Path], None]
) -> None:
    first = write_gz(tmp_path / "a.gz", numbered(10, prefix="a"))
    make(tmp_path / "b.gz")
    last = write_gz(tmp_path / "c.gz", numbered(10, prefix="c"))
    finished = load(loader, tmp_path / "*.gz", servers)
    assert (finished.exit_code, finished.statuses()) == (1, {"a.gz": "done", "b.gz": "error", "c.gz": "done"})
    assert [text for text in finished.messages("E") if str(tmp_path / "b.gz") in text] != []
    assert contents(servers) == expected(first, last).items
    assert os.path.lexists(tmp_path / "b.gz")


@pytest.mark.parametrize("loader", [REFERENCE, PARALLEL, SMALL_BLOCKS], ids=["reference", "python", "default"])
def test_a_file_that_vanishes_before_its_turn_is_an_error_and_the_others_go_on(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    inbox = make_inbox(tmp_path / "in", [numbered(4000), numbered(10, prefix="lost"), numbered(10, prefix="last")])
    vanish = trigger(1000, (inbox.directory / "1.tsv.gz").unlink)  # many blocks before it would be opened
    with FaultyProxy(servers["gaid"].address, vanish) as watch:
        finished = load(loader, inbox.pattern, servers, gaid=watch.address)
    assert finished.exit_code == 1
    assert finished.statuses() == {"0.tsv.gz": "done", "1.tsv.gz": "error", "2.tsv.gz": "done"}
    assert contents(servers) == expected(inbox.logs[0], inbox.logs[2]).items


@both_loaders
def test_a_file_whose_name_is_too_long_to_be_renamed_is_an_error_and_holds_nothing_back(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    longest = "b" * 255  # with a dot before it, longer than a name can be
    first = write_gz(tmp_path / "a", line(apps="1"))
    write_gz(tmp_path / longest, line(apps="2"))
    last = write_gz(tmp_path / "c", line("gaid"))
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.statuses()) == (1, {"a": "done", longest: "error", "c": "done"})
    assert names(tmp_path) == [".a", ".c", longest]
    assert contents(servers) == expected(first, last).items  # or the next run would load an older record again
