"""A limit on the records that go out in a second, over all servers together."""

from __future__ import annotations

import threading
import time

from memcload.cancel import Cancel

_SLICES_PER_SECOND = 20  # so a batch is sliced finely enough to go out smoothly
_MAX_ARREARS = 0.1  # seconds that may be made up for after a delay


def slice_size(rate: int) -> int | None:
    """Return how many records may go out at once at a rate; None if any number may."""
    return max(1, rate // _SLICES_PER_SECOND) if rate else None


class Schedule:
    """When records may go out at `rate` of them a second, on a clock of the caller's. For one thread at a time."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._next: float | None = None  # when the next record may go out; None before the first

    def reserve(self, records: int, now: float) -> float:
        """Return when these records may go out; the next ones wait for them."""
        start = now if self._next is None else max(self._next, now - _MAX_ARREARS)
        self._next = start + records / self._rate
        return start


class Throttle:
    """Lets `rate` records through in a second, or as many as come where it is 0. For any number of threads."""

    def __init__(self, rate: int, cancel: Cancel) -> None:
        self._rate = rate
        self._cancel = cancel
        self._lock = threading.Lock()
        self._schedule = Schedule(rate)

    @property
    def slice_size(self) -> int | None:
        """How many records may go out at once; None if any number may."""
        return slice_size(self._rate)

    def wait(self, records: int) -> bool:
        """Wait until this many records may go out; return False if the run was cancelled instead."""
        if not self._rate:
            return not self._cancel.is_set
        with self._lock:
            start = self._schedule.reserve(records, time.monotonic())
        return not self._cancel.wait(start - time.monotonic())
