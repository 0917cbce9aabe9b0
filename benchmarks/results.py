"""What was measured: rows of figures by round, in sections, and how they become JSON and come back."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Figures = dict[str, float]
"""What was measured of one subject in one round, by the names of the figures."""


class Spread(NamedTuple):
    """The median of all rounds, and the lowest and the highest."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of some values."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One subject in one section, measured once in every round.

    Attributes:
        section: the rows of a section were measured in turn, round by round.
        name: of the subject.
        facts: `records` and `files` of the logs that it loads; empty where it loads none.
        rounds: its figures, round by round.

    """

    section: str
    name: str
    rounds: Sequence[Figures]
    facts: Mapping[str, int] = field(default_factory=dict)

    def spread(self, figure: str) -> Spread:
        """Return a figure. Raises KeyError where it has none of that name."""
        return spread([measured[figure] for measured in self.rounds])

    def ratio(self, baseline: Row, figure: str) -> Spread:
        """Return a figure as a multiple of the baseline's in the same round."""
        pairs = zip(self.rounds, baseline.rounds, strict=True)
        return spread([one[figure] / other[figure] for one, other in pairs])


class Results:
    """All rows of one run of the benchmark, and where it ran."""

    def __init__(self, setting: Mapping[str, Any], rows: Iterable[Row]) -> None:
        self.setting = dict(setting)
        self.rows = list(rows)

    def section(self, name: str) -> list[Row]:
        """Return the rows of a section, in their order; none if it was not measured."""
        return [row for row in self.rows if row.section == name]

    def row(self, section: str, name: str) -> Row:
        """Return a row. Raises LookupError if it was not measured."""
        for row in self.section(section):
            if row.name == name:
                return row
        raise LookupError(f"{name} was not measured")

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready data."""
        return {
            **self.setting,
            "subjects": [_row_to_json(row) for row in self.rows if row.facts],
            "others": [_row_to_json(row) for row in self.rows if not row.facts],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Results:
        """Return what to_json has made data of."""
        rows = [
            Row(
                subject["section"],
                subject["name"],
                subject["rounds"],
                {name: subject[name] for name in ("records", "files") if name in subject},
            )
            for subject in [*data["subjects"], *data["others"]]
        ]
        return cls({name: value for name, value in data.items() if name not in ("subjects", "others")}, rows)


def _row_to_json(row: Row) -> dict[str, Any]:
    return {
        "section": row.section,
        "name": row.name,
        **row.facts,
        **{figure: row.spread(figure)._asdict() for figure in row.rounds[0]},
        "rounds": list(row.rounds),
    }
