"""How long something may take, whatever happens, and less once the run was cancelled."""

from __future__ import annotations

import time

from memcload.cancel import Cancel


class Stopped(TimeoutError):
    """The run was cancelled, and the time that may still be taken then is up."""


class Deadline:
    """The time that something may take.

    When the run is cancelled, what was begun may end in good order, but within `grace` seconds from then.

    Args:
        seconds: how long from now.
        grace: how long, at most, from when the run is cancelled.
        cancel: the run's; None where nothing cancels.
    """

    def __init__(self, seconds: float, grace: float, cancel: Cancel | None) -> None:
        self._seconds = seconds
        self._grace = grace
        self._cancel = cancel
        self._end = time.monotonic() + seconds

    def extend(self) -> None:
        """Begin anew: there was progress."""
        self._end = time.monotonic() + self._seconds

    @property
    def remaining(self) -> float:
        """Seconds until it is over; not above 0 when it is."""
        return min(self._end, self._cancelled_end()) - time.monotonic()

    def check(self, doing: str = "") -> float:
        """Return the seconds that remain. Raises TimeoutError when there are none."""
        remaining = self.remaining
        if remaining > 0:
            return remaining
        if self._cancelled_end() < self._end:
            raise Stopped("no answer before the run was stopped")
        raise TimeoutError(f"timed out after {self._seconds:g} s{doing and ' '}{doing}")

    def _cancelled_end(self) -> float:
        requested_at = self._cancel.requested_at if self._cancel else None
        return float("inf") if requested_at is None else requested_at + self._grace
