"""An archive is judged as the command-line tool of its format judges it, and read no less far."""

from __future__ import annotations

import bz2
import io
import lzma
import random
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from memcload.source.archive import decompress
from memcload.source.damage import Damage
from tests.outside.zstandard import zstd

TOOLS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}
MIB = 1 << 20


def tool(format: str, content: bytes) -> tuple[bytes, bool]:
    """Return what the format's own tool reads, and whether it warns of something."""
    command = [TOOLS[format], "-dc"]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    finished = subprocess.run(command, input=content, capture_output=True, check=False)
    return finished.stdout, finished.returncode != 0 or bool(finished.stderr)


def read(content: bytes, size: int = MIB) -> tuple[bytes, Damage | None]:
    """Return the text of a file and its damage."""
    pieces = decompress(io.BytesIO(content), size)
    text = bytearray()
    while True:
        try:
            text += next(pieces)
        except StopIteration as end:
            damage: Damage | None = end.value.damage
            return bytes(text), damage


# --- archives of all kinds ------------------------------------------------------------------------


def lines(seed: int, count: int) -> bytes:
    draw = random.Random(seed)
    return b"".join(
        b"idfa\t%032x\t%.9f\t-22.8\t%d\n" % (draw.getrandbits(128), draw.random(), draw.randrange(10_000))
        for _ in range(count)
    )


def gzip_member(text: bytes, draw: random.Random) -> bytes:
    level = draw.choice([0, 1, 6, 9])
    deflated = zlib.compressobj(level, wbits=-15)
    body = deflated.compress(text) + deflated.flush()
    flags = draw.choice([0, 0, 0, 1, 2, 4, 8, 16, 31])
    head = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, flags, draw.getrandbits(32), 0, 3)
    if flags & 4:
        head += struct.pack("<H", 5) + b"extra"
    if flags & 8:
        head += b"20170929000000.tsv\x00"
    if flags & 16:
        head += b"a comment\x00"
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + body + struct.pack("<II", zlib.crc32(text), len(text))


def bz2_stream(text: bytes, draw: random.Random) -> bytes:
    return bz2.compress(text, draw.choice([1, 9]))


def xz_stream(text: bytes, draw: random.Random) -> bytes:
    check = draw.choice([lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256])
    return lzma.compress(text, lzma.FORMAT_XZ, check, draw.choice([0, 6])) + bytes(draw.choice([0, 0, 4, 8]))


def zst_frame(text: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return struct.pack("<II", 0x184D2A50 + draw.randrange(16), 9) + b"skip this"
    options: dict[int, int] = {
        zstd.CompressionParameter.checksum_flag: 1,
        zstd.CompressionParameter.compression_level: 3,
    }
    compressor = zstd.ZstdCompressor(options=options)
    if draw.random() < 0.5:
        frame: bytes = compressor.compress(text, compressor.FLUSH_FRAME)
    else:
        frame = compressor.compress(text) + compressor.flush()  # its length is not in the frame's header
    return frame


MEMBERS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "gz": gzip_member,
    "bz2": bz2_stream,
    "xz": xz_stream,
    "zst": zst_frame,
}
DAMAGES: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "none": lambda content, place, draw: content,
    "flip": lambda content, place, draw: flipped(content, place, draw.randrange(1, 256)),
    "bit": lambda content, place, draw: flipped(content, place, 1 << draw.randrange(8)),
    "cut": lambda content, place, draw: content[:place],
    "zeros": lambda content, place, draw: content[:place] + bytes(512)[: len(content) - place] + content[place + 512 :],
    "few zeros": lambda content, place, draw: content[:place] + bytes(draw.randrange(1, 9)) + content[place:],
    "left out": lambda content, place, draw: content[:place] + content[place + draw.randrange(1, 99) :],
    "repeated": lambda content, place, draw: content[:place] + content[max(0, place - draw.randrange(1, 99)) :],
    "garbage": lambda content, place, draw: content[:place] + draw.randbytes(draw.randrange(1, 9)) + content[place:],
    "text": lambda content, place, draw: content[:place] + b"idfa\t1\t1\t1\t1\n",
}


def flipped(content: bytes, place: int, change: int) -> bytes:
    return (
        content[:place] + bytes([content[place] ^ change]) + content[place + 1 :] if place < len(content) else content
    )


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(
    st.sampled_from(sorted(TOOLS)),
    st.sampled_from(sorted(DAMAGES)),
    st.integers(0, 1 << 32),
    st.sampled_from(["anywhere", "between", "after", "beginning", "ending"]),
    st.sampled_from([MIB, 5000, 100]),
)
def test_what_the_tool_warns_of_is_damaged_and_nothing_else(
    format: str, damage: str, seed: int, where: str, size: int
) -> None:
    draw = random.Random(seed)
    texts = [lines(draw.randrange(1000), draw.choice([0, 1, 3, 30, 300])) for _ in range(draw.randrange(1, 5))]
    members, whole_before = [], [(0, b"")]
    for text in texts:
        member = MEMBERS[format](text, draw)
        members.append(member)
        loaded = whole_before[-1][1] + read(member)[0]
        whole_before.append((whole_before[-1][0] + len(member), loaded))
    content = b"".join(members)
    boundary = draw.choice(whole_before[1:])[0]
    place = {
        "anywhere": draw.randrange(len(content)),
        "between": boundary,
        "after": len(content),
        "beginning": min(len(content), boundary + draw.randrange(12)),
        "ending": max(0, boundary - draw.randrange(12)),
    }[where]
    content = DAMAGES[damage](content, place, draw)
    assume(place >= 6)  # or it may be plain text
    assume(b"\x1f\x9e" not in content)  # gzip knows this older magic, too, but who has such files?
    event(f"{format} {damage}")
    text, verdict = read(content, size)
    expected, warns = tool(format, content)
    assert (verdict is not None) == warns
    if warns:
        assert text.startswith(next(text for end, text in reversed(whole_before) if end <= place))
        if format != "gz":  # gzip reads on over nonsense, until the checksum tells it
            # Some bytes before the error, which are wrong already, may be lost: liblzma, which gets its input byte by
            # byte here and at once from the tool, may find it a match (273 bytes at most) and some letters earlier.
            assert text.startswith(expected[: -2 * 273])
    else:
        assert text == expected
    if damage == "cut":
        assert whole_before[-1][1].startswith(text)
