"""What is measured: the subjects of a run and the logs that each of them gets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.data import Logs


@dataclass(frozen=True)
class Subject:
    """One program on some logs.

    Attributes:
        name: what it is, as the tables call it.
        program: the arguments for Python that start it, without those that every subject gets.
        logs: what it is given to load.
        stores: whether all records are in the servers afterwards; else none is.
        is_loader: whether its memory says something: a rival may keep everything there beforehand.

    """

    name: str
    program: tuple[str, ...]
    logs: Logs
    stores: bool = True
    is_loader: bool = True

    @property
    def command(self) -> tuple[str, ...]:
        """The command line, without the arguments that every subject gets."""
        return (sys.executable, *self.program)


def live(logs: Logs, *options: str) -> Subject:
    """Return the parallel loader on these logs."""
    return Subject(" ".join(("live", *options)), ("memc_load_parallel.py", *options), logs)


def _rival(name: str, module: str, logs: Logs, *, stores: bool) -> Subject:
    return Subject(name, ("-m", f"benchmarks.{module}"), logs, stores, is_loader=False)


@dataclass(frozen=True)
class Plan:
    """What one run of the benchmark measures, and how often.

    Attributes:
        rounds: how often every subject is measured.
        records: of the log that most subjects load.
        small: records of the log that the slow subjects load.
        largest: records of the log that the fast subjects load.
        files: into how many files the records are spread, one after the other.
        workers: the numbers of workers that are compared.

    """

    rounds: int = 5
    records: int = 400_000
    small: int = 40_000
    largest: int = 3_400_000
    files: tuple[int, ...] = (1, 10, 1000)
    workers: tuple[int, ...] = (1, 2, 3, 4, 6, 8)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"{self.rounds} rounds measure nothing")
        if not 0 < self.small <= self.records <= self.largest:
            raise ValueError(
                f"{self.small}, {self.records} and {self.largest} records: each must not be below the last"
            )
        for files in self.files:
            Logs(self.largest, files)

    @property
    def decompression(self) -> Subject:
        """Reading the log as the loader does, and no more."""
        return _rival("decompression alone", "decompression", Logs(self.largest), stores=False)

    @property
    def pouring(self) -> Subject:
        """Storing what was encoded beforehand."""
        return _rival("pre-encoded batches poured in", "pouring", Logs(self.largest), stores=True)

    @property
    def dry(self) -> Subject:
        """The parallel loader without servers."""
        program = ("memc_load_parallel.py", "--dry", "--log-level", "info")
        return Subject("dry", program, Logs(self.largest), stores=False)

    @property
    def live(self) -> Subject:
        """The parallel loader as it comes, on the largest log."""
        return live(Logs(self.largest))

    @property
    def live_on_records(self) -> Subject:
        """The same on the log that most subjects load."""
        return live(Logs(self.records))

    @property
    def live_python(self) -> Subject:
        """The parallel loader without compiled code."""
        return live(Logs(self.records), "--engine", "python")

    @property
    def reference(self) -> Subject:
        """The single-threaded loader."""
        return Subject("memc_load.py", ("memc_load.py",), Logs(self.small))

    @property
    def original(self) -> Subject:
        """What all this began with."""
        return Subject("the original script's way", ("-m", "benchmarks.original_way"), Logs(self.small))

    @property
    def side_by_side(self) -> tuple[Subject, ...]:
        """The subjects that the first table compares."""
        return (
            self.decompression,
            self.pouring,
            self.dry,
            self.live,
            self.live_on_records,
            self.live_python,
            self.reference,
            self.original,
        )

    @property
    def by_workers(self) -> dict[int, Subject]:
        """The parallel loader by number of workers."""
        return {count: live(Logs(self.records), "--workers", str(count)) for count in self.workers}

    @property
    def by_files(self) -> dict[int, Subject]:
        """The parallel loader on the same records in so many files."""
        return {count: live(Logs(self.largest, count)) for count in self.files}

    @property
    def by_size(self) -> dict[int, Subject]:
        """The parallel loader on one file of so many records."""
        return {records: live(Logs(records)) for records in (self.small, self.records, self.largest)}

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """All of them, each once, in the order of a round."""
        everything: Iterable[Subject] = (
            *self.side_by_side,
            *self.by_workers.values(),
            *self.by_files.values(),
            *self.by_size.values(),
        )
        return tuple(dict.fromkeys(everything))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
