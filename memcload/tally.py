"""What became of the records: counts that add up with `+=`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from memc_client import Refusal
from memcload.records import (
    DEVICE_TYPES,
    AppsInstalled,
    InvalidLine,
    Reason,
    is_blank,
    parse_appsinstalled,
    strip_line_ending,
)


@dataclass
class Tally:
    """How many records of a block, a file or a run ended how. `stored` and `failed` are by device type.

    `partial` counts records some of whose app ids were dropped, `blank` the lines that are no records,
    `skipped` the lines of device types that are not to be loaded: these count nowhere else.
    """

    stored: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    rejected: Counter[Reason] = field(default_factory=Counter)
    partial: int = 0
    blank: int = 0
    skipped: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        self.stored.update(other.stored)
        self.failed.update(other.failed)
        self.rejected.update(other.rejected)
        self.partial += other.partial
        self.blank += other.blank
        self.skipped += other.skipped
        return self

    @property
    def records(self) -> int:
        """All records: stored, rejected and failed."""
        return self.stored.total() + self.rejected.total() + self.failed.total()

    @property
    def error_rate(self) -> float:
        """Rejected records as a fraction of all, 0 where there are none."""
        return self.rejected.total() / self.records if self.records else 0.0


@dataclass(frozen=True, order=True)
class Reject:
    """A rejected line. `index` counts the lines of its block from 0; the line is without its `\\n`."""

    index: int
    reason: Reason
    line: bytes


@dataclass
class BlockResult:
    """What became of one block of lines.

    `only` are the device types to load. `complaints` are about failed records; `shown` are the log lines of all
    records, in a dry run.
    """

    lines: int
    only: Sequence[str] = DEVICE_TYPES
    tally: Tally = field(default_factory=Tally)
    rejects: list[Reject] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def read(self, index: int, line: bytes) -> AppsInstalled | None:
        """Parse one line of the block, without its `\\n`; return its record, or count why there is none to load.

        index: counts the lines of the block from 0
        """
        text = strip_line_ending(line)
        if is_blank(text):
            self.tally.blank += 1
            return None
        name = text.partition(b"\t")[0]
        if any(name == other.encode() for other in DEVICE_TYPES if other not in self.only):
            self.tally.skipped += 1
            return None
        try:
            record = parse_appsinstalled(text)
        except InvalidLine as error:
            self.reject(Reject(index, error.reason, line))
            return None
        self.tally.partial += bool(record.dropped)
        return record

    def reject(self, reject: Reject) -> None:
        """Count a rejected line and keep it."""
        self.tally.rejected[reject.reason] += 1
        self.rejects.append(reject)

    def refuse(self, device_type: str, refusal: Refusal, reject: Reject) -> None:
        """Account for a record that its server refused: too large is a reject, else it failed."""
        if refusal.too_large:
            self.reject(reject)
        else:
            self.tally.failed[device_type] += 1
            self.complaints.append(f"{device_type} refused a record: {refusal.reply}")
