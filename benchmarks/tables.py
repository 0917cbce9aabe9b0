"""The results as Markdown tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.data import SEED
from benchmarks.results import Figure, Goal, Results, Spread, cpu, peak, rate, server_cpu
from benchmarks.subjects import Subject, cores

NOTHING = "—"


@dataclass(frozen=True)
class _Column:
    title: str
    figure: Figure
    decimals: int = 0


_LOAD = _Column("load, records/s", rate("load"))
_RUN = _Column("run, records/s", rate("run"))
_OTHERS = (
    _Column("whole process, records/s", rate("whole")),
    _Column("its CPU, µs/record", cpu, 2),
    _Column("CPU of memcached, µs/record", server_cpu, 2),
    _Column("peak memory, MB", peak),
)

_LEGEND = """\
Each figure is the median of the rounds with (lowest-highest), and 2x its multiple of the row in bold: the median of
the ratios within each round. *Load* is timed from the opening of the file until all of it is confirmed, as the report
tells it (of decompression and pouring: nothing but that); *run* is the report's `seconds`, with the encoder made ready;
*whole process* is timed from outside, with the start of Python. CPU is that of the whole process (of decompression and
pouring: of what is timed as load). The ceiling is what all cores could do if they did nothing but decompress and run
memcached: cores / (CPU of decompression + CPU of memcached while batches are poured in)."""


def markdown(results: Results, versions: Mapping[str, str]) -> str:
    """Return all tables as one Markdown text."""
    plan = results.plan
    setting = ", ".join(f"{name} {version}" for name, version in versions.items())
    by_files = {f"{count} file{'s' * (count > 1)}": subject for count, subject in plan.by_files.items()}
    by_workers = {f"--workers {count}": subject for count, subject in plan.by_workers.items()}
    by_size = {f"{count:,} records": subject for count, subject in plan.by_size.items()}
    return "\n\n".join(
        (
            f"{cores()} cores, shared with four memcached; {setting}; {plan.rounds} round(s), each of all subjects.",
            "### Side by side",
            _side_by_side(results),
            _LEGEND,
            "### Goals",
            _goals(results.goals()),
            f"### Workers ({plan.records:,} records)",
            _panel(results, by_workers, _LOAD),
            f"### Number of files ({plan.largest:,} records in all)",
            _panel(results, by_files, _RUN),
            "### File size",
            _panel(results, by_size, _LOAD),
        )
    )


def _side_by_side(results: Results) -> str:
    plan = results.plan
    columns = (_LOAD, *_OTHERS)
    rows = []
    for subject in plan.side_by_side:
        cells = [_figure(results, subject, plan.live, column) for column in columns]
        if not subject.is_loader:  # then the process does more than what is measured
            cells[1] = cells[4] = NOTHING
        if not subject.stores:
            cells[3] = NOTHING
        rows.append([_emphasized(subject.name, subject == plan.live), f"{subject.logs.records:,}", *cells])
    ceiling = f"{spread(results.ceiling())} {short(results.ceiling_ratio(plan.live).median)}x"
    rows.insert(2, ["the ceiling", NOTHING, ceiling, *[NOTHING] * (len(columns) - 1)])
    return table(["", "records", *(column.title for column in columns)], rows)


def _panel(results: Results, subjects: Mapping[str, Subject], first: _Column) -> str:
    columns = (first, *_OTHERS)
    baseline = next(iter(subjects.values()))
    rows = [
        [
            _emphasized(name, subject == baseline),
            *(_figure(results, subject, baseline, column) for column in columns),
        ]
        for name, subject in subjects.items()
    ]
    return table(["", *(column.title for column in columns)], rows)


def _goals(goals: Sequence[Goal]) -> str:
    rows = [
        [
            goal.text,
            goal.timed,
            f"{goal.comparison} {short(goal.limit)}{goal.unit}",
            f"{short(goal.spread.median)} ({short(goal.spread.low)}-{short(goal.spread.high)}){goal.unit}",
            "yes" if goal.reached else "**no**",
        ]
        for goal in goals
    ]
    return table(["goal", "timed", "limit", "measured", "reached"], rows)


def _figure(results: Results, subject: Subject, baseline: Subject, column: _Column) -> str:
    cell = spread(results.of(subject, column.figure), column.decimals)
    if subject == baseline:
        return cell
    return f"{cell} {short(results.ratio(subject, baseline, column.figure).median)}x"


def _emphasized(text: str, is_baseline: bool) -> str:
    return f"**{text}**" if is_baseline else text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        texts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(texts)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join((line(head), line(rule), *(line(row) for row in rows)))


def spread(values: Spread, decimals: int = 0) -> str:
    """Write a median with its spread; see `rounded`."""
    median, low, high = (rounded(value, decimals) for value in values)
    return f"{median} ({low}-{high})"


def rounded(value: float, decimals: int = 0) -> str:
    """Write a number with its thousands set apart; from a thousand on, with three significant digits."""
    if abs(value) >= 1000 and math.isfinite(value):
        value = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def short(value: float) -> str:
    """Write a ratio with three significant digits."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def to_json(results: Results, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return everything that was measured, round by round, and the goals, as JSON-ready data."""
    plan = results.plan
    return {
        "cores": cores(),
        "versions": dict(versions),
        "seed": SEED,
        "rounds": plan.rounds,
        "ceiling_records_per_second": results.ceiling()._asdict(),
        "subjects": [_subject_to_json(results, subject) for subject in plan.subjects],
        "goals": [
            {
                "goal": goal.text,
                "timed": goal.timed,
                "limit": f"{goal.comparison} {goal.limit}",
                **goal.spread._asdict(),
                "reached": goal.reached,
            }
            for goal in results.goals()
        ],
    }


def _subject_to_json(results: Results, subject: Subject) -> dict[str, Any]:
    measurements = [measured[subject] for measured in results.rounds]
    figures = {f"{clock}_records_per_second": rate(clock) for clock in measurements[0].seconds}
    figures |= {"cpu_microseconds_per_record": cpu, "memcached_cpu_microseconds_per_record": server_cpu}
    return {
        "name": subject.name,
        "records": subject.logs.records,
        "files": subject.logs.files,
        **{name: results.of(subject, figure)._asdict() for name, figure in figures.items()},
        "peak_megabytes": results.of(subject, peak)._asdict(),
        "rounds": [
            {
                "seconds": dict(measurement.seconds),
                "cpu_seconds": measurement.cpu_seconds,
                "memcached_cpu_seconds": measurement.server_cpu_seconds,
                "peak_bytes": measurement.peak_bytes,
            }
            for measurement in measurements
        ],
    }
