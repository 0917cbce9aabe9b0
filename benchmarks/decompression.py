"""Decompression alone: reads a log as the loader reads it, and does nothing with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xopen import xopen

from benchmarks.rival import Stopwatch, run

READ_SIZE = 1 << 20  # bytes; the loader's default block size


def decompress(path: Path, addresses: Mapping[str, str], stopwatch: Stopwatch) -> int:
    """Read the log to its end and return how many lines it has; counting them isn't timed."""
    lines = 0
    chunk = b"\n"
    with xopen(path, "rb", threads=0, format="gz") as log:
        while chunk:
            with stopwatch:
                chunk = log.read(READ_SIZE)
            lines += chunk.count(b"\n")
    return lines


if __name__ == "__main__":
    run(decompress)
