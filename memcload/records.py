"""What a line means: the reference parser and the serializer of its value.

This module alone defines which lines are records, which are rejected and why, and what
bytes a record becomes. Everything faster is held to it, byte for byte, by tests.
"""

from __future__ import annotations

import math
import re
import struct
from functools import cache
from typing import Literal, NamedTuple, get_args

DEVICE_TYPES = ("idfa", "gaid", "adid", "dvid")
MAX_KEY_LENGTH = 250  # bytes; the memcached protocol's own limit
MAX_LINE_LENGTH = 1 << 20  # bytes, without the line's ending
MAX_APP_ID = (1 << 32) - 1  # the largest uint32

Reason = Literal["line_too_long", "columns", "device_type", "key", "coordinates", "apps", "too_large"]
"""Why a line was rejected. The server alone says `too_large`, the parser the others."""

REASONS: tuple[Reason, ...] = get_args(Reason)

_DEVICE_TYPES = {name.encode(): name for name in DEVICE_TYPES}
_DEVICE_ID = re.compile(rb"[\x21-\x7e]{1,%d}" % (MAX_KEY_LENGTH - len("idfa:")))
_DECIMAL = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class AppsInstalled(NamedTuple):
    """One record: the apps installed on one device.

    `dropped` is the number of app ids of the line that were left out because they are no uint32.
    """

    dev_type: str
    dev_id: str
    lat: float
    lon: float
    apps: list[int]
    dropped: int = 0

    @property
    def key(self) -> bytes:
        """The key in memcached, `dev_type:dev_id`."""
        return f"{self.dev_type}:{self.dev_id}".encode("ascii")


class InvalidLine(ValueError):
    """A line that is not a record; `reason` says which rule it breaks."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def strip_line_ending(line: bytes) -> bytes:
    r"""Return the line without its `\n` or `\r\n`. Nothing else is trimmed."""
    return line.removesuffix(b"\n").removesuffix(b"\r")


def is_blank(line: bytes) -> bool:
    """Return True for a line that is empty or all ASCII white space: it is skipped, and no record."""
    return not line or line.isspace()


def parse_appsinstalled(line: bytes) -> AppsInstalled:
    """Parse one line, without its ending and not blank, into a record.

    Raises InvalidLine with the reason of the first rule that fails, in this order: length,
    columns, device type, key, coordinates, apps.
    """
    if len(line) > MAX_LINE_LENGTH:
        raise InvalidLine("line_too_long")
    fields = line.split(b"\t")
    if len(fields) != 5:
        raise InvalidLine("columns")
    dev_type = _DEVICE_TYPES.get(fields[0])
    if dev_type is None:
        raise InvalidLine("device_type")
    if not _DEVICE_ID.fullmatch(fields[1]):
        raise InvalidLine("key")
    lat, lon = _parse_coordinate(fields[2]), _parse_coordinate(fields[3])
    apps, dropped = _parse_apps(fields[4])
    return AppsInstalled(dev_type, fields[1].decode("ascii"), lat, lon, apps, dropped)


def _parse_coordinate(field: bytes) -> float:
    """Return the correctly rounded double of an ASCII decimal, or raise InvalidLine."""
    if not _DECIMAL.fullmatch(field):
        raise InvalidLine("coordinates")
    number = float(field)
    if not math.isfinite(number):
        raise InvalidLine("coordinates")
    return number


def _parse_apps(field: bytes) -> tuple[list[int], int]:
    """Return the valid app ids in the order of the line and how many were dropped."""
    apps: list[int] = []
    ids = field.split(b",")
    for text in ids:
        digits = text.strip()
        if not digits.isdigit():
            continue
        if len(digits) > 10:  # int() takes quadratic time, and refuses beyond some thousand digits
            digits = digits.lstrip(b"0") or b"0"
            if len(digits) > 10:
                continue
        app = int(digits)
        if app <= MAX_APP_ID:
            apps.append(app)
    if not apps:
        raise InvalidLine("apps")
    return apps, len(ids) - len(apps)


# The value, as `UserApps.SerializeToString()` gives it: the wire format of
# https://protobuf.dev/programming-guides/encoding/, fields in the order of their numbers.
_COORDINATES = struct.Struct("<BdBd")
_APPS_TAG, _LAT_TAG, _LON_TAG = 0x08, 0x11, 0x19  # field number << 3 | wire type


def _encode_app(app: int) -> bytes:
    """Return one element of the unpacked field `apps`: its tag and the id as a varint."""
    encoded = [_APPS_TAG]
    while app > 0x7F:
        encoded.append(app & 0x7F | 0x80)
        app >>= 7
    encoded.append(app)
    return bytes(encoded)


@cache
def _common_apps() -> list[bytes]:
    return [_encode_app(app) for app in range(10_000)]


def serialize(record: AppsInstalled) -> bytes:
    """Return the record's value: the very bytes of its `UserApps` message."""
    common = _common_apps()
    try:
        apps = b"".join([common[app] for app in record.apps])
    except IndexError:
        apps = b"".join([_encode_app(app) for app in record.apps])
    return apps + _COORDINATES.pack(_LAT_TAG, record.lat, _LON_TAG, record.lon)
