"""What is measured: the subjects, side by side in sections, and the logs that each of them gets."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from benchmarks.data import Logs
from benchmarks.farm import Setup

LIVE = "live"
DRY = "dry"
DECOMPRESSION = "decompression alone"
USUAL_WAY = "a process a core, set_multi"
LIMIT = "the limit"
TUNED = Setup()


@dataclass(frozen=True)
class Subject:
    """One program on some logs.

    Attributes:
        name: what it is, as the tables call it.
        program: the arguments for Python that start it, without those that every subject gets.
        logs: what it is given to load.
        setup: of the servers that it gets.
        stores: whether all records are in the servers afterwards; else none is.
        refills: whether the servers hold the records already when it is measured.

    """

    name: str
    program: tuple[str, ...]
    logs: Logs
    setup: Setup = TUNED
    stores: bool = True
    refills: bool = False

    @property
    def command(self) -> tuple[str, ...]:
        """The command line, without the arguments that every subject gets."""
        return (sys.executable, *self.program)


def live(logs: Logs, *options: str, name: str = LIVE, setup: Setup = TUNED, refills: bool = False) -> Subject:
    """Return the parallel loader on these logs."""
    return Subject(name, ("memc_load_parallel.py", *options), logs, setup, refills=refills)


@dataclass(frozen=True)
class Plan:
    """How much one run of the benchmark measures, and how often.

    Attributes:
        rounds: how often each subject is measured; of the slow ones, three times at most.
        records: of the log that most subjects load.
        sizes: records of the logs that are compared by their size; the fourth should be `records`.
        spread: records of the logs that are compared by their number of files.
        files: these numbers of files.
        slow: records of the log that the slow subjects load.
        servers: for each device type; these numbers are compared.
        throttled: records that are loaded slowly while somebody reads.
        idle: seconds for which somebody reads while nothing is loaded.
        reply: bytes of the largest reply.

    """

    rounds: int = 5
    records: int = 2_000_000
    sizes: tuple[int, ...] = (1_000, 35_000, 400_000, 2_000_000, 3_400_000)
    spread: int = 200_000
    files: tuple[int, ...] = (1, 10, 1000)
    slow: int = 20_000
    servers: tuple[int, ...] = (1, 3, 10)
    throttled: int = 400_000
    idle: float = 2.0
    reply: int = 10_000_000

    @property
    def log(self) -> Logs:
        """The log that most subjects load."""
        return Logs(self.records)

    def loads(self) -> dict[str, list[Subject]]:
        """Return the sections that are made of loads, with their subjects in the order of a round."""
        log, shared = self.log, Logs(self.records, 10)
        slow, python = Logs(self.slow), Logs(10 * self.slow)
        return {
            "limit": [
                live(log),
                Subject(DRY, ("memc_load_parallel.py", "--dry", "--log-level", "info"), log, stores=False),
                Subject(DECOMPRESSION, ("-m", "benchmarks.decompression"), log, stores=False),
            ],
            "rival": [
                live(shared),
                Subject(USUAL_WAY, ("-m", "benchmarks.usual_way"), shared),
                live(python, "--engine", "python", name="live --engine python"),
                Subject("memc_load.py", ("memc_load.py",), slow),
                Subject("the original script's way", ("-m", "benchmarks.original_way"), slow),
            ],
            "sizes": [live(Logs(records), name=f"{records:,} records") for records in self.sizes],
            "files": [live(Logs(self.spread, files), name=_count(files, "file")) for files in self.files],
            "servers": [
                live(log, name=f"{_count(count, 'server')} a type", setup=Setup(count)) for count in self.servers
            ],
            "tls": [live(log, name="plain"), live(log, name="TLS", setup=Setup(tls=True))],
            "refill": [live(log, name="empty servers"), live(log, name="the records are there", refills=True)],
            "setup": [
                live(log, name="set up for a load"),
                live(log, name="as memcached comes", setup=Setup(tuned=False)),
            ],
        }


QUICK = Plan(
    rounds=1,
    records=2_000,
    sizes=(100, 500, 1_000, 2_000, 4_000),
    spread=200,
    files=(1, 2, 20),
    slow=100,
    servers=(1, 2, 3),
    throttled=1_000,
    idle=0.1,
    reply=100_000,
)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number > 1)}"
