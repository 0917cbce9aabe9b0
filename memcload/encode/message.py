"""Records as the protobuf library sees them: slower than memcload.records, and the proof of it."""

from __future__ import annotations

import contextlib

from appsinstalled_pb2 import UserApps
from memcload.memcached.routing import Router
from memcload.records import AppsInstalled, InvalidLine, parse_appsinstalled, serialize, strip_line_ending
from memcload.text import Text

_SAMPLES = (
    b"idfa\t1rfw452y52g2gq4g\t55.55\t42.42\t1423,43,567,3,7,23",
    b"gaid\t7rfw452y52g2gq4g\t55.55\t42.42\t7423,424",
)


def to_message(record: AppsInstalled) -> UserApps:
    """Return the protobuf message of a record."""
    return UserApps(apps=record.apps, lat=record.lat, lon=record.lon)


def show(address: str, record: AppsInstalled) -> str:
    """Return a record as the log of a dry run shows it."""
    return f"{address} - {record.key.decode()} -> {' '.join(str(to_message(record)).split())}"


def show_records(text: Text, router: Router) -> list[str]:
    """Return every record of a text that is to be loaded, as the log of a dry run shows it."""
    shown = []
    for line in bytes(text).split(b"\n"):
        with contextlib.suppress(InvalidLine):
            record = parse_appsinstalled(strip_line_ending(line))
            partition = router.partition_of(record.dev_type, record.key)
            if partition is not None:
                shown.append(show(router.partitions[partition].server, record))
    return shown


def prototest() -> None:
    """Take samples through protobuf and back. Raises AssertionError where that changes them."""
    for line in _SAMPLES:
        record = parse_appsinstalled(line)
        packed = to_message(record).SerializeToString()
        unpacked = UserApps.FromString(packed)
        if unpacked != to_message(record) or list(unpacked.apps) != record.apps:
            raise AssertionError(f"{unpacked} is not {record}")
        if serialize(record) != packed:
            raise AssertionError(f"{serialize(record)!r} is not {packed!r}")
