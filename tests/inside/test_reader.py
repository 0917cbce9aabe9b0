"""A file becomes texts of whole lines: all of them, in order, in bounded memory, damaged or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from memcload.records import MAX_LINE_LENGTH, InvalidLine, is_blank, parse_appsinstalled, strip_line_ending
from memcload.source.local import LocalFile
from memcload.source.reader import cut_line
from memcload.text import Text
from tests.outside.zstandard import zstd

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MIB = 1 << 20
LINES = b"".join(b"idfa\t%d\t67.78\t-22.80\t7942,%d\n" % (number * 7919, number) for number in range(300))


def plain(data: bytes) -> bytes:
    return data


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "plain": plain,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path for one file after the other."""
    return tmp_path_factory.mktemp("texts") / "20170929000000.tsv.gz"


def read(path: Path, content: bytes, size: int = MIB) -> tuple[bytes, str | None]:
    """Write a file; return what its texts hold together, and its damage. Every text is of whole lines."""
    path.write_bytes(content)
    file = LocalFile(str(path))
    texts = list(file.texts(size))
    assert all(buffer[end - 1 : end] == b"\n" for text in texts for buffer, start, end in text.slices)
    assert file.read_error is None
    return joined(texts), file.damage.kind if file.damage else None


def joined(texts: Iterable[Text]) -> bytes:
    return b"".join(map(bytes, texts))


def ended(data: bytes) -> bytes:
    r"""Return lines whose last one has a `\n` too."""
    return data if data.endswith(b"\n") or not data else data + b"\n"


# --- whole files --------------------------------------------------------------------------------

SHORT_LINES = st.lists(st.sampled_from([b"\n", b"\r", b"\t", b"a", b"bc", b"\x00", b"\x1f\x8b", b"idfa"])).map(b"".join)


@settings(UNHURRIED, max_examples=80)
@given(
    st.lists(SHORT_LINES, min_size=1, max_size=3),
    st.integers(1, 40) | st.just(MIB),
    st.sampled_from(sorted(FORMATS)),
)
@example([b""], 1, "plain")
@example([b"", b""], 1, "gz")
@example([b"\n"], 1, "plain")
@example([b"last line without an ending"], 1, "gz")
def test_the_texts_are_the_lines_of_the_file(file: Path, parts: list[bytes], size: int, name: str) -> None:
    text = b"a line\n" + b"".join(parts)  # so that plain text is not taken for an archive
    members = [b"a line\n", *parts]
    content = b"".join(map(FORMATS[name], members))
    assert read(file, content, size) == (ended(text), None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("file_name", ["a.tsv.gz", "a.tsv", "a.bz2", "a.xz", "a.zst", "a"])
def test_the_content_and_not_the_name_tells_the_format(tmp_path: Path, name: str, file_name: str) -> None:
    assert read(tmp_path / file_name, FORMATS[name](LINES)) == (LINES, None)


@pytest.mark.parametrize("name", FORMATS)
def test_a_size_of_one_is_as_good_as_any(file: Path, name: str) -> None:
    assert read(file, FORMATS[name](LINES), 1) == (LINES, None)


@pytest.mark.parametrize("size", [1000, 4096])
def test_a_text_is_about_as_big_as_asked_for(file: Path, size: int) -> None:
    file.write_bytes(gzip.compress(LINES))
    *lengths, _ = (len(text) for text in LocalFile(str(file)).texts(size) if text)
    assert lengths
    assert all(size - size // 8 - 50 <= length <= size + 600 for length in lengths)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_has_no_lines(file: Path, name: str) -> None:
    assert read(file, FORMATS[name](b"")) == (b"", None)


def test_the_last_line_gets_the_ending_that_it_lacks(file: Path) -> None:
    assert read(file, gzip.compress(b"a\nb")) == (b"a\nb\n", None)
    assert read(file, gzip.compress(b"a\nb\r")) == (b"a\nb\r\n", None)


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_known_how_much_of_the_file_has_been_read(file: Path, name: str) -> None:
    content = FORMATS[name](random.Random(1).randbytes(150_000).hex().encode() + b"\n" + LINES)
    file.write_bytes(content)
    opened = LocalFile(str(file))
    texts = opened.texts(1000)
    next(texts)
    assert 0 < opened.bytes_read <= len(content) == opened.size
    for _ in texts:
        pass
    assert opened.bytes_read == len(content)


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
SIZES = st.sampled_from([MIB, 5000, 100, 1])


@settings(UNHURRIED, max_examples=60)
@given(WHICH, st.integers(2), SIZES)
@example(0, 62, MIB)
@example(3, 200, MIB)
@example(0, len(PACKED[0]) - 1, MIB)
@example(0, len(PACKED[0]) - 8, 100)
def test_a_truncated_file_gives_what_can_be_read(file: Path, which: int, length: int, size: int) -> None:
    content = PACKED[which][: length % len(PACKED[which])]
    assume(len(content) > 2)
    assume(content != gzip.compress(LINES[:3000], mtime=0))  # cut between two members: nothing can tell
    assert read(file, content, size) == (readable(content), "truncated")


@settings(UNHURRIED, max_examples=60)
@given(WHICH, st.integers(2), st.integers(1, 255), SIZES)
def test_a_corrupt_file_gives_what_can_be_read(file: Path, which: int, place: int, change: int, size: int) -> None:
    spoiled = bytearray(PACKED[which])
    spoiled[2 + place % (len(spoiled) - 2)] ^= change
    content = bytes(spoiled)
    lines, damage = read(file, content, size)
    if damage:
        assert lines == readable(content)
    else:  # the time, say: not everything in a header matters
        assert lines == ended(gzip.decompress(content))


@pytest.mark.parametrize("size", [MIB, 100, 1])
@pytest.mark.parametrize("end", [8, 4], ids=["checksum", "length"])
def test_a_wrong_checksum_or_length_is_damage_behind_all_lines(file: Path, end: int, size: int) -> None:
    content = bytearray(gzip.compress(LINES))
    content[-end] ^= 1
    assert read(file, bytes(content), size) == (LINES, "corrupt")


@pytest.mark.parametrize("size", [MIB, 100, 1])
@pytest.mark.parametrize("garbage", [b"garbage", b"\x00\x00garbage", b"not gzip at all, but longer", LINES])
def test_garbage_behind_the_end_is_damage_behind_all_lines(file: Path, garbage: bytes, size: int) -> None:
    lines, damage = read(file, gzip.compress(LINES) + garbage, size)
    assert lines == LINES
    assert damage


@pytest.mark.parametrize("size", [MIB, 100])
def test_zeros_that_pad_a_file_are_no_damage(file: Path, size: int) -> None:
    assert read(file, gzip.compress(LINES) + b"\x00" * 5000, size) == (LINES, None)


def test_a_line_that_damage_cut_off_is_left_out(file: Path) -> None:
    content = gzip.compress(b"whole\nidfa\t1\t1\t1\t1234", compresslevel=0)
    assert read(file, content[: content.index(b"34")]) == (b"whole\n", "truncated")
    assert read(file, content[:-8] + b"\xff" * 8) == (b"whole\n", "corrupt")


@pytest.mark.parametrize("length", range(1, 11))
def test_a_gzip_file_that_has_only_just_begun_is_truncated(file: Path, length: int) -> None:
    assert read(file, gzip.compress(LINES)[:length]) == (b"", "truncated")


@pytest.mark.parametrize("size", [MIB, 100])
@pytest.mark.parametrize("name", ["bz2", "xz", "zst"])
def test_a_truncated_archive_of_another_format_is_damaged_too(file: Path, name: str, size: int) -> None:
    lines, damage = read(file, FORMATS[name](LINES)[:-9], size)
    assert damage == "truncated"
    assert LINES.startswith(lines)


# --- long lines ---------------------------------------------------------------------------------


def verdicts(text: bytes) -> list[str]:
    """Return what becomes of each line of a text."""
    found = []
    for line in text.split(b"\n")[:-1]:
        text = strip_line_ending(line)
        try:
            found.append("blank" if is_blank(text) else f"record {parse_appsinstalled(text).dev_id}")
        except InvalidLine as error:
            found.append(error.reason)
    return found


GOOD = b"idfa\tbefore\t1\t1\t1\n"
FILLED_UP = b"idfa\tfull\t1\t1\t1" + b" " * (MAX_LINE_LENGTH - len(b"idfa\tfull\t1\t1\t1"))


@pytest.mark.parametrize("size", [1000, MIB, 3 * MIB, 8 * MIB])
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
    file: Path, line: bytes, verdict: str, ending: bytes, size: int
) -> None:
    last = b"gaid\tafter\t1\t1\t1\n" if ending else b""
    content = GOOD + line + ending + last
    expected = ["record before", verdict, *(["record after"] if ending else [])]
    lines, damage = read(file, content, size)
    assert (verdicts(lines), damage) == (expected, None)


@pytest.mark.parametrize("size", [1000, MIB])
def test_no_more_is_kept_of_a_long_line_than_tells_that_it_is_too_long(file: Path, size: int) -> None:
    lines, _ = read(file, gzip.compress(b"x" * 5 * MIB + b"\n" + GOOD), size)
    assert len(lines) - len(GOOD) == len(cut_line(b"x" * 5 * MIB)) + 1 <= MAX_LINE_LENGTH + 3


class Hesitating(io.BytesIO):
    """Gives now more and now less, as a connection does."""

    def __init__(self, content: bytes, seed: int) -> None:
        super().__init__(content)
        self._random = random.Random(seed)

    def read(self, count: int | None = -1, /) -> bytes:
        return super().read(self._random.choice([1000, 70_000, 600_000]))


@pytest.mark.parametrize("name", ["gz", "plain"])
def test_what_is_kept_of_a_long_line_does_not_depend_on_how_it_comes(file: Path, name: str) -> None:
    content = FORMATS[name](b"".join(GOOD + b"x" * (MIB + 200_000 * number) + b"\n" for number in range(12)))
    file.write_bytes(b"")
    found = set()
    for seed in range(4):
        opened = LocalFile(str(file))
        opened.close()
        opened._file = Hesitating(content, seed)
        found.add(joined(opened.texts(MIB)))
    assert len(found) == 1


# --- memory -------------------------------------------------------------------------------------


def test_a_short_text_holds_no_long_buffer(file: Path) -> None:
    file.write_bytes(gzip.compress(GOOD + b"x" * 900_000)[:-9])  # what cannot be used of it is a lot
    texts = list(LocalFile(str(file)).texts(MIB))
    assert joined(texts) == GOOD
    assert sum(len(buffer) for text in texts for buffer, _, _ in text.slices) < 3 * len(GOOD)


def members(piece: bytes, count: int) -> Iterator[bytes]:
    """Yield the bytes of a gzip file that holds a piece many times."""
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
    assert peak_memory(file, size=1 << 16) < 10 * MIB


def peak_memory(path: Path, size: int = MIB) -> int:
    """Return how much memory it takes at most to go through the texts of a file."""
    tracemalloc.start()
    try:
        for _ in LocalFile(str(path)).texts(size):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- other kinds of files -------------------------------------------------------------------------

OTHER_KINDS = {
    "a zip archive": b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + LINES,
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\x00\x04" + LINES,
    "a rar archive": b"Rar!\x1a\x07\x01\x00" + LINES,
    "a tar archive": b"20170929000000.tsv".ljust(257, b"\x00") + b"ustar\x0000" + LINES,
    "an lz4 archive": b"\x04\x22\x4d\x18\x64\x40\xa7" + LINES,
    "an lzop archive": b"\x89LZO\x00\r\n\x1a\n\x10\x40" + LINES,
    "an lzip archive": b"LZIP\x01\x0c" + LINES,
    "an lzma archive": lzma.compress(LINES, lzma.FORMAT_ALONE),
    "a compress (.Z) archive": b"\x1f\x9d\x90" + LINES,
    "UTF-16 text": LINES.decode().encode("utf-16"),
    "UTF-32 text": LINES.decode().encode("utf-32"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [MIB, 100])
def test_what_is_by_its_first_bytes_something_else_is_not_read(file: Path, kind: str, name: str, size: int) -> None:
    assert read(file, FORMATS[name](OTHER_KINDS[kind]), size) == (b"", "unsupported")
    opened = LocalFile(str(file))
    assert [text for text in opened.texts(size) if text] == []
    assert opened.damage is not None
    assert kind in opened.damage.description
    assert all(format in opened.damage.description for format in ("plain", "gzip", "bz2", "xz", "zstd"))


@pytest.mark.parametrize("inner", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("outer", ["gz", "bz2", "xz", "zst"])
def test_an_archive_within_an_archive_is_not_read(file: Path, inner: str, outer: str) -> None:
    assert read(file, FORMATS[outer](FORMATS[inner](LINES))) == (b"", "unsupported")


@pytest.mark.parametrize("name", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("zeros", [1, 512])
def test_an_archive_whose_beginning_is_damaged_is_not_taken_for_text(file: Path, name: str, zeros: int) -> None:
    packed = FORMATS[name](random.Random(1).randbytes(4000).hex().encode())
    assert read(file, bytes(zeros) + packed[zeros:]) == (b"", "unsupported")


@pytest.mark.parametrize(
    "text",
    [
        b"idfa\t\x001\t1\t1\t1\n" + LINES,
        LINES + bytes(5000),
        b"\x1b[31mred\n" + LINES,
        b"\xff\xe9 Latin-1\n" + LINES,
        "журнал\n".encode() + LINES,
        b"PK\n" + LINES,
        b"BZh\n" + LINES,
        b"MZ\t1\n" + LINES,
        b"(\xb5\n" + LINES,
    ],
)
def test_a_strange_line_does_not_make_another_kind_of_file_of_a_log(file: Path, text: bytes) -> None:
    assert read(file, text) == (ended(text), None)


@pytest.mark.parametrize("magic", [b"\x1f", b"B", b"BZ", b"BZh", b"\xfd", b"\xfd7zXZ", b"(", b"(\xb5/"])
def test_the_first_bytes_of_an_archive_alone_are_a_truncated_one(file: Path, magic: bytes) -> None:
    assert read(file, magic) == (b"", "truncated")


# --- byte order mark ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MIB, 1])
@pytest.mark.parametrize("name", FORMATS)
def test_a_byte_order_mark_is_not_part_of_the_first_line(file: Path, name: str, size: int) -> None:
    pack = FORMATS[name]
    assert read(file, pack(b"\xef\xbb\xbf" + LINES), size) == (LINES, None)
    assert read(file, pack(b"\xef\xbb\xbf"), size) == (b"", None)
    assert read(file, pack(b"a\n\xef\xbb\xbfb\n"), size) == (b"a\n\xef\xbb\xbfb\n", None)
    assert read(file, pack(b"\xef\xbb\xbf\xef\xbb\xbfa\n"), size) == (b"\xef\xbb\xbfa\n", None)


# --- what is known once a file is read ------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", [b"a\nb", b"b", b"a\n", b"", b"a\nb\r"])
def test_only_plain_text_ends_within_a_line(file: Path, name: str, text: bytes) -> None:
    file.write_bytes(FORMATS[name](text))
    opened = LocalFile(str(file))
    assert joined(opened.texts(MIB)) == ended(text)
    assert opened.ends_within_line == (name == "plain" and not text.endswith(b"\n") and bool(text))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors can't be counted here")
@pytest.mark.parametrize("content", [LINES, b"", gzip.compress(LINES), gzip.compress(LINES)[:-9], b"PK\x03\x04"])
def test_a_file_is_closed_as_soon_as_it_is_read_or_abandoned(file: Path, content: bytes) -> None:
    before = open_descriptors()
    file.write_bytes(content)
    opened = LocalFile(str(file))
    assert open_descriptors() == before + 1
    for _ in opened.texts(MIB):
        pass
    assert open_descriptors() == before
    opened = LocalFile(str(file))
    texts = opened.texts(10)
    next(texts)
    texts.close()  # type: ignore[attr-defined]
    assert open_descriptors() == before


class Failing(io.BytesIO):
    """A file that fails to give its second half."""

    def read(self, count: int | None = -1, /) -> bytes:
        if self.tell() > len(self.getvalue()) // 2:
            raise OSError(5, "Input/output error")
        return super().read(1000)


@pytest.mark.parametrize("name", ["plain", "gz"])
def test_an_error_ends_the_texts_and_is_kept(file: Path, name: str) -> None:
    file.write_bytes(b"")
    opened = LocalFile(str(file))
    opened.close()
    opened._file = Failing(FORMATS[name](LINES))
    lines = joined(opened.texts(100))
    assert LINES.startswith(lines)
    assert lines
    assert opened.read_error is not None
    assert opened.read_error.strerror == "Input/output error"
    assert opened.damage is None


# --- the caller gets to look whether to go on -----------------------------------------------------


class Endless:
    """A file object without an end, a descriptor, or the means to seek."""

    def __init__(self, start: bytes, pieces: list[bytes]) -> None:
        self._pieces = cycle(pieces)
        self._held = start
        self._position = 0

    def read(self, count: int) -> bytes:
        while len(self._held) < count:
            self._held += next(self._pieces)
        piece, self._held = self._held[:count], self._held[count:]
        self._position += count
        return piece

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        pass


def gzip_start() -> bytes:
    return gzip.compress(b"", mtime=0)[:10]


ZEROS = zlib.compressobj(9, wbits=-15)
DEFLATED_ZEROS = ZEROS.compress(bytes(4 * MIB)) + ZEROS.flush(zlib.Z_FULL_FLUSH)

ENDLESS = {
    "plain line": (b"x", [b"x" * 4096]),
    "plain lines": (b"", [LINES]),
    "gzip bomb": (gzip_start(), [DEFLATED_ZEROS]),
    "empty gzip members": (b"", [gzip.compress(b"") * 100]),
    "gzip header": (b"\x1f\x8b\x08\x08" + bytes(6), [b"name" * 1024]),
    "empty gzip blocks": (gzip_start(), [b"\x00\x00\x00\xff\xff" * 1000]),
    "gzip padding": (gzip.compress(LINES), [bytes(4096)]),
    "bz2 streams of zeros": (b"", [bz2.compress(bytes(45 * MIB))]),
    "bz2 streams": (b"", [bz2.compress(LINES * 100)]),
    "xz streams of zeros": (b"", [lzma.compress(bytes(4 * MIB))]),
    "xz padding": (lzma.compress(LINES), [bytes(4096)]),
    "empty xz streams": (b"", [lzma.compress(b"") * 100]),
    "zst frames of zeros": (b"", [zstd.compress(bytes(64 * MIB))]),
    "skippable zst frame": (struct.pack("<II", 0x184D2A50, 0xFFFFFFFF), [b"skip" * 1024]),
    "empty zst frames": (b"", [zstd.compress(b"") * 100]),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_the_caller_gets_to_look_often_whatever_the_file_holds(file: Path, kind: str) -> None:
    file.write_bytes(b"")
    opened = LocalFile(str(file))
    opened.close()
    opened._file = Endless(*ENDLESS[kind])  # type: ignore[assignment]
    texts = opened.texts(MIB)
    times = []
    tracemalloc.start()
    try:
        for _ in range(200):
            started = time.thread_time()
            next(texts)
            times.append(time.thread_time() - started)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(times) < 0.2  # of processor time, on a slow machine that is tracing memory
    assert sum(times) / len(times) < 0.05
    assert peak < 16 * MIB
    assert opened.damage is None
