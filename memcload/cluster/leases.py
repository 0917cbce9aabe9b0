"""Who may write when: permits for the open window of a run, as the scheduler grants them.

A delivery stores the last record of each key of its window: repeated, even at the same time, it stores the same
again. So all that has to be prevented is that one of a closed window still writes. A delivery begins a request only
with a permit, which lasts for LEASE seconds and is renewed; a window is closed when every permit was given back or
has run out, and the requests that were begun with it must be over.
"""

from __future__ import annotations

import time
from typing import Literal

from memcload.throttle import Schedule

LEASE = 1.0  # seconds
COORDINATOR_LEASE = 5.0  # seconds without a sign of the coordinator after which no permit is granted
_SLACK = 0.5  # seconds for what a process does between two looks at the clock

Answer = Literal["granted", "wait", "closed"]


def boot_clock() -> float:
    """Return the seconds on a clock that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Leases:
    """The permits of one run, and its limit on the records that go out in a second.

    Args:
        timeout: seconds that a request may last once its permit has run out.
        max_rate: records a second over all deliveries, 0 for no limit.
        opens_at: when the first window may be opened; permits of before may last until then.
    """

    def __init__(self, timeout: float, max_rate: int, opens_at: float = 0.0) -> None:
        self._lasts = lasting(timeout)
        self._schedule = Schedule(max_rate) if max_rate else None
        self._opens_at = opens_at
        self._open: str | None = None
        self._has_ended = False
        self._until: dict[str, tuple[float, str]] = {}  # by holder: when nothing of it can come any more; its worker
        self._seen = boot_clock()

    @property
    def has_ended(self) -> bool:
        """True once no window will be opened any more."""
        return self._has_ended

    @property
    def are_out(self) -> bool:
        """True while somebody may still write."""
        now = boot_clock()
        return any(until >= now for until, _ in self._until.values())

    def see_coordinator(self) -> None:
        """Take note that the coordinator lives."""
        self._seen = boot_clock()

    def open(self, window: str) -> bool:
        """Open a window; return False if permits from before may still be out."""
        if self._has_ended or self.are_out or boot_clock() < self._opens_at:
            return False
        self._open = window
        return True

    def close(self) -> bool:
        """Grant no more permits; return True once nobody may write any more."""
        self._open = None
        return not self.are_out

    def end(self) -> None:
        """Never grant a permit again."""
        self._open, self._has_ended = None, True

    def permit(self, window: str, holder: str, worker: str) -> Answer:
        """Grant a permit of LEASE seconds from when it was asked for, or renew it."""
        if window != self._open:
            return "closed"
        now = boot_clock()
        if now - self._seen > COORDINATOR_LEASE:
            return "wait"
        self._until[holder] = now + self._lasts, worker
        return "granted"

    def give_back(self, holder: str) -> None:
        """Take note that a holder has stopped writing."""
        self._until.pop(holder, None)

    def lapse(self) -> set[str]:
        """Forget the permits that have run out for good; return the workers that did not give them back."""
        now = boot_clock()
        lapsed = [holder for holder, (until, _) in self._until.items() if until < now]
        return {self._until.pop(holder)[1] for holder in lapsed}

    def reserve(self, records: int) -> float:
        """Return after how many seconds these records may go out."""
        now = boot_clock()
        return max(0.0, self._schedule.reserve(records, now) - now) if self._schedule else 0.0


def lasting(timeout: float) -> float:
    """Return how long after its renewal a permit may have consequences."""
    return LEASE + timeout + _SLACK
