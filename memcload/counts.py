"""What became of the records: counts that add up with `+=`, and the lines that were rejected."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from memcload.records import Reason


class Reject(NamedTuple):
    r"""A rejected line. `line` counts the lines of its text from 0; `text` is without its `\n`."""

    line: int
    reason: Reason
    text: bytes


@dataclass
class Counts:
    """How many records of a file or a run ended how. `stored` and `failed` are by partition number.

    `partial` counts records some of whose app ids were dropped, `blank` the lines that are no records,
    `skipped` the records of device types that are not to be loaded: these end in no other way.
    """

    stored: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)
    rejected: Counter[Reason] = field(default_factory=Counter)
    partial: int = 0
    blank: int = 0
    skipped: int = 0

    def __iadd__(self, other: Counts) -> Counts:
        for mine, theirs in ((self.stored, other.stored), (self.failed, other.failed)):
            for partition, count in theirs.items():  # three times as fast as Counter.update
                mine[partition] += count
        if other.rejected:
            self.rejected.update(other.rejected)
        self.partial += other.partial
        self.blank += other.blank
        self.skipped += other.skipped
        return self

    @property
    def total_stored(self) -> int:
        """How many records were stored, over all partitions."""
        return sum(self.stored.values())

    @property
    def total_failed(self) -> int:
        """How many records failed, over all partitions."""
        return sum(self.failed.values())

    @property
    def total_rejected(self) -> int:
        """How many lines were rejected, for whatever reason."""
        return sum(self.rejected.values())

    @property
    def records(self) -> int:
        """All records that were to be loaded: stored, rejected and failed."""
        return self.total_stored + self.total_rejected + self.total_failed

    @property
    def error_rate(self) -> float:
        """Rejected records as a fraction of all, 0 where there are none."""
        records = self.records
        return self.total_rejected / records if records else 0.0
