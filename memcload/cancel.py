"""The one token that says whether a run is to stop; everything that waits looks at it."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

_LOOK_EVERY = 0.05  # seconds


class Cancel:
    """Holds whether a run was cancelled, when, and by which signal or other cause.

    It is polled: a signal handler may only set plain attributes, since it can interrupt a thread that holds a lock.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.cause = ""  # in words: what stopped the run
        self.requested_at: float | None = None  # on the monotonic clock

    @property
    def is_set(self) -> bool:
        """True once the run is to stop: begin nothing new, finish what is in flight."""
        return self.requested_at is not None

    def set(self, by: signal.Signals | None = None, *, cause: str = "") -> None:
        """Cancel the run."""
        self.signal = self.signal or by
        self.cause = self.cause or cause or (by.name if by else "")
        self.requested_at = self.requested_at or time.monotonic()

    def wait(self, seconds: float) -> bool:
        """Sleep for some seconds, or until the run is cancelled; return True if it is."""
        end = time.monotonic() + seconds
        while not self.is_set and (remaining := end - time.monotonic()) > 0:
            time.sleep(min(remaining, _LOOK_EVERY))
        return self.is_set

    def listen(self) -> None:
        """Let SIGINT and SIGTERM cancel the run; a second one ends the process at once.

        A signal that was ignored when the process started (by nohup, say) stays ignored.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            os._exit(128 + number)
        self.set(signal.Signals(number))  # and nothing is logged: the signal may have come in the middle of a line


def end_at_interrupt() -> None:
    """Until a run listens, let SIGINT end the process at once, as SIGTERM does: nothing has begun that it could spoil.

    (Python would show where among its imports it was.)
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
