"""The logs that are loaded: of the real shape, from a seed, made once and kept between runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools import make_logs

DEFAULT_DIRECTORY = Path(__file__).resolve().parent / ".data"
PATTERN = "*.tsv.gz"
SEED = 2017


@dataclass(frozen=True)
class Logs:
    """Logs of `records` lines, all of them valid, spread evenly over the files.

    However many files there are, their lines together are the same; fewer records are the first ones.
    """

    records: int
    files: int = 1

    def __post_init__(self) -> None:
        if self.records < self.files or self.records % self.files:
            raise ValueError(f"{self.records} records can't be spread evenly over {self.files} files")

    def __str__(self) -> str:
        return f"{self.records:,} records in {self.files:,} file{'s' * (self.files > 1)}"


class LogStore:
    """Keeps logs in a directory that git ignores, and makes those that are missing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".gitignore").write_text("*\n")

    def prepare(self, logs: Iterable[Logs]) -> None:
        """Make the logs that are missing, on all cores: half a minute a million lines and core."""
        largest_first = sorted(set(logs), key=lambda one: -one.records)
        with ProcessPoolExecutor() as pool:
            for paths in pool.map(self.paths, largest_first):
                for path in paths:
                    _read(path)  # from now on the system has it in memory

    def paths(self, logs: Logs) -> list[Path]:
        """Return the files in order, made now if they are missing."""
        # What the generator makes of a seed may change with it.
        generator = hashlib.sha256(Path(make_logs.__file__).read_bytes()).hexdigest()[:8]
        kept = self._directory / f"{generator}-seed{SEED}-{logs.files}x{logs.records // logs.files}"
        if not kept.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self._directory))
            try:
                make_logs.write_logs(unfinished, files=logs.files, lines=logs.records // logs.files, seed=SEED)
                unfinished.rename(kept)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return sorted(kept.glob(PATTERN))

    @contextmanager
    def linked(self, logs: Logs) -> Iterator[Path]:
        """Give a directory with hard links to the logs for the `with` block: a loaded log is renamed."""
        with tempfile.TemporaryDirectory(prefix="load-", dir=self._directory) as directory:
            for path in self.paths(logs):
                os.link(path, Path(directory, path.name))
            yield Path(directory)


def _read(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 20):  # in pieces: this process has to stay small, see measure.py
            pass
