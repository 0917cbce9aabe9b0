"""Decompression alone: reads logs of one gzip member with the loader's library, and does nothing with them."""

from __future__ import annotations

from collections.abc import Mapping

from isal import igzip_lib

from benchmarks.program import run

READ_SIZE, TEXT_SIZE = 1 << 16, 1 << 17  # bytes; larger and smaller ones are no faster


def decompress(paths: list[str], addresses: Mapping[str, str]) -> None:
    """Read the logs to their end."""
    for path in paths:
        decoder = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
        with open(path, "rb", buffering=0) as log:
            while not decoder.eof:
                decoder.decompress(log.read(READ_SIZE) if decoder.needs_input else b"", TEXT_SIZE)


if __name__ == "__main__":
    run(decompress)
