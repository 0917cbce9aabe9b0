"""What becomes of files: found, ordered, renamed, left pending or set aside, and their rejected lines."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from backports import zstd

from tests.outside.faults import trigger
from tests.outside.loading import PARALLEL, REFERENCE, SMALL_BLOCKS, Loader, Running, both_loaders, load
from tests.outside.logs import line, make_inbox, make_old, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port, contents, everywhere, silent_server
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import expected


def processed(log: Sequence[str]) -> list[str]:
    """Return the paths of the files, in the order in which the log has them."""
    return [found[1] for found in (re.search(r" I Processing (.*)", text) for text in log) if found]


# --- found ----------------------------------------------------------------------------------------


@both_loaders
def test_files_are_loaded_in_the_order_of_their_names(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    for name in ("b", "a10", "B", "a2", "c"):  # not the order in which they are written
        write_gz(tmp_path / f"{name}.tsv.gz", line(lat=f"{ord(name[0])}", lon=f"{len(name)}"))
    finished = load(loader, tmp_path / "*.tsv.gz", servers)
    in_order = [str(tmp_path / f"{name}.tsv.gz") for name in ("B", "a10", "a2", "b", "c")]
    assert processed(finished.log) == [file["path"] for file in finished.report["files"]] == in_order
    assert contents(servers) == expected(line(lat="99", lon="1")).items


@both_loaders
def test_a_pattern_may_reach_into_directories(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
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
    tmp_path: Path, servers: Servers, loader: Sequence[str], pattern: str
) -> None:
    write_gz(tmp_path / ".a.tsv.gz", numbered(10))
    assert load(loader, tmp_path / pattern, servers).exit_code == 0
    assert (contents(servers), names(tmp_path)) == ({}, [".a.tsv.gz"])


@both_loaders
@pytest.mark.parametrize("pattern", ["*.tsv.gz", "no/such/directory/*", "directory"])
def test_nothing_to_load_is_no_error(tmp_path: Path, loader: Sequence[str], servers: Servers, pattern: str) -> None:
    (tmp_path / "directory").mkdir()
    finished = load(loader, tmp_path / pattern, servers)
    assert (finished.exit_code, finished.report["files"]) == (0, [])


@both_loaders
@pytest.mark.parametrize(
    "name", [b"two words.gz", b"line\nfeed.gz", b"tab\tand\\n.gz", "журнал.gz".encode(), b"latin-\xe9\xff.gz", b"-.gz"]
)
def test_a_name_may_be_anything(tmp_path: Path, servers: Servers, loader: Sequence[str], name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    write_gz(Path(os.fsdecode(path)), numbered(199) + b"bad\n")
    finished = load(loader, tmp_path / "*.gz", servers)
    assert finished.exit_code == 0
    assert finished.report["files"][0]["path"] == os.fsdecode(path)
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"." + name, b"." + name + b".rejects.tsv"]
    assert contents(servers) == expected(numbered(199)).items


# --- done -----------------------------------------------------------------------------------------


@both_loaders
def test_a_file_that_is_done_is_renamed_and_not_loaded_again(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(100))
    packed = (tmp_path / "a.tsv.gz").read_bytes()
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.statuses()) == (0, {"a.tsv.gz": "done"})
    assert names(tmp_path) == [".a.tsv.gz"]  # no file of a lock either
    assert (tmp_path / ".a.tsv.gz").read_bytes() == packed
    assert load(loader, tmp_path / "*", servers).report["files"] == []


@both_loaders
def test_renaming_never_overwrites(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    for number in range(4):
        write_gz(tmp_path / "a.tsv.gz", line(apps=str(number)))
        assert load(loader, tmp_path / "*", servers).exit_code == 0
    renamed = [".a.tsv.gz", ".a.tsv.gz.1", ".a.tsv.gz.2", ".a.tsv.gz.3"]
    assert names(tmp_path) == renamed
    loaded = [gzip.decompress((tmp_path / name).read_bytes()) for name in renamed]
    assert loaded == [line(apps=str(number)) for number in range(4)]


@both_loaders
def test_renaming_stops_short_even_of_a_dangling_link(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    (tmp_path / ".a.tsv.gz").symlink_to("nowhere")
    write_gz(tmp_path / "a.tsv.gz", numbered(10))
    assert load(loader, tmp_path / "*", servers).exit_code == 0
    assert names(tmp_path) == [".a.tsv.gz", ".a.tsv.gz.1"]
    assert (tmp_path / ".a.tsv.gz").is_symlink()


# --- pending --------------------------------------------------------------------------------------


@both_loaders
@pytest.mark.parametrize("retries", ["0", "1"])
def test_a_file_with_failed_records_stays_pending_and_so_do_all_later_ones(
    tmp_path: Path, servers: Servers, loader: Sequence[str], retries: str
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
    assert finished.report["devices"]["idfa"]["address"] == nowhere
    assert contents(servers) == {key: item for key, item in everything.items() if not key.startswith(b"idfa")}

    finished = load(loader, tmp_path / "*", servers)
    assert finished.exit_code == 0
    assert finished.statuses() == dict.fromkeys(pending, "done")
    assert names(tmp_path) == [f".{name}" for name in logs]
    assert contents(servers) == everything


@both_loaders
def test_nothing_is_done_while_no_server_is_up(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(100) + b"bad\n")
    with closed_port() as nowhere:
        finished = load(loader, tmp_path / "*", servers, *everywhere(nowhere), "--retries", "0")
    assert (finished.exit_code, finished.statuses()) == (1, {"a.tsv.gz": "pending"})
    assert finished.file("a.tsv.gz")["failed"] == 100
    assert names(tmp_path) == ["a.tsv.gz"]  # its rejected lines will be saved when it is done


# --- damaged --------------------------------------------------------------------------------------


def truncated(log: bytes) -> tuple[bytes, bytes]:
    """Return a gzip file that was cut off, and the whole lines that can be read of it."""
    packed = gzip.compress(log)
    cut = packed[: len(packed) * 2 // 3]
    readable = zlib.decompressobj(wbits=31).decompress(cut)
    return cut, readable[: readable.rindex(b"\n") + 1]


@both_loaders
@pytest.mark.parametrize("options", [(), ("--settle", "3600")])
def test_a_truncated_file_that_is_young_is_taken_as_still_being_written(
    tmp_path: Path, servers: Servers, loader: Sequence[str], options: Sequence[str]
) -> None:
    cut, readable = truncated(numbered(1500))
    (tmp_path / "a.tsv.gz").write_bytes(cut)
    later = write_gz(tmp_path / "b.tsv.gz", numbered(10, prefix="later"))
    finished = load(loader, tmp_path / "*", servers, *options)
    assert (finished.exit_code, finished.statuses()) == (1, {"a.tsv.gz": "pending", "b.tsv.gz": "pending"})
    assert names(tmp_path) == ["a.tsv.gz", "b.tsv.gz"]
    assert contents(servers) == expected(readable, later).items

    log = write_gz(tmp_path / "a.tsv.gz", numbered(1500))
    assert load(loader, tmp_path / "*", servers, *options).exit_code == 0
    assert contents(servers) == expected(log, later).items
    assert names(tmp_path) == [".a.tsv.gz", ".b.tsv.gz"]


@both_loaders
def test_a_truncated_file_that_nobody_writes_any_more_is_set_aside(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    cut, readable = truncated(numbered(1500))
    assert 0 < len(readable) < len(numbered(1500))
    (tmp_path / "a.tsv.gz").write_bytes(cut)
    make_old(tmp_path / "a.tsv.gz")
    later = write_gz(tmp_path / "b.tsv.gz", numbered(100))
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.statuses()) == (1, {"a.tsv.gz": "damaged", "b.tsv.gz": "done"})
    assert names(tmp_path) == [".a.tsv.gz.damaged", ".b.tsv.gz"]
    assert (tmp_path / ".a.tsv.gz.damaged").read_bytes() == cut
    assert contents(servers) == expected(readable, later).items


@both_loaders
def test_how_long_a_file_may_be_written_is_for_the_user_to_say(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(truncated(numbered(100))[0])
    make_old(tmp_path / "a.tsv.gz")
    assert load(loader, tmp_path / "*", servers, "--settle", "7200").statuses() == {"a.tsv.gz": "pending"}
    os.utime(tmp_path / "a.tsv.gz")
    assert load(loader, tmp_path / "*", servers, "--settle", "0").statuses() == {"a.tsv.gz": "damaged"}


def spoiled_checksum(log: bytes) -> bytes:
    packed = bytearray(gzip.compress(log))
    packed[-8] ^= 1
    return bytes(packed)


def spoiled_block(log: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(log) + compressor.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 100  # no deflate block


@both_loaders
@pytest.mark.parametrize("spoiled", [spoiled_checksum, spoiled_block])
def test_a_corrupt_file_is_set_aside_at_once(
    tmp_path: Path, servers: Servers, loader: Sequence[str], spoiled: Callable[[bytes], bytes]
) -> None:
    first, second = numbered(500), numbered(500, prefix="second")
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(first) + spoiled(second))
    later = write_gz(tmp_path / "b.tsv.gz", numbered(10).replace(b"55.55", b"-1"))
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.statuses()) == (1, {"a.tsv.gz": "damaged", "b.tsv.gz": "done"})
    assert names(tmp_path) == [".a.tsv.gz.damaged", ".b.tsv.gz"]
    assert contents(servers) == expected(first, second, later).items


@both_loaders
def test_setting_aside_never_overwrites(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    for _ in range(3):
        (tmp_path / "a.tsv.gz").write_bytes(truncated(numbered(100))[0])
        load(loader, tmp_path / "*", servers, "--settle", "0")
    assert names(tmp_path) == [".a.tsv.gz.damaged", ".a.tsv.gz.damaged.1", ".a.tsv.gz.damaged.2"]


@both_loaders
@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, zstd.compress], ids=["bz2", "xz", "zst"])
def test_no_other_truncated_archive_is_called_done(
    tmp_path: Path, servers: Servers, loader: Sequence[str], compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a").write_bytes(compress(numbered(1500))[:-300])
    assert load(loader, tmp_path / "*", servers).exit_code == 1
    assert names(tmp_path) == ["a"]
    make_old(tmp_path / "a")
    assert load(loader, tmp_path / "*", servers).exit_code == 1
    assert names(tmp_path) == [".a.damaged"]
    assert contents(servers).items() <= expected(numbered(1500)).items.items()


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
    tmp_path: Path, servers: Servers, loader: Sequence[str], make: Callable[[Path], None]
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
def test_a_file_that_can_not_be_renamed_is_an_error_and_the_others_are_loaded(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    longest = "b" * 255  # with a dot before it, longer than a name can be
    logs = [
        write_gz(tmp_path / name, line(apps=str(number)) + line(dev_id=str(number)))
        for number, name in enumerate(("a", longest, "c"))
    ]
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.file("a")["status"], finished.file(longest)["status"]) == (1, "done", "error")
    assert (tmp_path / longest).exists()
    assert contents(servers) == expected(*logs).items
    load(loader, tmp_path / "*", servers)
    assert contents(servers) == expected(*logs).items  # the last record still wins


# --- rejected lines -------------------------------------------------------------------------------

SPOILED = b"".join(
    (
        line(dev_id="a"),
        b"\n",
        b"too\tfew\n",
        line("ifda"),
        line(dev_id="b"),
        line(dev_id="two words").replace(b"\n", b"\r\n"),
        line(lat="nan"),
        line(apps=" "),
        b"\xff\x00\t\x1b[31m\n",
        line(dev_id="c"),
        b"unended",
    )
)


@both_loaders
def test_rejected_lines_are_saved_beside_the_file(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    write_gz(tmp_path / "a.tsv.gz", SPOILED)
    load(loader, tmp_path / "*", servers)
    saved = (tmp_path / ".a.tsv.gz.rejects.tsv").read_bytes()
    assert saved == expected(SPOILED).rejects_file
    assert saved.startswith(
        b"3\tcolumns\ttoo\tfew\n4\tdevice_type\tifda\t1rfw452y52g2gq4g\t55.55\t42.42\t1423\n6\tkey\t"
    )
    assert names(tmp_path) == [".a.tsv.gz", ".a.tsv.gz.rejects.tsv"]


@both_loaders
def test_rejected_lines_load_again_once_they_are_mended(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(98) + line("ifda", "mended") + line("ifda", "too"))
    load(loader, tmp_path / "*.gz", servers)
    saved = (tmp_path / ".a.tsv.gz.rejects.tsv").read_bytes().splitlines(keepends=True)
    mended = b"".join(text.split(b"\t", 2)[2] for text in saved).replace(b"ifda", b"idfa")  # cut -f3-
    (tmp_path / "b.tsv").write_bytes(mended)
    assert load(loader, tmp_path / "*.tsv", servers).exit_code == 0
    assert contents(servers) == expected(numbered(98), line(dev_id="mended"), line(dev_id="too")).items


@both_loaders
def test_rejected_lines_go_where_the_user_says(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "rejects").mkdir()
    write_gz(tmp_path / "in/a.tsv.gz", SPOILED)
    write_gz(tmp_path / "in/b.tsv.gz", numbered(10))
    load(loader, tmp_path / "in/*", servers, "--rejects", str(tmp_path / "rejects"))
    assert names(tmp_path / "in") == [".a.tsv.gz", ".b.tsv.gz"]
    assert names(tmp_path / "rejects") == [".a.tsv.gz.rejects.tsv"]
    assert (tmp_path / "rejects/.a.tsv.gz.rejects.tsv").read_bytes() == expected(SPOILED).rejects_file


@both_loaders
def test_lines_that_another_file_of_the_name_had_rejected_are_kept(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    for text in (b"first\n", b"second\n"):
        write_gz(tmp_path / "a.tsv.gz", text)
        load(loader, tmp_path / "*", servers)
    saved = [path.read_bytes() for path in sorted(tmp_path.glob(".a.tsv.gz.rejects.tsv*"))]
    assert saved == [b"1\tcolumns\tfirst\n", b"1\tcolumns\tsecond\n"]


@both_loaders
@pytest.mark.parametrize(
    ("rejected", "options", "exit_code"),
    [
        (1, (), 0),  # of a hundred: the normal error rate
        (2, (), 1),
        (2, ("--max-error-rate", "0.02"), 0),
        (100, ("--max-error-rate", "1"), 0),
        (1, ("--max-error-rate", "0"), 1),
        (0, ("--max-error-rate", "0"), 0),
    ],
)
def test_a_high_error_rate_fails_the_run_and_the_file_is_still_done(
    tmp_path: Path, servers: Servers, loader: Sequence[str], rejected: int, options: Sequence[str], exit_code: int
) -> None:
    log = write_gz(tmp_path / "a.tsv.gz", b"bad\n" * rejected + numbered(100 - rejected) + b"\n" * 50)
    finished = load(loader, tmp_path / "*", servers, *options)
    limit = options[1] if options else "0.01"
    verdict = (
        [f"High error rate ({rejected / 100} > {float(limit)}). Failed load"]
        if exit_code
        else [f"Acceptable error rate ({rejected / 100}). Successful load"]
    )
    assert [text for text in finished.messages() if "error rate" in text] == verdict
    assert (finished.exit_code, finished.statuses()) == (exit_code, {"a.tsv.gz": "done"})
    assert not (tmp_path / "a.tsv.gz").exists()
    assert contents(servers) == expected(log).items


# --- one run at a time ----------------------------------------------------------------------------


@both_loaders
def test_a_second_run_says_who_holds_the_directory_and_comes_back_later(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
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
def test_runs_in_different_directories_do_not_meet(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        write_gz(tmp_path / directory / "a.tsv.gz", numbered(10))
    with silent_server() as (address, listening), Running(loader, tmp_path / "one/*", *everywhere(address)):
        connection, _ = listening.accept()
        with connection:
            assert load(loader, tmp_path / "two/*", servers).exit_code == 0
