"""Archives that are cut off or corrupt: what can be read is loaded, and none of them is called done."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.outside.loading import Loader, all_loaders, both_loaders, load
from tests.outside.logs import line, make_old, names, numbered, write_gz
from tests.outside.memcached import Servers, closed_port, contents
from tests.outside.spec import expected
from tests.outside.zstandard import zstd


def zstd_with_checksum(log: bytes) -> bytes:
    return zstd.compress(log, options={zstd.CompressionParameter.checksum_flag: 1})


def truncated(log: bytes) -> tuple[bytes, bytes]:
    """Return a gzip file that was cut off, and the whole lines that can be read of it."""
    packed = gzip.compress(log)
    cut = packed[: len(packed) * 2 // 3]
    readable = zlib.decompressobj(wbits=31).decompress(cut)
    return cut, readable[: readable.rindex(b"\n") + 1]


@both_loaders
@pytest.mark.parametrize("options", [(), ("--settle", "3600")])
def test_a_truncated_file_that_is_young_is_taken_as_still_being_written(
    tmp_path: Path, servers: Servers, loader: Loader, options: Sequence[str]
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
    tmp_path: Path, servers: Servers, loader: Loader
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
    tmp_path: Path, servers: Servers, loader: Loader
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


@all_loaders
@pytest.mark.parametrize("spoiled", [spoiled_checksum, spoiled_block])
def test_a_corrupt_file_is_set_aside_at_once(
    tmp_path: Path, servers: Servers, loader: Loader, spoiled: Callable[[bytes], bytes]
) -> None:
    first, second = numbered(500), numbered(500, prefix="second")
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(first) + spoiled(second))
    later = write_gz(tmp_path / "b.tsv.gz", numbered(10).replace(b"55.55", b"-1"))
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.statuses()) == (1, {"a.tsv.gz": "damaged", "b.tsv.gz": "done"})
    assert names(tmp_path) == [".a.tsv.gz.damaged", ".b.tsv.gz"]
    assert contents(servers) == expected(first, second, later).items


@both_loaders
def test_setting_aside_never_overwrites(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for _ in range(3):
        (tmp_path / "a.tsv.gz").write_bytes(truncated(numbered(100))[0])
        load(loader, tmp_path / "*", servers, "--settle", "0")
    assert names(tmp_path) == [".a.tsv.gz.damaged", ".a.tsv.gz.damaged.1", ".a.tsv.gz.damaged.2"]


@both_loaders
@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, zstd_with_checksum], ids=["bz2", "xz", "zst"])
def test_any_other_corrupt_archive_is_set_aside_at_once(
    tmp_path: Path, servers: Servers, loader: Loader, compress: Callable[[bytes], bytes]
) -> None:
    log = numbered(30_000)
    packed = bytearray(compress(log))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "a").write_bytes(packed)
    later = write_gz(tmp_path / "b", line(dev_id="later"))
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.statuses()) == (1, {"a": "damaged", "b": "done"})
    assert (tmp_path / ".a.damaged").read_bytes() == packed
    assert {"a", ".a", "b"}.isdisjoint(names(tmp_path))
    assert contents(servers)[b"idfa:later"] == expected(later).items[b"idfa:later"]


@both_loaders
def test_a_damaged_file_behind_a_pending_one_keeps_its_name(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", line("idfa"))
    (tmp_path / "b.gz").write_bytes(truncated(numbered(400, types=["gaid"]))[0])
    make_old(tmp_path / "b.gz")
    with closed_port() as nowhere:
        finished = load(loader, tmp_path / "*.gz", servers, "--retries", "0", idfa=nowhere)
    assert finished.exit_code == 1
    assert names(tmp_path) == ["a.gz", "b.gz"]
    assert load(loader, tmp_path / "*.gz", servers).statuses() == {"a.gz": "done", "b.gz": "damaged"}
    assert names(tmp_path) == [".a.gz", ".b.gz.damaged"]


@both_loaders
@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, zstd.compress], ids=["bz2", "xz", "zst"])
def test_no_other_truncated_archive_is_called_done(
    tmp_path: Path, servers: Servers, loader: Loader, compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a").write_bytes(compress(numbered(1500))[:-300])
    assert load(loader, tmp_path / "*", servers).exit_code == 1
    assert names(tmp_path) == ["a"]
    make_old(tmp_path / "a")
    assert load(loader, tmp_path / "*", servers).exit_code == 1
    assert names(tmp_path) == [".a.damaged"]
    assert contents(servers).items() <= expected(numbered(1500)).items.items()
