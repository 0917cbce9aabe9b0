"""The most memory that a loader takes, as the system counts it for the process."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.outside.loading import Finished, Loader, run

_MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def run_measured(loader: Loader, pattern: str | Path, *options: str) -> tuple[Finished, float]:
    """Run a loader to its end; return the most megabytes of memory that it had at a time, too."""
    with tempfile.NamedTemporaryFile("r") as file:
        prefix = (sys.executable, "-c", _MEASURE, file.name)
        finished = run(loader, pattern, *options, prefix=prefix)
        peak = int(file.read())
    return finished, peak / 1e6 if sys.platform == "darwin" else peak / 1e3
