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

    is_stopped: asked while somebody waits; as `stop` does, it lets nobody wait any longer once it says so
    """

    def __init__(self, rate: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
        self._rate = rate
        self._asks_to_stop = is_stopped
        self._lock = threading.Lock()
        self._is_stopped = threading.Event()
        self._next: float | None = None  # when the next record may go out; None before the first

    @property
    def piece_size(self) -> int | None:
        """How many records may go out at once; None if any number may."""
        return max(1, self._rate // _PIECES_PER_SECOND) if self._rate else None

    def wait(self, records: int) -> bool:
        """Wait until so many records may go out; return False if the throttle was stopped meanwhile."""
        if not self._rate:
            return True
        with self._lock:
            now = time.monotonic()
            start = now if self._next is None else max(self._next, now - _MAX_ARREARS)
            self._next = start + records / self._rate
        while not self._asks_to_stop() and not self._is_stopped.wait(max(0.0, min(start - now, _LONGEST_WAIT))):
            now = time.monotonic()
            if now >= start:
                return True
        return False

    def stop(self) -> None:
        """Let nobody wait any longer."""
        self._is_stopped.set()
