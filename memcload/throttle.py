"""A limit on the records that go out in a second, over all servers together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PIECES_PER_SECOND = 20  # so a batch is cut finely enough to go out smoothly
_MAX_ARREARS = 0.1  # seconds that may be made up for after a delay
_LONGEST_WAIT = 0.1  # seconds, before it is asked again whether to stop


class Throttle:
    """Lets `rate` records through in a second, or as many as come where it is 0. For any number of threads.

    is_stopped: asked again and again while somebody waits; nobody waits any longer once it says so
    """

    def __init__(self, rate: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
        self._rate = rate
        self._is_stopped = is_stopped
        self._lock = threading.Lock()
        self._next: float | None = None  # when the next record may go out; None before the first

    @property
    def piece_size(self) -> int | None:
        """How many records may go out at once; None if any number may."""
        return max(1, self._rate // _PIECES_PER_SECOND) if self._rate else None

    def wait(self, records: int) -> bool:
        """Wait until so many records may go out; return False if none may any more."""
        if self._rate:
            with self._lock:
                now = time.monotonic()
                start = now if self._next is None else max(self._next, now - _MAX_ARREARS)
                self._next = start + records / self._rate
            while not self._is_stopped() and (remaining := start - time.monotonic()) > 0:
                time.sleep(min(remaining, _LONGEST_WAIT))
        return not self._is_stopped()
