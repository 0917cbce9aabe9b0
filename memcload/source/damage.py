"""What can be wrong with a file, and the files that are by their first bytes no logs at all."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

HEAD = 512  # bytes that are looked at to tell what a file is: the header of a tar archive is that long


class Damage(NamedTuple):
    """What is wrong with a file, in plain English.

    kind: truncated, if more bytes at the end could mend it; corrupt; or unsupported, if it is another kind of file
    """

    kind: Literal["truncated", "corrupt", "unsupported"]
    description: str


_KINDS: dict[str, bytes] = {
    "a zip archive": rb"PK(?:\x03\x04|\x05\x06|\x07\x08)",
    "a 7z archive": rb"7z\xbc\xaf\x27\x1c",
    "a rar archive": rb"Rar!\x1a\x07",
    "a tar archive": rb".{257}ustar",
    "an lz4 archive": rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18",
    "an lzop archive": rb"\x89LZO\x00\r\n\x1a\n",
    "an lzip archive": rb"LZIP\x01",
    "an lzma archive": rb"\x5d\x00\x00.{2}(?:\xff{8}|.{5}\x00{3})",
    "a compress (.Z) archive": rb"\x1f\x9d",
    "a snappy archive": rb"\xff\x06\x00\x00sNaPpY",
    "a Parquet file": rb"PAR1",
    "an Avro file": rb"Obj\x01",
    "a gzip archive": rb"\x1f\x8b\x08",
    "a bz2 archive": rb"BZh[1-9]1AY&SY",
    "an xz archive": rb"\xfd7zXZ\x00",
    "a zst archive": rb"\x28\xb5\x2f\xfd",
    "UTF-32 text": rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff",
    "UTF-16 text": rb"\xff\xfe|\xfe\xff",
}
_FOREIGN = re.compile(b"|".join(b"(%b)" % magic for magic in _KINDS.values()), re.DOTALL)

_READABLE = "only UTF-8 or ASCII text can be loaded, plain or compressed once with gzip, bz2, xz or zstd"
_CONTROLS = bytes({*range(0x20)} - set(b"\t\n\r"))
_FEW = 1 / 16  # of the bytes: text has hardly any, compressed data one in nine


def foreign(head: bytes) -> Damage | None:
    """Judge by the first HEAD bytes of a text whether it is none but another kind of file."""
    if not (match := _FOREIGN.match(head)):
        return None
    kind = list(_KINDS)[(match.lastindex or 0) - 1]
    return Damage("unsupported", f"it holds {kind}: {_READABLE}")


def binary(head: bytes) -> Damage | None:
    """Judge by the first HEAD bytes whether a file is neither text nor a known archive, or one that begins damaged."""
    controls = len(head) - len(head.translate(None, _CONTROLS))
    first_line = head.partition(b"\n")[0]
    if controls > len(head) * _FEW and first_line.translate(None, _CONTROLS) != first_line:
        return Damage("unsupported", f"it is neither text nor a known archive: {_READABLE}")
    return None
