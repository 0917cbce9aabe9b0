"""The goals, and what was measured of each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import startup
from benchmarks.plan import DECOMPRESSION, DRY, LIMIT, LIVE, USUAL_WAY
from benchmarks.results import Results, Row, Spread, spread

WHOLE = "whole_records_per_second"


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured of it."""

    text: str
    comparison: Literal["≥", "≤"]
    limit: float
    spread: Spread
    unit: str = ""

    @property
    def is_reached(self) -> bool:
        """Whether the median is on the right side of the limit."""
        if self.comparison == "≥":
            return self.spread.median >= self.limit
        return self.spread.median <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {
            "goal": self.text,
            "limit": f"{self.comparison} {self.limit:g}{self.unit}",
            **self.spread._asdict(),
            "reached": self.is_reached,
        }


def goals(results: Results) -> list[Goal]:
    """Return the goals of which something was measured."""
    parts: list[Callable[[Results], Iterator[Goal]]] = [
        _of_the_limit,
        _of_the_rival,
        _of_sizes,
        _of_files,
        _of_servers,
        _of_tls,
        _of_startup,
        _of_replies,
    ]
    found: list[Goal] = []
    for part in parts:
        with contextlib.suppress(LookupError):  # its section was not measured
            found += part(results)
    return found


def _of_the_limit(results: Results) -> Iterator[Goal]:
    live, dry = results.row("limit", LIVE), results.row("limit", DRY)
    yield _at_least(0.75, live, results.row("limit", LIMIT))
    yield _at_least(0.75, dry, results.row("limit", DECOMPRESSION))
    yield Goal("CPU of the loader for a record", "≤", 0.85, live.spread("cpu_microseconds_per_record"), " µs")


def _of_the_rival(results: Results) -> Iterator[Goal]:
    yield _at_least(10, results.row("rival", LIVE), results.row("rival", USUAL_WAY))


def _of_sizes(results: Results) -> Iterator[Goal]:
    smallest, _, small, usual, _ = rows = results.section("sizes") or _none()
    yield _at_least(0.65 / 0.9, small, usual)
    yield Goal(f"{smallest.name}, the whole process", "≤", 0.2, smallest.spread("whole_seconds"), " s")
    peaks = [
        max(measured["peak_megabytes"] for measured in together)
        for together in zip(*(row.rounds for row in rows), strict=True)
    ]
    yield Goal("peak memory, for any number of records", "≤", 120, spread(peaks), " MB")


def _of_files(results: Results) -> Iterator[Goal]:
    one, *_, many = results.section("files") or _none()
    yield _at_least(0.8, many, one)


def _of_servers(results: Results) -> Iterator[Goal]:
    one, several, many = results.section("servers") or _none()
    yield _at_least(0.9, several, one)
    yield _at_least(0.75, many, one)
    memory = several.ratio(one, "peak_megabytes")
    yield Goal(f"peak memory: {several.name} / {one.name}", "≤", 1.3, memory)


def _of_tls(results: Results) -> Iterator[Goal]:
    plain, tls = results.section("tls") or _none()
    yield _at_least(0.6, tls, plain)


def _of_startup(results: Results) -> Iterator[Goal]:
    for name in (startup.HELP, startup.VERSION):
        milliseconds = results.row("startup", name).spread("milliseconds")
        yield Goal(f"{name}, the whole process", "≤", 100, milliseconds, " ms")


def _of_replies(results: Results) -> Iterator[Goal]:
    rows = results.section("replies") or _none()
    text = "a reply in pieces of one byte: what a byte costs in a long one / in one of a tenth of it"
    yield Goal(text, "≤", 2, spread([max(row.spread("long_to_short").median for row in rows)]))


def _at_least(limit: float, row: Row, baseline: Row) -> Goal:
    """Return the goal for a rate by whole processes, as a multiple of another in the same round."""
    return Goal(f"{row.name} / {baseline.name}", "≥", limit, row.ratio(baseline, WHOLE))


def _none() -> list[Row]:
    raise LookupError("this section was not measured")
