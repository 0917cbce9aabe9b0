"""Make logs of installed applications that look like real ones.

The same seed gives the same lines with every version of Python: all randomness comes from
`random.Random.random()`, the one method whose sequence Python promises to keep.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from random import Random

DEVICE_TYPES = (b"idfa", b"gaid", b"adid", b"dvid")
MAX_APPS = 100
FIRST_MINUTE = datetime(2017, 9, 29)

# What --malformed mixes in: what becomes of the line, the column to spoil, and what to put there (None: the column is
# left out). The line is rejected for that reason; "partial" ones are stored without some of their app ids.
FAULTS: tuple[tuple[str, int, bytes | None], ...] = (
    ("columns", 4, None),
    ("device_type", 0, b"ifda"),
    ("key", 1, b""),
    ("coordinates", 2, b"nan"),
    ("apps", 4, b""),
    ("partial", 4, b"7942,com.example.game,4232"),
    ("columns", 3, b"-22.8044005471\t-22.8044005471"),
    ("device_type", 0, b"IDFA"),
    ("key", 1, b"e7e1a50c 0ec2747c"),
    ("coordinates", 3, b"-22,8044005471"),
    ("apps", 4, b"com.example.game"),
    ("partial", 4, b"7942,,4294967296,-1, 4232"),
    ("columns", 0, None),
    ("device_type", 0, b""),
    ("key", 1, b"f" * 250),
    ("coordinates", 2, b"1_0"),
    ("apps", 4, b"4294967296"),
    ("partial", 4, b"7942,0x1f"),
    ("key", 1, "мобильный".encode()),
    ("coordinates", 3, b""),
    ("coordinates", 2, b"-inf"),
    ("coordinates", 3, b"0x1p3"),
)

# --repeat-keys chooses among this many earlier devices: they reach across blocks and files, in bounded memory.
REMEMBERED_DEVICES = 10_000


def log_lines(seed: int, *, malformed: float = 0.0, repeat_keys: float = 0.0) -> Iterator[bytes]:
    """Yield the lines of an endless log, each with its line feed.

    Args:
        seed: determines all lines.
        malformed: the share of lines that are spoiled, by each of `FAULTS` in turn.
        repeat_keys: the share of lines about a device of an earlier line, with other coordinates and apps.

    """
    uniform = Random(seed).random
    app_ids = [b"%d" % app_id for app_id in range(10_000)]
    faults = cycle(FAULTS)
    remembered: list[tuple[bytes, bytes]] = []
    while True:
        if remembered and uniform() < repeat_keys:
            device_type, device_id = remembered[int(uniform() * len(remembered))]
        else:
            device_type = DEVICE_TYPES[int(uniform() * 4)]
            device_id = b"%08x%08x%08x%08x" % (
                int(uniform() * 0x1_0000_0000),
                int(uniform() * 0x1_0000_0000),
                int(uniform() * 0x1_0000_0000),
                int(uniform() * 0x1_0000_0000),
            )
            if repeat_keys and len(remembered) < REMEMBERED_DEVICES:
                remembered.append((device_type, device_id))
            elif repeat_keys:
                remembered[int(uniform() * REMEMBERED_DEVICES)] = device_type, device_id
        # Real logs have latitudes beyond 90 degrees, too, and never more than 12 significant digits.
        latitude = b"%.12g" % (uniform() * 360 - 180)
        longitude = b"%.12g" % (uniform() * 360 - 180)
        app_count = 1 + int(uniform() * MAX_APPS)
        apps = dict.fromkeys([app_ids[int(uniform() * 10_000)] for _ in range(app_count)])
        while len(apps) < app_count:  # no app twice
            apps[app_ids[int(uniform() * 10_000)]] = None
        columns = [device_type, device_id, latitude, longitude, b",".join(apps)]
        if malformed and uniform() < malformed:
            _, spoiled, replacement = next(faults)
            columns[spoiled : spoiled + 1] = [] if replacement is None else [replacement]
        yield b"\t".join(columns) + b"\n"


def write_logs(
    directory: Path,
    *,
    files: int,
    lines: int,
    seed: int,
    malformed: float = 0.0,
    repeat_keys: float = 0.0,
) -> list[Path]:
    """Write one log, cut into gzip files of a minute each; return their paths in order.

    The directory is made if it does not exist; files of the same name are overwritten. The same arguments
    give the same bytes as long as Python's zlib stays the same.

    Args:
        directory: where the files go.
        files: how many there are.
        lines: how many lines each of them has.
        seed, malformed, repeat_keys: as for `log_lines`; repeated devices may be in another file.

    Raises:
        OSError: the directory can't be written.

    """
    directory.mkdir(parents=True, exist_ok=True)
    log = log_lines(seed, malformed=malformed, repeat_keys=repeat_keys)
    paths = []
    for minute in range(files):
        path = directory / f"{FIRST_MINUTE + timedelta(minutes=minute):%Y%m%d%H%M%S}.tsv.gz"
        # Neither a name nor a time in the header: nothing in the file but its lines.
        with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, compresslevel=6, mtime=0) as packed:
            remaining = lines
            while remaining:
                block = list(islice(log, min(remaining, 1000)))
                packed.write(b"".join(block))
                remaining -= len(block)
        paths.append(path)
    return paths


def main() -> None:
    """Write logs as the command line says and print their paths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, required=True, help="where the files go")
    parser.add_argument("--files", type=int, required=True, help="how many files to write, one for each minute")
    parser.add_argument("--lines", type=int, required=True, help="how many lines each file has")
    parser.add_argument("--seed", type=int, required=True, help="the same seed gives the same lines")
    parser.add_argument("--malformed", type=float, default=0.0, metavar="FRACTION", help="share of spoiled lines")
    parser.add_argument(
        "--repeat-keys",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="share of lines about a device of an earlier line",
    )
    for path in write_logs(**vars(parser.parse_args())):
        print(path)


if __name__ == "__main__":
    main()
