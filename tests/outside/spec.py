"""What the specification says becomes of the lines of files: the oracle that every load is held to.

It shares no code with the loaders: it is the table of the fields once more, in its own words, with the protobuf
library for the values.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from appsinstalled_pb2 import UserApps

TYPES = ("idfa", "gaid", "adid", "dvid")
LONGEST_LINE = 1 << 20  # bytes, without its ending


class Item(NamedTuple):
    """What memcached holds under a key. `expires_in` is in seconds, -1 for never."""

    value: bytes
    flags: int = 0
    expires_in: int = -1


@dataclass
class Expected:
    """What becomes of the lines of some files, loaded one after the other."""

    items: dict[bytes, Item] = field(default_factory=dict)
    stored: Counter[str] = field(default_factory=Counter)
    rejected: list[tuple[int, str, bytes]] = field(default_factory=list)
    partial: int = 0
    blank: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """How many lines were rejected, by reason."""
        return dict(Counter(reason for _, reason, _ in self.rejected))

    @property
    def rejects_file(self) -> bytes:
        """The content of the file of rejected lines."""
        return b"".join(b"%d\t%b\t%b\n" % (number, reason.encode(), line) for number, reason, line in self.rejected)

    def counts(self) -> dict[str, Any]:
        """The counts of a report about these files."""
        records = self.stored.total() + len(self.rejected)
        return {
            "records": records,
            "stored": self.stored.total(),
            "rejected": self.reasons,
            "partial": self.partial,
            "failed": 0,
            "blank": self.blank,
            "error_rate": len(self.rejected) / records if records else 0.0,
        }


def expected(*logs: bytes) -> Expected:
    """Return what becomes of the lines of these files."""
    result = Expected()
    for log in logs:
        lines = log.removeprefix(b"\xef\xbb\xbf").split(b"\n")  # a byte order mark is not part of the first line
        if not lines[-1]:
            lines.pop()
        for number, line in enumerate(lines, start=1):
            text = line.removesuffix(b"\r")
            if not text.strip():
                result.blank += 1
                continue
            try:
                key, value, is_partial = _record(text)
            except _Rejected as rejected:
                result.rejected.append((number, rejected.args[0], line))
                continue
            result.items[key] = Item(value)
            result.stored[key[:4].decode()] += 1
            result.partial += is_partial
    return result


class _Rejected(Exception):
    pass


def _record(line: bytes) -> tuple[bytes, bytes, bool]:
    """Return the key and the value of a line, and whether some of its app ids were dropped."""
    if len(line) > LONGEST_LINE:
        raise _Rejected("line_too_long")
    columns = line.split(b"\t")
    if len(columns) != 5:
        raise _Rejected("columns")
    dev_type, dev_id, lat, lon, listed = columns
    if dev_type not in (b"idfa", b"gaid", b"adid", b"dvid"):
        raise _Rejected("device_type")
    key = dev_type + b":" + dev_id
    if not dev_id or any(not 0x21 <= byte <= 0x7E for byte in dev_id) or len(key) > 250:
        raise _Rejected("key")
    for coordinate in (lat, lon):
        is_decimal = re.fullmatch(rb"[+-]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", coordinate)
        if not is_decimal or math.isinf(float(coordinate)):
            raise _Rejected("coordinates")
    ids = [text.strip(b" \t\n\r\v\f") for text in listed.split(b",")]
    apps = [int(text) for text in ids if re.fullmatch(rb"[0-9]+", text) and int(text) <= 4294967295]
    if not apps:
        raise _Rejected("apps")
    message = UserApps(apps=apps, lat=float(lat), lon=float(lon))
    return key, message.SerializeToString(), len(apps) < len(ids)
