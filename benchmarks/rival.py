"""What the programs that the loaders are measured against have in common: command line and report.

They understand the loaders' options that the benchmark uses, and report as the loaders do, so that all are
run and read alike.
"""

from __future__ import annotations

import argparse
import glob
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from memcload.records import DEVICE_TYPES


class Stopwatch:
    """Adds up the time, and the CPU time of this process, that is spent in its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def __enter__(self) -> None:
        self._cpu_started = time.process_time()
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._started
        self.cpu_seconds += time.process_time() - self._cpu_started


def run(handle: Callable[[Path, Mapping[str, str], Stopwatch], int]) -> None:
    """Let `handle` work on the one file that the command line names, and write the report.

    handle: takes the path, the addresses of the servers by device type, and the stopwatch that it runs
        while it does what is measured; returns the number of records.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--pattern", required=True)
    parser.add_argument("--report", type=Path, required=True)
    for name in DEVICE_TYPES:
        parser.add_argument(f"--{name}", required=True)
    options = vars(parser.parse_args())
    started = time.perf_counter()
    [path] = glob.glob(options["pattern"])
    stopwatch = Stopwatch()
    records = handle(Path(path), {name: options[name] for name in DEVICE_TYPES}, stopwatch)
    report = {
        "seconds": time.perf_counter() - started,
        "totals": {"stored": records},
        "files": [{"seconds": stopwatch.seconds}],
        "cpu_seconds": stopwatch.cpu_seconds,
    }
    options["report"].write_text(json.dumps(report))
