"""What the measurements say: medians with their spread, ratios within a round, and the goals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from benchmarks.measure import Clock, Measurement, Round
from benchmarks.subjects import Plan, Subject, cores

MEGABYTE = 1_000_000  # bytes
_LOAD_AND_WHOLE: tuple[tuple[str, Clock], ...] = (("load", "load"), ("whole process", "whole"))
_RUN_AND_WHOLE: tuple[tuple[str, Clock], ...] = (("run", "run"), ("whole process", "whole"))

Figure = Callable[[Measurement], float]
"""What is looked at of a measurement."""


class Spread(NamedTuple):
    """The median of all rounds, and the lowest and the highest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured of it."""

    text: str
    timed: str
    comparison: Literal["≥", "≤"]
    limit: float
    spread: Spread
    unit: str = ""

    @property
    def reached(self) -> bool:
        """Whether the median is on the right side of the limit."""
        if self.comparison == "≥":
            return self.spread.median >= self.limit
        return self.spread.median <= self.limit


def rate(clock: Clock) -> Figure:
    """Return the figure of records per second by one of the clocks."""
    return lambda measurement: measurement.rate(clock)


def cpu(measurement: Measurement) -> float:
    """Return the CPU microseconds of the subject for a record."""
    return measurement.cpu_seconds * 1e6 / measurement.records


def server_cpu(measurement: Measurement) -> float:
    """Return the CPU microseconds of the four servers for a record."""
    return measurement.server_cpu_seconds * 1e6 / measurement.records


def peak(measurement: Measurement) -> float:
    """Return the most memory in megabytes."""
    return measurement.peak_bytes / MEGABYTE


class Results:
    """All rounds of a plan."""

    def __init__(self, plan: Plan, rounds: Sequence[Round]) -> None:
        self.plan = plan
        self.rounds = rounds

    def of(self, subject: Subject, figure: Figure) -> Spread:
        """Return a figure of a subject."""
        return self._spread(lambda measured: figure(measured[subject]))

    def ratio(self, subject: Subject, baseline: Subject, figure: Figure) -> Spread:
        """Return a figure of a subject as a multiple of the baseline's in the same round."""
        return self._spread(lambda measured: _divide(figure(measured[subject]), figure(measured[baseline])))

    def ceiling(self) -> Spread:
        """Return the records per second if all cores did nothing but decompress and run the servers."""
        return self._spread(self._ceiling)

    def ceiling_ratio(self, subject: Subject) -> Spread:
        """Return the ceiling as a multiple of what a subject loads, in the same round."""
        return self._spread(lambda measured: self._ceiling(measured) / measured[subject].rate("load"))

    def goals(self) -> list[Goal]:
        """Return all goals with what was measured."""
        return [*self._goals_of_speed(), *self._goals_of_memory(), *self._goals_of_small_files()]

    def _goals_of_speed(self) -> Iterator[Goal]:
        plan = self.plan
        ceiling = f"live against the ceiling: {cores()} cores / (CPU of decompression + CPU of memcached)"
        for timed, clock in _LOAD_AND_WHOLE:
            yield Goal(
                "dry against decompression alone", timed, "≥", 0.65, self._work(plan.dry, clock, plan.decompression)
            )
            yield Goal(ceiling, timed, "≥", 0.6, self._against_ceiling(plan.live, clock))
            yield Goal(
                "live against pre-encoded batches poured in",
                timed,
                "≥",
                0.5,
                self._work(plan.live, clock, plan.pouring),
            )
        live = plan.live_on_records
        yield Goal("live against live --engine python", "load", "≥", 6, self._work(live, "load", plan.live_python))
        yield Goal("live against the original script's way", "load", "≥", 100, self._work(live, "load", plan.original))

    def _goals_of_memory(self) -> Iterator[Goal]:
        def peaks(measured: Round) -> list[float]:
            return [peak(measured[subject]) for subject in self.plan.by_size.values()]

        highest = self._spread(lambda measured: max(peaks(measured)))
        yield Goal("peak memory at any file size", "—", "≤", 250, highest, " MB")
        flatness = self._spread(lambda measured: max(peaks(measured)) / min(peaks(measured)))
        yield Goal("peak memory is flat: highest / lowest over file sizes", "—", "≤", 1.2, flatness)

    def _goals_of_small_files(self) -> Iterator[Goal]:
        few, many = min(self.plan.files), max(self.plan.files)
        text = f"{many} small files against {'one file' if few == 1 else few} with the same records"
        for timed, clock in _RUN_AND_WHOLE:
            ratio = self.ratio(self.plan.by_files[many], self.plan.by_files[few], rate(clock))
            yield Goal(text, timed, "≥", 0.7, ratio)

    def _work(self, subject: Subject, clock: Clock, baseline: Subject) -> Spread:
        """Return a rate by any clock as a multiple of the baseline's by its load: what it would be without overhead."""
        return self._spread(lambda measured: measured[subject].rate(clock) / measured[baseline].rate("load"))

    def _against_ceiling(self, subject: Subject, clock: Clock) -> Spread:
        return self._spread(lambda measured: measured[subject].rate(clock) / self._ceiling(measured))

    def _ceiling(self, measured: Round) -> float:
        # The servers' part is what pouring took of them, which does not depend on the loader.
        needed = cpu(measured[self.plan.decompression]) + server_cpu(measured[self.plan.pouring])
        return cores() * 1e6 / needed

    def _spread(self, value: Callable[[Round], float]) -> Spread:
        values = [value(measured) for measured in self.rounds]
        return Spread(statistics.median(values), min(values), max(values))


def _divide(dividend: float, divisor: float) -> float:
    """Divide; by 0, which very short runs may have used of a CPU, to infinity."""
    return dividend / divisor if divisor else float("inf")
