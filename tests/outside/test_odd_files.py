"""Files that are dated in the future, still open, cut within a line, no logs at all, or full of bad lines."""

from __future__ import annotations

import codecs
import gzip
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, PARALLEL, REFERENCE, Loader, Running, all_loaders, load
from tests.outside.logs import line, make_old, names, numbered, write_gz, write_repeated
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.memory import run_measured
from tests.outside.spec import expected

# --- files that may still be being written ------------------------------------------------------


def date(path: Path, seconds: float) -> None:
    """Date a file this many seconds from now."""
    os.utime(path, (time.time() + seconds,) * 2)


@all_loaders
def test_a_clock_that_was_wrong_holds_nothing_back(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    logs = {"a": gzip.compress(numbered(10)), "b": b"", "c": line("gaid"), "d": gzip.compress(line("dvid"))[:-4]}
    for name, content in logs.items():
        (tmp_path / name).write_bytes(content)
        date(tmp_path / name, 34_560)
    finished = load(loader, tmp_path / "*", servers, "--min-age", "60")
    assert finished.statuses() == {"a": "done", "b": "done", "c": "done", "d": "damaged"}
    assert finished.file("d")["reason"] == "truncated"
    assert contents(servers).keys() >= expected(numbered(10), line("gaid")).items.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file open")
@all_loaders
def test_a_file_that_another_process_has_open_for_writing_is_pending_at_any_age(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    for name in ("a.gz", "b.tsv", "c.gz"):
        content = numbered(10, prefix=name)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        make_old(tmp_path / name)
    writer = 'exec 3>>"$0"; echo ready; read _'
    with subprocess.Popen(
        ["sh", "-c", writer, str(tmp_path / "b.tsv")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        finished = load(loader, tmp_path / "*", servers)
        process.communicate(b"\n")
    assert finished.statuses() == {"a.gz": "done", "b.tsv": "pending", "c.gz": "pending"}
    assert finished.file("b.tsv")["reason"] == "still_being_written"
    with (tmp_path / "b.tsv").open("rb"):  # a reader is no writer
        assert load(loader, tmp_path / "*", servers).statuses() == {"b.tsv": "done", "c.gz": "done"}


@all_loaders
def test_plain_text_that_ends_within_a_line_is_still_being_written_while_it_is_young(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    log = numbered(20)
    (tmp_path / "a").write_bytes(log[:-9])
    (tmp_path / "b").write_bytes(gzip.compress(log[:-9]))  # a whole archive is whole
    finished = load(loader, tmp_path / "*", servers)
    assert finished.file("a")["reason"] == "still_being_written"
    assert finished.file("b")["reason"] == "earlier_file_pending"
    (tmp_path / "a").write_bytes(log)
    assert load(loader, tmp_path / "*", servers).statuses() == {"a": "done", "b": "done"}
    (tmp_path / "c").write_bytes(log[:-9])
    assert load(loader, tmp_path / "*", servers, "--settle", "0").statuses() == {"c": "done"}
    (tmp_path / "d").write_bytes(log[:-9])
    make_old(tmp_path / "d")
    assert load(loader, tmp_path / "*", servers).statuses() == {"d": "done"}


# --- what is no log -----------------------------------------------------------------------------


def as_zip(log: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.tsv", log)


def by_tool(*command: str) -> Callable[[bytes, Path], None]:
    def write(log: bytes, path: Path) -> None:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        path.write_bytes(subprocess.run(command, input=log, capture_output=True, check=True).stdout)

    return write


def as_text(*, encoding: str, mark: bytes = b"") -> Callable[[bytes, Path], None]:
    def write(log: bytes, path: Path) -> None:
        path.write_bytes(mark + log.decode().encode(encoding))

    return write


def packed(inner: Callable[[bytes, Path], None]) -> Callable[[bytes, Path], None]:
    def write(log: bytes, path: Path) -> None:
        inner(log, path)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return write


FOREIGN: dict[str, tuple[str, Callable[[bytes, Path], None]]] = {
    "zip": ("zip", as_zip),
    "lz4": ("lz4", by_tool("lz4", "-c")),
    "lzma": ("lzma", by_tool("xz", "--format=lzma", "-c")),
    "utf-16": ("UTF-16", as_text(encoding="utf-16")),
    "utf-16-be": ("UTF-16", as_text(encoding="utf-16-be", mark=codecs.BOM_UTF16_BE)),
    "utf-32": ("UTF-32", as_text(encoding="utf-32")),
    "gzip-of-zip": ("zip", packed(as_zip)),
    "gzip-twice": ("gzip", packed(by_tool("gzip", "-c"))),
    "gzip-of-utf-16": ("UTF-16", packed(as_text(encoding="utf-16"))),
}


@all_loaders
def test_what_is_no_log_is_damaged_and_named(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for name, (_, write) in FOREIGN.items():
        write(numbered(40), tmp_path / name)
    later = write_gz(tmp_path / "z", line())
    finished = load(loader, tmp_path / "*", servers)
    assert finished.exit_code == 1
    assert finished.statuses() == {**dict.fromkeys(sorted(FOREIGN), "damaged"), "z": "done"}
    for name, (kind, _) in FOREIGN.items():
        assert finished.file(name)["reason"] == "unsupported"
        assert kind in finished.file(name)["detail"]
        assert "gzip, bz2, xz" in finished.file(name)["detail"]  # what can be read
        assert finished.file(name)["records"] == 0
    assert len([message for message in finished.messages() if "Successful load" in message]) == 1  # of z
    assert contents(servers) == expected(later).items


@all_loaders
def test_a_byte_order_mark_is_not_part_of_the_first_line(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    log = numbered(10)
    (tmp_path / "a").write_bytes(codecs.BOM_UTF8 + log)
    write_gz(tmp_path / "b", codecs.BOM_UTF8 + numbered(10, prefix="packed"))
    (tmp_path / "c").write_bytes(gzip.compress(b"\xef") + gzip.compress(b"\xbb\xbf" + line("gaid")))
    (tmp_path / "d").write_bytes(line("dvid") + codecs.BOM_UTF8 + line("dvid", "second"))  # elsewhere it is a fault
    (tmp_path / "e").write_bytes(codecs.BOM_UTF8)
    make_old(tmp_path / "e")
    finished = load(loader, tmp_path / "*", servers, "--max-error-rate", "1")
    assert finished.statuses() == dict.fromkeys("abcd", "done") | {"e": "done"}
    rejected = {name: finished.file(name)["rejected"] for name in "abcd"}
    assert rejected == {"a": {}, "b": {}, "c": {}, "d": {"device_type": 1}}
    assert contents(servers) == expected(log, numbered(10, prefix="packed"), line("gaid"), line("dvid")).items


# --- patterns -----------------------------------------------------------------------------------


@all_loaders
def test_links_that_lead_around_in_circles_come_to_an_end(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "a/b").mkdir(parents=True)
    for link in ("one", "two", "a/up", "a/b/top"):
        (inbox / link).symlink_to(inbox)
    logs = [write_gz(inbox / path, numbered(10, prefix=path)) for path in ("x.gz", "a/y.gz", "a/b/z.gz")]
    finished = load(loader, f"{inbox}/**/*.gz", servers)
    assert finished.exit_code == 0
    assert finished.statuses() == dict.fromkeys(("y.gz", "z.gz", "x.gz"), "done")
    assert contents(servers) == expected(*logs).items


# --- rejected lines -----------------------------------------------------------------------------


@pytest.mark.parametrize(("loader", "kept"), [(PARALLEL[:3], None), (DEFAULT, 1000)], ids=["python", "default"])
def test_millions_of_bad_lines_take_little_memory_and_disk(
    tmp_path: Path, servers: Servers, loader: Loader, kept: int | None
) -> None:
    small, inbox = tmp_path / "small", tmp_path / "inbox"
    small.mkdir()
    inbox.mkdir()
    write_gz(small / "a.gz", line())
    _, usual = run_measured(loader, small / "*", *addresses(servers))
    count = 500_000  # as short as they can be, so that as many as possible are under way
    write_repeated(inbox / "a.gz", b"x\n" * 10_000, times=count // 10_000)
    write_gz(inbox / "b.gz", line())
    options = [] if kept is None else ["--max-rejects", str(kept)]
    finished, peak = run_measured(
        loader,
        inbox / "*",
        *addresses(servers),
        "--max-error-rate",
        "1",
        *options,
        "--report",
        str(tmp_path / "report"),
    )
    assert finished.exit_code == 0
    assert peak < usual + 75
    saved = 100_000 if kept is None else kept
    with (inbox / ".a.gz.rejects.tsv").open("rb") as file:
        assert sum(1 for _ in file) == saved
    assert finished.says(f"{count - saved:,} more", "IW")
    assert f'"columns": {count}' in (tmp_path / "report").read_text()


@all_loaders
def test_without_any_kept_rejected_lines_are_counted_all_the_same(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(tmp_path / "a.gz", b"rejected\n" * 5 + line())
    finished = load(loader, tmp_path / "*", servers, "--max-error-rate", "1", "--max-rejects", "0")
    assert finished.exit_code == 0
    assert finished.report["totals"]["rejected"] == {"columns": 5}
    assert names(tmp_path) == [".a.gz"]


@pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])
def test_runs_that_save_rejected_lines_in_one_directory_overwrite_nothing(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    rejects = tmp_path / "rejects"
    rejects.mkdir()
    runs = 3
    for number in range(runs):
        (tmp_path / f"{number}").mkdir()
        for name in "abcdef":
            write_gz(tmp_path / f"{number}" / name, b"rejected %d\n" % number * 50 + line())
    started: list[AbstractContextManager[Running]] = []
    for number in range(runs):
        options = ("--rejects", str(rejects), "--max-error-rate", "1")
        started.append(Running(loader, tmp_path / f"{number}/*", *addresses(servers), *options))
    for context in started:
        with context as running:
            assert running.finish().exit_code == 0
    saved = {path.name: path.read_bytes() for path in rejects.iterdir()}
    assert len(saved) == runs * 6
    assert {name.partition(".rejects")[0] for name in saved} == {f".{name}" for name in "abcdef"}
    for content in saved.values():
        assert content.count(b"\n") == 50
        assert len({text.rpartition(b"\t")[2] for text in content.splitlines()}) == 1  # of one run
    assert sorted(content[-2:] for content in saved.values()) == sorted(
        b"%d\n" % n for n in range(runs) for _ in "abcdef"
    )
