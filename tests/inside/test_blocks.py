"""A file becomes blocks of whole lines: all of them, in order, in bounded memory, damaged or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from xopen import xopen

from memcload.blocks import LogFile, cut_line
from memcload.records import MAX_LINE_LENGTH, InvalidLine, is_blank, parse_appsinstalled, strip_line_ending

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MIB = 1 << 20
LINES = b"".join(b"idfa\t%d\t67.78\t-22.80\t7942,%d\n" % (number * 7919, number) for number in range(300))


def zstandard(data: bytes) -> bytes:
    packed = io.BytesIO()
    with xopen(packed, "wb", format="zst", threads=0) as file:
        file.write(data)
    return packed.getvalue()


def plain(data: bytes) -> bytes:
    return data


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "plain": plain,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path for one file after the other."""
    return tmp_path_factory.mktemp("blocks") / "20170929000000.tsv.gz"


def read(path: Path, content: bytes, block_size: int = MIB) -> tuple[bytes, str | None]:
    """Write a file; return what its blocks hold together, and its damage. Every block is of whole lines."""
    path.write_bytes(content)
    with LogFile(str(path)) as log:
        blocks = list(log.blocks(block_size))
        assert all(block.endswith(b"\n") for block in blocks)
        assert bool(log.damage) == bool(log.description)
        return b"".join(blocks), log.damage


def ended(data: bytes) -> bytes:
    r"""Return lines whose last one has a `\n` too."""
    return data if data.endswith(b"\n") or not data else data + b"\n"


# --- whole files --------------------------------------------------------------------------------

SHORT_LINES = st.lists(st.sampled_from([b"\n", b"\r", b"\t", b"a", b"bc", b"\x00", b"\x1f\x8b", b"idfa"])).map(b"".join)


@settings(PATIENT, max_examples=200)
@given(
    st.lists(SHORT_LINES, min_size=1, max_size=3),
    st.integers(1, 40) | st.just(MIB),
    st.sampled_from(sorted(FORMATS)),
)
@example([b""], 1, "plain")
@example([b"", b""], 1, "gz")
@example([b"\n"], 1, "plain")
@example([b"last line without an ending"], 1, "gz")
def test_the_blocks_are_the_lines_of_the_file(file: Path, parts: list[bytes], block_size: int, name: str) -> None:
    text = b"a line\n" + b"".join(parts)  # so that plain text is not taken for an archive
    members = [b"a line\n", *parts]
    content = b"".join(map(FORMATS[name], members))
    assert read(file, content, block_size) == (ended(text), None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("file_name", ["a.tsv.gz", "a.tsv", "a.bz2", "a.xz", "a.zst", "a"])
def test_the_content_and_not_the_name_tells_the_format(tmp_path: Path, name: str, file_name: str) -> None:
    assert read(tmp_path / file_name, FORMATS[name](LINES)) == (LINES, None)


@pytest.mark.parametrize("name", FORMATS)
def test_a_block_size_of_one_is_as_good_as_any(file: Path, name: str) -> None:
    assert read(file, FORMATS[name](LINES), 1) == (LINES, None)


@pytest.mark.parametrize("block_size", [1000, 4096])
def test_a_block_is_about_as_big_as_asked_for(file: Path, block_size: int) -> None:
    file.write_bytes(gzip.compress(LINES))
    with LogFile(str(file)) as log:
        *blocks, _ = (len(block) for block in log.blocks(block_size))
    assert blocks
    assert all(block_size - 50 <= length <= block_size + 50 for length in blocks)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_has_no_blocks(file: Path, name: str) -> None:
    assert read(file, FORMATS[name](b"")) == (b"", None)


def test_the_last_line_gets_the_ending_that_it_lacks(file: Path) -> None:
    assert read(file, gzip.compress(b"a\nb")) == (b"a\nb\n", None)
    assert read(file, gzip.compress(b"a\nb\r")) == (b"a\nb\r\n", None)


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_known_how_much_of_the_file_has_been_read(file: Path, name: str) -> None:
    content = FORMATS[name](random.Random(1).randbytes(300_000).replace(b"\n", b"") + b"\n" + LINES)
    file.write_bytes(content)
    with LogFile(str(file)) as log:
        blocks = log.blocks(1000)
        next(blocks)
        assert 0 < log.bytes_read <= len(content)
        for _ in blocks:
            pass
        assert log.bytes_read == len(content)


# --- damaged gzip -------------------------------------------------------------------------------


def readable(content: bytes) -> bytes:
    """Return the whole lines that zlib finds in a damaged gzip file when it is fed byte by byte."""
    found = bytearray()
    member = zlib.decompressobj(wbits=31)
    try:
        for position in range(len(content)):
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            found += member.decompress(content[position : position + 1])
    except zlib.error:
        pass
    return bytes(found[: found.rfind(b"\n") + 1])


PACKED = [
    gzip.compress(LINES, mtime=0),
    gzip.compress(LINES, compresslevel=1, mtime=0),
    gzip.compress(LINES[:4000], compresslevel=0, mtime=0),  # stored, not compressed
    gzip.compress(LINES[:500] + b"\n" * 5000, mtime=0),  # a match of 258 bytes for every few bits
    gzip.compress(b"x" * 100_000 + b"\n" + LINES[:2000], mtime=0),
    gzip.compress(LINES[:3000], mtime=0) + gzip.compress(LINES[3000:6010], mtime=0),
]
WHICH = st.integers(0, len(PACKED) - 1)
BLOCK_SIZES = st.sampled_from([MIB, 5000, 100, 1])


@settings(PATIENT, max_examples=150)
@given(WHICH, st.integers(2), BLOCK_SIZES)
@example(0, 62, MIB)
@example(3, 200, MIB)
@example(0, len(PACKED[0]) - 1, MIB)
@example(0, len(PACKED[0]) - 8, 100)
def test_a_truncated_file_gives_what_can_be_read(file: Path, which: int, length: int, block_size: int) -> None:
    content = PACKED[which][: length % len(PACKED[which])]
    assume(len(content) > 2)
    assume(content != gzip.compress(LINES[:3000], mtime=0))  # cut between two members: nothing can tell
    assert read(file, content, block_size) == (readable(content), "truncated")


@settings(PATIENT, max_examples=150)
@given(WHICH, st.integers(2), st.integers(1, 255), BLOCK_SIZES)
def test_a_corrupt_file_gives_what_can_be_read(
    file: Path, which: int, place: int, change: int, block_size: int
) -> None:
    spoiled = bytearray(PACKED[which])
    spoiled[2 + place % (len(spoiled) - 2)] ^= change
    content = bytes(spoiled)
    lines, damage = read(file, content, block_size)
    if damage:
        assert lines == readable(content)
    else:  # the time, say: not everything in a header matters
        assert lines == ended(gzip.decompress(content))


@pytest.mark.parametrize("block_size", [MIB, 100, 1])
@pytest.mark.parametrize("end", [8, 4], ids=["checksum", "length"])
def test_a_wrong_checksum_or_length_is_damage_behind_all_lines(file: Path, end: int, block_size: int) -> None:
    content = bytearray(gzip.compress(LINES))
    content[-end] ^= 1
    assert read(file, bytes(content), block_size) == (LINES, "corrupt")


@pytest.mark.parametrize("block_size", [MIB, 100, 1])
@pytest.mark.parametrize("garbage", [b"garbage", b"\x00\x00garbage", b"not gzip at all, but longer", LINES])
def test_garbage_behind_the_end_is_damage_behind_all_lines(file: Path, garbage: bytes, block_size: int) -> None:
    lines, damage = read(file, gzip.compress(LINES) + garbage, block_size)
    assert lines == LINES
    assert damage


@pytest.mark.parametrize("block_size", [MIB, 100])
def test_zeros_that_pad_a_file_are_no_damage(file: Path, block_size: int) -> None:
    assert read(file, gzip.compress(LINES) + b"\x00" * 5000, block_size) == (LINES, None)


def test_a_line_that_damage_cut_off_is_left_out(file: Path) -> None:
    content = gzip.compress(b"whole\nidfa\t1\t1\t1\t1234", compresslevel=0)
    assert read(file, content[: content.index(b"34")]) == (b"whole\n", "truncated")
    assert read(file, content[:-8] + b"\xff" * 8) == (b"whole\n", "corrupt")


@pytest.mark.parametrize("length", range(1, 11))
def test_a_gzip_file_that_has_only_just_begun_is_truncated(file: Path, length: int) -> None:
    assert read(file, gzip.compress(LINES)[:length]) == (b"", "truncated")


@pytest.mark.parametrize("block_size", [MIB, 100])
@pytest.mark.parametrize("name", ["bz2", "xz", "zst"])
def test_a_truncated_archive_of_another_format_is_damaged_too(file: Path, name: str, block_size: int) -> None:
    lines, damage = read(file, FORMATS[name](LINES)[:-9], block_size)
    assert damage == "truncated"
    assert LINES.startswith(lines)


# --- long lines ---------------------------------------------------------------------------------


def verdicts(block: bytes) -> list[str]:
    """Return what becomes of each line of a block."""
    found = []
    for line in block.split(b"\n")[:-1]:
        text = strip_line_ending(line)
        try:
            found.append("blank" if is_blank(text) else f"record {parse_appsinstalled(text).dev_id}")
        except InvalidLine as error:
            found.append(error.reason)
    return found


GOOD = b"idfa\tbefore\t1\t1\t1\n"
FILLED_UP = b"idfa\tfull\t1\t1\t1" + b" " * (MAX_LINE_LENGTH - len(b"idfa\tfull\t1\t1\t1"))


@pytest.mark.parametrize("block_size", [1000, MIB, 3 * MIB, 8 * MIB])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (FILLED_UP, "record full"),
        (FILLED_UP + b" ", "line_too_long"),
        (FILLED_UP + b" " * 5 * MIB, "line_too_long"),
        (b" " * 4 * MIB, "blank"),
        (b" " * 4 * MIB + b"x", "line_too_long"),
        (b" " * 2 * MIB + b"x" + b" " * 2 * MIB, "line_too_long"),
        (b"\t" * (MIB + 1) + b"\r" * 7 + b"x\r", "line_too_long"),
        (b"x" + b" " * 4 * MIB, "line_too_long"),
    ],
    ids=["longest", "too long", "far too long", "blank", "late", "amid", "tabs", "early"],
)
def test_a_long_line_gets_its_verdict_and_the_others_theirs(
    file: Path, line: bytes, verdict: str, ending: bytes, block_size: int
) -> None:
    last = b"gaid\tafter\t1\t1\t1\n" if ending else b""
    content = GOOD + line + ending + last
    expected = ["record before", verdict, *(["record after"] if ending else [])]
    lines, damage = read(file, content, block_size)
    assert (verdicts(lines), damage) == (expected, None)


@pytest.mark.parametrize("block_size", [1000, MIB])
def test_no_more_is_kept_of_a_long_line_than_tells_that_it_is_too_long(file: Path, block_size: int) -> None:
    lines, _ = read(file, gzip.compress(b"x" * 5 * MIB + b"\n" + GOOD), block_size)
    assert len(lines) - len(GOOD) == len(cut_line(b"x" * 5 * MIB)) + 1 <= MAX_LINE_LENGTH + 3


# --- memory -------------------------------------------------------------------------------------


def members(piece: bytes, count: int) -> Iterator[bytes]:
    """Yield the bytes of a gzip file that holds a piece so many times."""
    packed = zlib.compressobj(1, wbits=31)
    for _ in range(count):
        yield packed.compress(piece)
    yield packed.flush()


@pytest.mark.parametrize("piece", [b"x" * MIB, b"\x00" * MIB, b" " * MIB], ids=["letters", "zeros", "white space"])
def test_a_line_of_200_megabytes_takes_little_memory(file: Path, piece: bytes) -> None:
    with file.open("wb") as packed:
        packed.writelines(members(piece, 200))
    assert file.stat().st_size < 2 * MIB
    assert peak_memory(file) < 10 * MIB


@pytest.mark.parametrize("piece", [b"\n" * MIB, (b"x" * 1023 + b"\n") * 1024], ids=["blank lines", "short lines"])
def test_a_gzip_bomb_takes_little_memory(file: Path, piece: bytes) -> None:
    with file.open("wb") as packed:
        packed.writelines(members(piece, 100))
    assert peak_memory(file) < 10 * MIB


def test_a_truncated_gzip_bomb_takes_little_memory(file: Path) -> None:
    file.write_bytes(b"".join(members(b"x" * 1023 + b"\n" * 1025, 50_000))[:-9])
    assert peak_memory(file, block_size=1 << 16) < 10 * MIB


def peak_memory(path: Path, block_size: int = MIB) -> int:
    """Return how much memory it takes at most to go through the blocks of a file."""
    tracemalloc.start()
    try:
        with LogFile(str(path)) as log:
            for _ in log.blocks(block_size):
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- what is no log file ------------------------------------------------------------------------


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(LINES)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="link"):
        LogFile(str(tmp_path / "link"))


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        LogFile(str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/null", "not a regular file"), ("/", "directory"), ("missing", "No such file.*missing")]
)
def test_what_is_no_file_is_refused(path: str, why: str) -> None:
    with pytest.raises(OSError, match=why):
        LogFile(path)


# --- has it changed? ----------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    (tmp_path / "log").write_bytes(LINES)
    os.utime(tmp_path / "log", (1e9, 1e9))
    with LogFile(str(tmp_path / "log")) as log:
        yield log


def test_a_file_that_was_only_read_is_unchanged(log: LogFile) -> None:
    assert b"".join(log.blocks(100)) == LINES
    os.utime(log.path, (2e9, 1e9))  # when it was last read
    assert log.is_unchanged()


def test_a_file_that_grew_is_changed(log: LogFile) -> None:
    with open(log.path, "ab") as file:
        file.write(b"x")
    os.utime(log.path, (1e9, 1e9))
    assert not log.is_unchanged()


def test_a_file_that_was_written_over_is_changed(log: LogFile) -> None:
    with open(log.path, "r+b") as file:
        file.write(b"x")
    assert not log.is_unchanged()


def test_a_file_that_was_replaced_is_changed(log: LogFile) -> None:
    other = Path(f"{log.path}.new")
    other.write_bytes(LINES)
    os.utime(other, (1e9, 1e9))
    other.replace(log.path)
    assert not log.is_unchanged()


def test_a_file_that_was_deleted_is_changed(log: LogFile) -> None:
    os.unlink(log.path)
    assert not log.is_unchanged()


def test_a_file_that_became_a_link_to_itself_is_changed(log: LogFile) -> None:
    os.rename(log.path, f"{log.path}.moved")
    os.symlink(f"{log.path}.moved", log.path)
    assert not log.is_unchanged()


def test_a_closed_file_has_nothing_more_to_tell(log: LogFile) -> None:
    log.close()
    assert log.bytes_read == 0
