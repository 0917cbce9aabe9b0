"""What the programs that the loader is measured against have in common: command line and report.

They understand the loader's options that the benchmark uses, and report as the loader does, so that all are run and
read alike.
"""

from __future__ import annotations

import argparse
import glob
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from memcload.records import DEVICE_TYPES


def run(handle: Callable[[list[str], Mapping[str, str]], int | None]) -> None:
    """Let `handle` work on the logs that the command line names, and write the report.

    handle: takes the paths in order and the addresses of the servers by device type; returns the number of records
        that it has stored, None if it stores none
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--pattern", required=True)
    parser.add_argument("--report", type=Path, required=True)
    for name in DEVICE_TYPES:
        parser.add_argument(f"--{name}", required=True)
    options = vars(parser.parse_args())
    started = time.perf_counter()
    stored = handle(sorted(glob.glob(options["pattern"])), {name: options[name] for name in DEVICE_TYPES})
    options["report"].write_text(
        json.dumps({"seconds": time.perf_counter() - started, "totals": {"stored": stored}}), encoding="utf-8"
    )
