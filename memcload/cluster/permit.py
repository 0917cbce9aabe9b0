"""A worker's side of the permits: nothing is begun without one."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any

from memcload.cancel import Cancel
from memcload.cluster.leases import LEASE, boot_clock

_RENEW_EVERY = LEASE / 4
_LOOK_EVERY = 0.05  # seconds
_PATIENCE = 60.0  # seconds without any answer from the scheduler


class Superseded(Exception):
    """The window is closed: what is delivered here was delivered by others, or is not wanted any more."""


class Permit(Cancel):
    """A permit to write, held by one delivery at a time. It is the cancel token of the delivery's client.

    It runs out by the clock, so that a process that was frozen finds it run out before it does anything. What was
    begun may then take its timeout, as after any cancellation.
    """

    def __init__(self, ask: Callable[..., Any], worker: str) -> None:
        self.signal = None
        self._ask = ask
        self._worker = worker
        self._until = 0.0  # on the boot clock
        self._window = ""
        self._holder = ""
        self._answered_at = 0.0  # on the monotonic clock
        self._is_done = threading.Event()
        self._renewer: threading.Thread | None = None

    @property
    def is_set(self) -> bool:
        """True while nothing may be begun."""
        return boot_clock() > self._until

    @property
    def requested_at(self) -> float | None:
        """When the permit ran out, on the monotonic clock."""
        over = boot_clock() - self._until
        return time.monotonic() - over if over > 0 else None

    @requested_at.setter
    def requested_at(self, value: float | None) -> None:
        raise AttributeError("a permit runs out by itself")

    def hold(self, window: str) -> Permit:
        """Hold the permit for a window for as long as the context lasts."""
        self._window = window
        return self

    def __enter__(self) -> Permit:
        self._until = 0.0
        self._holder = uuid.uuid4().hex
        self._is_done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, args=(self._is_done,), daemon=True)
        self.await_grant()
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_done.set()
        self._until = 0.0
        if self._renewer is not None and self._renewer.is_alive():
            self._renewer.join()
        self._until = 0.0  # whatever the last renewal has made of it
        try:
            self._ask("give back", holder=self._holder)
        except OSError:
            return  # it runs out by itself

    def await_grant(self) -> None:
        """Wait until something may be begun. Raises Superseded where that is never."""
        self._answered_at = time.monotonic()
        while self.is_set:
            if not self._acquire():
                raise Superseded(f"the window {self._window} is closed")
            if time.monotonic() > self._answered_at + _PATIENCE:
                raise Superseded(f"the scheduler has not answered {self._worker} for {_PATIENCE:.0f} s")
            if self.is_set:
                time.sleep(_LOOK_EVERY)

    def _acquire(self) -> bool:
        """Ask for the permit; return False where it will never be granted again."""
        asked = boot_clock()
        try:
            answer = self._ask("permit", window=self._window, holder=self._holder, worker=self._worker)
        except OSError:
            return True
        self._answered_at = time.monotonic()
        if answer == "granted":
            self._until = asked + LEASE
        elif answer != "wait":  # closed; or the run is over, and the scheduler knows nothing of it any more
            self._until = min(self._until, asked)
            return False
        return True

    def _renew(self, is_done: threading.Event) -> None:
        while not is_done.wait(_RENEW_EVERY):
            if not self._acquire():
                return
