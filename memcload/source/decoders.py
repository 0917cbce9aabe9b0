"""The decompressor objects of the libraries behind one face, each bounded in the memory that an archive may ask for.

A decoder reads one member, stream or frame and knows where that ends.
"""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

MAX_WINDOW = 1 << 27  # bytes: what `zstd -d` allows unless told otherwise


class Decoder(Protocol):
    """Bytes of one member in, at most `max_length` bytes of its text out; errors are the library's own."""

    @property
    def eof(self) -> bool:
        """True once the member is complete and its checksum right."""

    @property
    def needs_input(self) -> bool:
        """False while there may be more text without more input."""

    @property
    def unused_data(self) -> bytes:
        """The input behind the member's end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Take in `data`, which must be empty unless `needs_input`; return text."""


class ZlibDecoder:
    """Python's own zlib, for a gzip member. Given its input byte by byte, it gives all text before a damaged place."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._rest = b""  # of the input
        self._is_cut_off = False  # the last call gave as much as it was allowed to: there may be more

    @property
    def eof(self) -> bool:
        """True once the member is complete and its checksum right."""
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        """False while there may be more text without more input."""
        return not self._rest and not self._is_cut_off

    @property
    def unused_data(self) -> bytes:
        """The input behind the member's end."""
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Take in `data`, which must be empty unless `needs_input`; return text."""
        text = self._inner.decompress(data or self._rest, max_length)
        self._rest = self._inner.unconsumed_tail
        self._is_cut_off = len(text) == max_length
        return text


def fast_gzip_decoder() -> Decoder:
    """Return the fastest decoder of a gzip member that there is. It loses what it has read when it meets damage."""
    try:
        from isal import igzip_lib
    except ImportError:  # there is none for every processor
        return ZlibDecoder()
    return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)


@contextlib.contextmanager
def _needed(format: str) -> Iterator[None]:
    """Make an OSError of a missing library: such a file is not damaged, another Python can read it."""
    try:
        yield
    except ImportError as error:
        raise OSError(None, f"this Python can't read {format} files: {error}") from None


def bz2_decoder() -> Decoder:
    """Return a decoder of a bz2 stream."""
    with _needed("bz2"):
        from bz2 import BZ2Decompressor

    return BZ2Decompressor()


def xz_decoder() -> Decoder:
    """Return a decoder of an xz stream. A larger window is an error that speaks of memory."""
    with _needed("xz"):
        from lzma import FORMAT_XZ, LZMADecompressor

    return LZMADecompressor(FORMAT_XZ, memlimit=MAX_WINDOW + (1 << 20))


def zst_decoder() -> Decoder:
    """Return a decoder of a zst frame, be it a skippable one. A larger window is an error that speaks of memory."""
    with _needed("zst"):
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd

    window_log = MAX_WINDOW.bit_length() - 1
    decoder: Decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window_log})
    return decoder
