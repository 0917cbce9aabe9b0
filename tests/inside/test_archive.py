"""Each rule of the archive formats, one by one; the property test beside it has the mixtures."""

from __future__ import annotations

import builtins
import bz2
import gzip
import io
import lzma
import random
import struct
import zlib
from collections.abc import Callable

import pytest

from memcload.source import archive, decoders
from memcload.source.archive import decompress
from memcload.source.damage import Damage
from tests.inside.test_archive_tools import read, tool
from tests.outside.zstandard import zstd

MIB = 1 << 20
TEXT = b"".join(b"idfa\t%d\t67.78\t-22.80\t7942,%d\n" % (number * 7919, number) for number in range(3000))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}
everywhere = pytest.mark.parametrize("format", COMPRESS)


def kind(damage: Damage | None) -> str | None:
    return damage.kind if damage else None


def agrees_with_tool(format: str, content: bytes) -> tuple[bytes, str | None]:
    """Read an archive; make sure that its tool has the same opinion of it."""
    text, damage = read(content)
    expected, warns = tool(format, content)
    assert warns == (damage is not None)
    if not warns:
        assert text == expected
    return text, kind(damage)


# --- headers ------------------------------------------------------------------------------------


class InPieces(io.BytesIO):
    """Gives no more than a few bytes at a time."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__(content)
        self._size = size

    def read(self, count: int | None = -1, /) -> bytes:
        return super().read(self._size)


def gzip_member(flags: int, text: bytes, seed: int) -> bytes:
    """Return a gzip member whose header has the fields of these flags, of random lengths and contents."""
    rng = random.Random(seed)

    def some(zero: bool = False) -> bytes:
        return bytes(rng.randrange(not zero, 256) for _ in range(rng.choice([0, 1, 5, 60, 700])))

    extra, name, comment = some(zero=True), some() + b"\0", some() + b"\0"
    header = b"\x1f\x8b\x08%c\0\0\0\0\0\x03" % flags
    header += (len(extra).to_bytes(2, "little") + extra) if flags & 4 else b""
    header += (name if flags & 8 else b"") + (comment if flags & 16 else b"")
    header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little") if flags & 2 else b""
    packer = zlib.compressobj(rng.randrange(10), wbits=-15)
    body = packer.compress(text) + packer.flush()
    return header + body + struct.pack("<II", zlib.crc32(text), len(text))


@pytest.mark.parametrize("flags", range(32))
def test_a_header_of_any_fields_may_be_cut_anywhere(flags: int) -> None:
    for seed in range(15):
        lines = TEXT[: 700 * seed].rpartition(b"\n")[0] + b"\n"
        member = gzip_member(flags, lines, seed)
        agrees_with_tool("gz", gzip.compress(b"") + member)
        for size in (1, 3, 11, 12, 17, 64, 300, len(member)):
            for before in (b"", gzip.compress(b"")):
                pieces = decompress(InPieces(before + member, size), MIB)
                assert b"".join(pieces) == lines, (seed, size)


def test_where_two_decoders_give_different_text_the_file_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(decoders.ZlibDecoder):
        def decompress(self, data: bytes, max_length: int, /) -> bytes:
            text = super().decompress(data, max_length)
            if self.eof:
                raise ValueError("a wrong checksum")
            return text[:-1] + b"?" if text else text

    gz, *others = archive._FORMATS
    monkeypatch.setattr(archive, "_FORMATS", (gz._replace(decoder=Wrong), *others))
    _, damage = read(gzip.compress(TEXT), size=1000)
    assert kind(damage) == "corrupt"


# --- several parts, and what may lie between and behind them --------------------------------------


@everywhere
def test_several_parts_are_one_text(format: str) -> None:
    pack = COMPRESS[format]
    assert agrees_with_tool(format, pack(TEXT) + pack(b"") + pack(b"more\n")) == (TEXT + b"more\n", None)


@everywhere
@pytest.mark.parametrize("garbage", [b"garbage", b"\xff", b"\x00\x00garbage", TEXT, b"\x00" * 512 + b"x"])
def test_garbage_behind_the_end_is_damage(format: str, garbage: bytes) -> None:
    assert agrees_with_tool(format, COMPRESS[format](TEXT) + garbage) == (TEXT, "corrupt")


@everywhere
def test_the_beginning_of_another_part_is_one_that_is_being_written(format: str) -> None:
    packed = COMPRESS[format](TEXT)
    for length in range(1, 12):
        assert agrees_with_tool(format, packed + packed[:length]) == (TEXT, "truncated")


@everywhere
@pytest.mark.parametrize(
    ("zeros", "allowed"),
    [(1, ("gz",)), (3, ("gz",)), (4, ("gz", "xz")), (512, ("gz", "xz")), (100_000, ("gz", "xz")), (100_001, ("gz",))],
)
def test_zeros_may_pad_the_end_where_the_format_has_padding(format: str, zeros: int, allowed: tuple[str, ...]) -> None:
    text, damage = agrees_with_tool(format, COMPRESS[format](TEXT) + bytes(zeros))
    assert text == TEXT
    assert (damage is None) == (format in allowed)


@everywhere
@pytest.mark.parametrize("zeros", [1, 3, 4, 512, 100_000])
def test_zeros_between_parts_are_for_xz_alone(format: str, zeros: int) -> None:
    packed = COMPRESS[format](TEXT)
    text, damage = agrees_with_tool(format, packed + bytes(zeros) + packed)
    if format == "xz" and zeros % 4 == 0:
        assert (text, damage) == (TEXT + TEXT, None)
    else:
        assert (text, damage) == (TEXT, "corrupt")


@everywhere
def test_a_part_of_another_format_is_damage(format: str) -> None:
    for other, pack in COMPRESS.items():
        if other != format:
            text, damage = read(COMPRESS[format](TEXT) + pack(TEXT))
            assert (text, kind(damage)) == (TEXT, "corrupt")


@pytest.mark.parametrize("place", ["start", "middle", "end", "all"])
def test_skippable_zst_frames_are_skipped(place: str) -> None:
    skipped = b"".join(struct.pack("<II", 0x184D2A50 + number, number) + b"x" * number for number in range(16))
    packed = zstd.compress(TEXT)
    content = {
        "start": skipped + packed,
        "middle": packed + skipped + packed,
        "end": packed + skipped,
        "all": skipped,
    }[place]
    text = {"start": TEXT, "middle": TEXT + TEXT, "end": TEXT, "all": b""}[place]
    assert agrees_with_tool("zst", content) == (text, None)
    assert agrees_with_tool("zst", content + skipped[:-3]) == (text, "truncated")


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
@pytest.mark.parametrize("first", [b"", gzip.compress(TEXT)], ids=["first", "second"])
def test_reserved_flags_of_gzip_are_refused(flag: int, first: bytes) -> None:
    packed = bytearray(gzip.compress(TEXT))
    packed[3] |= flag
    text, damage = agrees_with_tool("gz", first + bytes(packed))
    assert (text, damage) == (TEXT if first else b"", "unsupported")


def with_header_checksum(change: int) -> bytes:
    packed = bytearray(gzip.compress(TEXT))
    packed[3] |= 2
    checksum = (zlib.crc32(packed[:10]) & 0xFFFF) ^ change
    return bytes(packed[:10]) + struct.pack("<H", checksum) + bytes(packed[10:])


def test_a_checksum_of_the_gzip_header_is_verified() -> None:
    assert agrees_with_tool("gz", with_header_checksum(0)) == (TEXT, None)
    assert agrees_with_tool("gz", with_header_checksum(1)) == (b"", "corrupt")


@pytest.mark.parametrize("check", [lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256])
def test_every_check_of_xz_is_known(check: int) -> None:
    assert agrees_with_tool("xz", lzma.compress(TEXT, check=check)) == (TEXT, None)


def test_an_xz_check_that_can_not_be_verified_is_refused() -> None:
    packed = bytearray(lzma.compress(TEXT, check=lzma.CHECK_CRC32))
    packed[7] = packed[-3] = 2  # reserved, of four bytes as well
    packed[8:12] = struct.pack("<I", zlib.crc32(packed[6:8]))
    packed[-12:-8] = struct.pack("<I", zlib.crc32(packed[-8:-2]))
    assert agrees_with_tool("xz", bytes(packed)) == (b"", "unsupported")


# --- bounds ---------------------------------------------------------------------------------------


def zst_with_window(exponent: int) -> bytes:
    """Return a frame that asks for a window of 2 to this power, and has one raw block."""
    block = struct.pack("<I", len(TEXT[:1000]) << 3 | 1)[:3]
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(exponent - 10) << 3]) + block + TEXT[:1000]


def xz_with_window(code: int) -> bytes:
    """Return a stream that asks for a dictionary of the size that this code stands for."""
    packed = bytearray(lzma.compress(TEXT, check=lzma.CHECK_NONE))
    end = 12 + 4 * (packed[12] + 1)
    position = packed.index(b"\x21\x01", 12) + 2  # LZMA2, with one byte of properties
    packed[position] = code
    packed[end - 4 : end] = struct.pack("<I", zlib.crc32(packed[12 : end - 4]))
    return bytes(packed)


def test_a_window_of_128_mebibytes_is_allowed() -> None:
    assert agrees_with_tool("zst", zst_with_window(27)) == (TEXT[:1000], None)
    assert agrees_with_tool("xz", xz_with_window(30)) == (TEXT, None)


@pytest.mark.parametrize("first", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("content", [zst_with_window(28), zst_with_window(31), xz_with_window(31), xz_with_window(40)])
def test_a_larger_window_is_not(content: bytes, first: bool) -> None:
    before = (zstd.compress if content[0] == 0x28 else lzma.compress)(b"before\n") if first else b""
    text, damage = read(before + content)
    assert text == (b"before\n" if first else b"")
    assert damage is not None
    assert damage.kind == "unsupported"
    assert "128 MiB" in damage.description
    assert f"byte {len(before):,}" in damage.description


@everywhere
def test_a_piece_is_never_longer_than_asked(format: str) -> None:
    for size in (1, 1000, 8 * MIB):
        pieces = list(decompress(io.BytesIO(COMPRESS[format](b"x" * (3 * MIB if size > 1 else 1000))), size))
        assert 0 < max(map(len, pieces)) <= min(size, MIB)


# --- what is had of a damaged part ----------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("size", [MIB, 5000, 100, 1])
@pytest.mark.parametrize("missing", [1, 5, 10])
def test_what_a_truncated_part_holds_is_read_whatever_the_size_of_pieces(format: str, size: int, missing: int) -> None:
    packed = COMPRESS[format](TEXT[:3000])[:-missing]
    expected, _ = tool(format, packed)
    text, damage = read(packed, size)
    assert kind(damage) == "truncated"
    assert text == expected or text == TEXT[:3000]  # gzip keeps what its checksum has not confirmed to itself


@everywhere
@pytest.mark.parametrize("size", [MIB, 5000, 100])
def test_what_comes_before_the_damaged_part_is_read_whole(format: str, size: int) -> None:
    packed = COMPRESS[format](TEXT)
    for place in (len(packed), len(packed) + 1, len(packed) + 5, len(packed) * 3 // 2, len(packed) * 2 - 512):
        content = bytearray(packed * 3)
        content[place : place + 512] = bytes(512)
        text, damage = read(bytes(content), size)
        assert text.startswith(TEXT)
        assert damage is not None
        assert f"byte {len(packed):,}" in damage.description


@pytest.mark.parametrize("format", ["gz", "xz"])
@pytest.mark.parametrize("size", [MIB, 100])
def test_a_wrong_checksum_costs_no_text(format: str, size: int) -> None:
    packed = bytearray(lzma.compress(TEXT, check=lzma.CHECK_CRC32) if format == "xz" else gzip.compress(TEXT))
    place = packed.rindex(struct.pack("<I", zlib.crc32(TEXT)))
    packed[place] ^= 1
    assert agrees_with_tool(format, bytes(packed))[0] == TEXT
    assert read(bytes(packed), size)[0] == TEXT


@everywhere
def test_a_file_that_can_only_be_read_forwards_will_do(format: str) -> None:
    class Forwards:
        def __init__(self, content: bytes) -> None:
            self.read = io.BytesIO(content).read

    def read_forwards(content: bytes) -> tuple[bytes, str | None]:
        pieces = decompress(Forwards(content), 1000)  # type: ignore[arg-type]
        text = bytearray()
        while True:
            try:
                text += next(pieces)
            except StopIteration as end:
                return bytes(text), kind(end.value.damage)

    packed = COMPRESS[format](TEXT)
    assert read_forwards(packed + packed) == (TEXT + TEXT, None)
    text, damage = read_forwards(packed + packed[:-20])
    assert text.startswith(TEXT)
    assert damage == "truncated"


# --- other libraries ------------------------------------------------------------------------------


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a package impossible to import."""
    found = builtins.__import__

    def hide(name: str) -> None:
        def look_up(wanted: str, *arguments: object, **options: object) -> object:
            if wanted.partition(".")[0] == name:
                raise ImportError(f"No module named {name!r}")
            return found(wanted, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(builtins, "__import__", look_up)

    return hide


@pytest.mark.parametrize("size", [MIB, 1000, 1])
def test_gzip_is_read_the_same_without_isal(without: Callable[[str], None], size: int) -> None:
    packed = gzip.compress(TEXT[:5000])
    without("isal")
    assert isinstance(decoders.fast_gzip_decoder(), decoders.ZlibDecoder)
    assert read(packed + packed + bytes(9), size) == (TEXT[:5000] * 2, None)
    assert kind(read(packed + packed[:-1], size)[1]) == "truncated"
    spoiled = packed[:-1] + bytes([packed[-1] ^ 1])
    text, damage = read(packed + spoiled + packed, size)
    assert (text, kind(damage)) == (TEXT[:5000] * 2, "corrupt")


def test_a_bomb_is_bounded_without_isal(without: Callable[[str], None]) -> None:
    packed = gzip.compress(bytes(50 * MIB))
    without("isal")
    pieces = list(decompress(io.BytesIO(packed), MIB))
    assert sum(map(len, pieces)) == 50 * MIB
    assert max(map(len, pieces)) <= MIB


@pytest.mark.parametrize(
    ("format", "package"), [("bz2", "bz2"), ("xz", "lzma"), ("zst", zstd.__name__.partition(".")[0])]
)
def test_a_missing_library_is_an_error_and_no_damage(without: Callable[[str], None], format: str, package: str) -> None:
    packed = COMPRESS[format](TEXT)
    without(package)
    with pytest.raises(OSError, match=f"this Python can't read {format} files"):
        read(packed)
