"""Archives of several members, streams or frames with something odd in or behind a later one, all in one load.

What the format's own tool reads without a warning is loaded whole; what it warns of is damaged, and loaded up to
the damaged part at least.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.loading import Loader, all_loaders, load
from tests.outside.logs import make_old, names, numbered
from tests.outside.memcached import Servers, contents
from tests.outside.spec import expected
from tests.outside.zstandard import zstd

Compress = Callable[[bytes], bytes]


def zst(log: bytes) -> bytes:
    return zstd.compress(log, options={zstd.CompressionParameter.checksum_flag: 1})


FORMATS: dict[str, Compress] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}
SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"hello"


def flip(place: float) -> Compress:
    """Return what flips every bit of a byte at this place of a part: 0 is its beginning, 1 its end."""

    def harm(part: bytes) -> bytes:
        at = min(int(len(part) * place), len(part) - 1)
        return part[:at] + bytes([part[at] ^ 0xFF]) + part[at + 1 :]

    return harm


def zero(part: bytes) -> bytes:
    middle = len(part) // 2
    return part[:middle] + bytes(512) + part[middle + 512 :]


HARMS: dict[str, Compress] = {
    "first-byte": flip(0),
    "body": flip(0.5),
    "last-byte": flip(1),
    "zeroed": zero,
    "cut": lambda part: part[: len(part) // 2],
    "all-but-one-byte": lambda part: part[:-1],
    "magic-only": lambda part: part[:3],
    "text": lambda part: b"idfa\tnever\t1\t1\t1\n",
}


def part(name: str, number: int) -> bytes:
    return numbered(160, prefix=f"{name}-{number}-")


@all_loaders
def test_damage_in_a_later_part_never_ends_a_file_in_silence(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    whole = []
    for format, compress in FORMATS.items():
        for harm, do in HARMS.items():
            name = f"{harm}.{format}"
            logs = [part(name, number) for number in range(4)]
            packed = [compress(log) for log in logs]
            packed[2] = do(packed[2])
            if harm in ("cut", "all-but-one-byte", "magic-only"):
                del packed[3]  # or what follows would be taken for the rest
            (tmp_path / name).write_bytes(b"".join(packed))
            make_old(tmp_path / name)
            whole += logs[:2]
    finished = load(loader, tmp_path / "*", servers)
    assert finished.exit_code == 1
    assert {name: status for name, status in finished.statuses().items() if status != "damaged"} == {}
    for name in finished.statuses():
        entry = finished.file(name)
        cut_off = name.startswith(("cut", "all-but", "magic"))
        assert (entry["reason"], name) == ("truncated" if cut_off else "corrupt", name)
        assert "byte" in entry["detail"]  # where the damaged part starts
        assert entry["records"] >= 320
        assert finished.says(f"{tmp_path}/{name} ", "E")
    assert {f".{name}.damaged" for name in finished.statuses()} <= set(names(tmp_path))
    held = contents(servers)
    assert expected(*whole).items.items() <= held.items()
    assert b"idfa:never" not in held


def not_for(*formats: str) -> tuple[str, ...]:
    return tuple(format for format in FORMATS if format not in formats)


BETWEEN: dict[str, tuple[bytes, tuple[str, ...]]] = {  # what lies there, and which tools warn of it
    "nothing": (b"", ()),
    "four-zeros": (bytes(4), not_for("xz")),
    "three-zeros": (bytes(3), not_for()),
    "skippable": (SKIPPABLE, not_for("zst")),
    "feed": (b"\n", not_for()),
}
AFTER: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "four-zeros": (bytes(4), ("bz2", "zst")),
    "three-zeros": (bytes(3), ("bz2", "xz", "zst")),
    "sector": (bytes(512), ("bz2", "zst")),
    "skippable": (SKIPPABLE, not_for("zst")),
}


@all_loaders
def test_what_lies_between_and_behind_parts_is_judged_as_the_tool_does(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    wanted, whole, possible = {}, [], []
    for format, compress in FORMATS.items():
        for place, kinds in (
            ("between", BETWEEN),
            ("after", AFTER),
            ("before", {"skippable": (SKIPPABLE, not_for("zst"))}),
        ):
            for kind, (odd, refused) in kinds.items():
                if place == "before" and format in refused:
                    continue  # then it is a file of another kind
                name = f"{place}-{kind}.{format}"
                logs = [part(name, number) for number in range(2)]
                first, second = map(compress, logs)
                content = {
                    "before": odd + first + second,
                    "between": first + odd + second,
                    "after": first + second + odd,
                }
                (tmp_path / name).write_bytes(content[place])
                make_old(tmp_path / name)
                wanted[name] = "damaged" if format in refused else "done"
                readable = logs[:1] if wanted[name] == "damaged" and place == "between" else logs
                whole += readable
                possible += logs
    finished = load(loader, tmp_path / "*", servers)
    assert finished.exit_code == 1
    assert finished.statuses() == wanted
    held = contents(servers)
    assert expected(*whole).items.items() <= held.items()
    assert held.items() <= expected(*possible).items.items()


@pytest.mark.parametrize("window", [27, 28])
def test_a_window_beyond_the_limit_is_refused_in_little_memory(tmp_path: Path, servers: Servers, window: int) -> None:
    log = numbered(50)
    # A frame that knows its size needs no window larger than that: this one is written as it comes.
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window})
    (tmp_path / "a").write_bytes(zstd.compress(log) + stream.compress(log) + stream.flush())
    finished = load(("memc_load_parallel.py", "--engine", "python"), tmp_path / "*", servers)
    assert finished.statuses() == {"a": "done" if window == 27 else "damaged"}
    if window == 28:
        assert finished.file("a")["reason"] == "unsupported"
        assert "128 MiB" in finished.file("a")["detail"]
    assert contents(servers) == expected(log).items
