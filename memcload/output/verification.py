"""What a verification found, for people and for machines; never written over what a load has left."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from memcload.log import LOG
from memcload.memcached.routing import Partition
from memcload.memcached.server import Server
from memcload.output.destination import write_file, write_standard_output
from memcload.records import DEVICE_TYPES

FileStatus = Literal["readable", "damaged", "error", "unread"]
FILE_STATUSES: tuple[FileStatus, ...] = get_args(FileStatus)
Outcome = Literal["present", "superseded", "too_large", "missing", "different", "unanswered"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass
class VerifiedFile:
    """A file whose records were compared; unread where the run was stopped before its end."""

    path: str
    status: FileStatus = "unread"
    detail: str = ""


@dataclass
class Found:
    """How many records of a partition were looked up, and how that ended. Each ends in one way.

    superseded: a later record of the key took its place
    too_large: the server takes no record of this size
    """

    present: int = 0
    superseded: int = 0
    too_large: int = 0
    missing: int = 0
    different: int = 0
    unanswered: int = 0

    @property
    def checked(self) -> int:
        """All of them."""
        return sum(getattr(self, outcome) for outcome in OUTCOMES)


@dataclass(frozen=True)
class Verification:
    """A verification that has ended, or could not begin.

    servers: by address
    found: by partition number
    seconds: how long it took
    """

    partitions: Sequence[Partition]
    servers: Mapping[str, Server]
    files: Sequence[VerifiedFile] = ()
    found: Sequence[Found] = ()
    seconds: float = 0.0
    exit_code: int = 0


def log_verification(verification: Verification) -> None:
    """Log what was found."""
    for partition, found in zip(verification.partitions, verification.found, strict=False):
        LOG.info(
            "%s %s: %d checked: %d present, %d superseded by later ones, %d missing, %d different, %d unanswered%s",
            partition.device_type,
            partition.server,
            found.checked,
            found.present,
            found.superseded,
            found.missing,
            found.different,
            found.unanswered,
            f", {found.too_large} too large" if found.too_large else "",
        )
    checked = sum(found.checked for found in verification.found)
    rate = checked / max(verification.seconds, 0.001)
    LOG.info("%d records verified in %.1f s, %.0f/s", checked, verification.seconds, rate)


def path_for_verification(path: str) -> str:
    """Return where to write what a load would write to `path`: `.verify` comes before the name's last suffix.

    A stream, a pipe or a device is taken as it is.
    """
    if path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
        return path
    root, suffix = os.path.splitext(path)
    return f"{root}.verify{suffix}"


def write_verification_report(verification: Verification, path: str) -> None:
    """Write the report to a file, or to standard output where the path is `-`. Raises OSError."""
    text = json.dumps(build_verification_report(verification), indent=2) + "\n"
    if path == "-":
        write_standard_output(text)
    else:
        write_file(path, text)


def build_verification_report(verification: Verification) -> dict[str, Any]:
    """Return the report as JSON-ready data."""
    servers = [
        {"address": partition.server, **_figures([found])}
        for partition, found in zip(verification.partitions, verification.found, strict=False)
    ]
    types = [partition.device_type for partition in verification.partitions]
    devices = {
        device_type: {
            **_figures([found for name, found in zip(types, verification.found, strict=False) if name == device_type]),
            "servers": [server for name, server in zip(types, servers, strict=False) if name == device_type],
        }
        for device_type in DEVICE_TYPES
    }
    return {
        "exit_code": verification.exit_code,
        "verify": True,
        "seconds": round(verification.seconds, 3),
        "totals": _figures(verification.found),
        "files": [
            {"path": file.path, "status": file.status, "detail": file.detail or None} for file in verification.files
        ],
        "devices": devices,
    }


def _figures(found: Sequence[Found]) -> dict[str, int]:
    return {name: sum(getattr(one, name) for one in found) for name in ("checked", *OUTCOMES)}
