"""The results as Markdown tables, and the documents that have them between two marks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.goals import WHOLE, goals
from benchmarks.results import Results, Row, Spread

NOTHING = "—"


class Column(NamedTuple):
    """A column of a table: a figure, or what it is as a multiple of the first row's in the same round."""

    title: str
    figure: str
    decimals: int = 0
    is_ratio: bool = False


_LOADS = (
    Column("whole process, records/s", WHOLE),
    Column("ratio", WHOLE, 2, is_ratio=True),
    Column("as reported, records/s", "records_per_second"),
    Column("busy", "busy", 2),
    Column("its CPU, µs/record", "cpu_microseconds_per_record", 2),
    Column("memcached's CPU, µs/record", "memcached_cpu_microseconds_per_record", 2),
    Column("peak memory, MB", "peak_megabytes"),
)
_COLUMNS = {
    "sizes": (Column("whole process, s", "whole_seconds", 2), _LOADS[0], *_LOADS[2:]),
    "reader": (
        Column("p50, µs", "p50_microseconds"),
        Column("p99, µs", "p99_microseconds"),
        Column("load, records/s", "records_per_second"),
    ),
    "startup": (Column("in all, ms", "milliseconds"), Column("this step, ms", "more_milliseconds")),
    "replies": (
        Column("in one piece, ns/byte", "whole_nanoseconds", 1),
        Column("in pieces of one byte, ns/byte", "long_nanoseconds"),
        Column("the same of a tenth of the reply, ns/byte", "short_nanoseconds"),
        Column("calls that do nothing, ns/byte", "calls_nanoseconds"),
    ),
}


def blocks(results: Results) -> dict[str, str]:
    """Return the tables by name: of each section that was measured, of the goals, and where it was."""
    setting = results.setting
    tables = {
        "setting": f"{setting['cores']} cores, shared with memcached; Python {setting['python']}, "
        f"memcached {setting['memcached']}; medians of {setting['rounds']} rounds (lowest to highest)."
    }
    for section in dict.fromkeys(row.section for row in results.rows):
        tables[section] = _table_of(results.section(section), _COLUMNS.get(section, _LOADS))
    tables["goals"] = _goals(results)
    return tables


def fill(text: str, results: Results) -> str:
    """Return a document with the tables between its marks: `<!-- bench:NAME -->` and `<!-- /bench -->`."""
    tables = blocks(results)

    def filled(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]}\n{match[3]}" if match[2] in tables else match[0]

    return re.sub(r"(<!-- bench:(\w+) -->)\n.*?(<!-- /bench -->)", filled, text, flags=re.DOTALL)


def _table_of(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    shown = [column for column in columns if any(column.figure in row.rounds[0] for row in rows)]
    body = [[_label(row), *(_cell(row, rows[0], column) for column in shown)] for row in rows]
    return table(["", *(column.title for column in shown)], body)


def _label(row: Row) -> str:
    records, files = row.facts.get("records"), row.facts.get("files")
    if records is None or row.name.startswith(f"{records:,} record"):
        return row.name
    of_files = f" in {files:,} files" if files and files > 1 and not row.name.startswith(f"{files:,} file") else ""
    return f"{row.name}: {records:,} records{of_files}"


def _cell(row: Row, first: Row, column: Column) -> str:
    if column.figure not in row.rounds[0] or (column.is_ratio and row is first):
        return NOTHING
    if not column.is_ratio:
        return written(row.spread(column.figure), column.decimals)
    return written(row.ratio(first, column.figure), column.decimals)


def _goals(results: Results) -> str:
    rows = [
        [
            goal.text,
            f"{goal.comparison} {short(goal.limit)}{goal.unit}",
            f"{short(goal.spread.median)} ({short(goal.spread.low)} to {short(goal.spread.high)}){goal.unit}",
            "reached" if goal.is_reached else "**not reached**",
        ]
        for goal in goals(results)
    ]
    return table(["", "goal", "measured", ""], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    widths = [max(3, *(len(row[index]) for row in (head, *rows))) for index in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        texts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(texts)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join((line(head), line(rule), *(line(row) for row in rows)))


def written(values: Spread, decimals: int = 0) -> str:
    """Write a median with its spread; see `rounded`."""
    median, low, high = (rounded(value, decimals) for value in values)
    return median if low == high else f"{median} ({low} to {high})"


def rounded(value: float, decimals: int = 0) -> str:
    """Write a number with its thousands set apart; from a thousand on, with three significant digits."""
    if abs(value) >= 1000 and math.isfinite(value):
        value = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def short(value: float) -> str:
    """Write a ratio with three significant digits."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
