"""What became of the records: counts that add up with `+=`, and the lines that were rejected."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from memcload.records import REASONS, Reason


class Reject(NamedTuple):
    r"""A rejected line. `line` counts the lines of its text from 0; `text` is without its `\n`."""

    line: int
    reason: Reason
    text: bytes


class RejectedLines:
    """The rejected lines of one text. They are packed: a text of a mebibyte can have half a million of them."""

    def __init__(self) -> None:
        self._lines = array("i")
        self._reasons = bytearray()  # their numbers in REASONS
        self._texts = bytearray()
        self._ends = array("q")  # of each text in these

    def append(self, reject: Reject) -> None:
        """Add one."""
        self._lines.append(reject.line)
        self._reasons.append(REASONS.index(reject.reason))
        self._texts += reject.text
        self._ends.append(len(self._texts))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, place: int) -> Reject:
        place = range(len(self))[place]
        start = self._ends[place - 1] if place else 0
        text = bytes(self._texts[start : self._ends[place]])
        return Reject(self._lines[place], REASONS[self._reasons[place]], text)

    def __iter__(self) -> Iterator[Reject]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RejectedLines) and list(self) == list(other)

    def in_order(self) -> Iterator[Reject]:
        """Yield them in the order of their lines."""
        return map(self.__getitem__, sorted(range(len(self)), key=self._lines.__getitem__))

    def by_reason(self) -> Counter[Reason]:
        """Return how many there are for each reason."""
        return Counter({REASONS[number]: count for number, count in Counter(self._reasons).items()})


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
        return sum(self.stored.values()) + sum(self.rejected.values()) + sum(self.failed.values())

    @property
    def error_rate(self) -> float:
        """Rejected records as a fraction of all, 0 where there are none."""
        rejected = self.total_rejected
        return rejected / self.records if rejected else 0.0
