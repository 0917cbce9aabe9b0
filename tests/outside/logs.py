"""Lines, logs and directories of logs to load."""

from __future__ import annotations

import gzip
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.outside.spec import LONGEST_LINE, TYPES


def line(
    dev_type: str = "idfa", dev_id: str = "1rfw452y52g2gq4g", lat: str = "55.55", lon: str = "42.42", apps: str = "1423"
) -> bytes:
    """Return one line, with its line feed."""
    return "\t".join((dev_type, dev_id, lat, lon, apps)).encode() + b"\n"


def numbered(count: int, *, types: Sequence[str] = TYPES, prefix: str = "device") -> bytes:
    """Return a line for each of `count` different devices, whose types take turns."""
    return b"".join(
        line(types[number % len(types)], f"{prefix}{number}", apps=f"{number},{number * 7}") for number in range(count)
    )


def huge_line(dev_type: str = "idfa", dev_id: str = "huge") -> bytes:
    """Return a line that is not too long, but whose value is larger than memcached takes by default."""
    start = line(dev_type, dev_id, apps="")[:-1]
    return start + b"7," * ((LONGEST_LINE - len(start)) // 2 - 1) + b"7\n"


def log_of_few_devices(rng: random.Random, file: int, *, lines: int = 600, devices: int = 10) -> bytes:
    """Return a log of records that all differ, for so few devices that each has many; one line is rejected."""
    types, ids = rng.choices(TYPES, k=lines), rng.choices(range(devices), k=lines)
    records = [
        line(types[number], f"device{ids[number]}", apps=f"{file},{number},{number * 1000}") for number in range(lines)
    ]
    records[rng.randrange(lines)] = b"idfa\tdevice0\tnowhere\t0\t1\n"
    return b"".join(records)


def write_gz(path: Path, content: bytes) -> bytes:
    """Write a log as one gzip member; return its content."""
    path.write_bytes(gzip.compress(content, 1))
    return content


def write_repeated(path: Path, content: bytes, *, times: int) -> None:
    """Write a gzip file of equal members: a large log in a small file."""
    member = gzip.compress(content, 9)
    with path.open("wb") as file:
        for _ in range(times):
            file.write(member)


def names(directory: Path) -> list[str]:
    """Return the names in a directory, sorted."""
    return sorted(os.listdir(directory))


def make_old(path: Path) -> None:
    """Make a file look as if nobody had written it for an hour."""
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))


@dataclass
class Inbox:
    """A directory with logs that are named 0.tsv.gz, 1.tsv.gz and so on, and what they hold."""

    directory: Path
    logs: list[bytes]

    @property
    def pattern(self) -> Path:
        """What `--pattern` has to be to find them."""
        return self.directory / "*.tsv.gz"

    def renamed(self) -> list[str]:
        """Return the names of the logs that are done, without their dots."""
        return [name[1:] for name in names(self.directory) if name.startswith(".") and name.endswith(".tsv.gz")]

    def waiting(self) -> list[str]:
        """Return the names of the logs that are not done."""
        return [name for name in names(self.directory) if not name.startswith(".")]


def make_inbox(directory: Path, logs: Sequence[bytes]) -> Inbox:
    """Write these logs into a directory, which is made if it is not there."""
    directory.mkdir(exist_ok=True)
    return Inbox(directory, [write_gz(directory / f"{number}.tsv.gz", log) for number, log in enumerate(logs)])
