"""One run at a time in a directory of an object store: a small object that says who is at work there.

A run makes the object by a conditional write, writes it anew every few seconds, and deletes it in the end. Whoever
finds another's watches it: if it changes, the other run is alive. If it does not change for as long as it is good
for, it has run out and is taken over. No clock is compared with that of another host.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass

from memcload.cancel import Cancel
from memcload.log import LOG
from memcload.source.holding import DirectoryHeld, NoLocks
from memcload.source.store import Store
from memcload.source.store_errors import Conflict, Stopped

NAME = ".memc-load.lock"
_GOOD_FOR = 20.0  # seconds
_RENEWED_EVERY = 4.0
_LOOK_EVERY = 0.5
_WATCHED_EVERY = 1.0
_MARGIN = 5.0  # seconds before its end in which nothing is begun
_LONGEST = 4096  # bytes
_AT_A_TIME = 64  # leases that are taken; most of that is waiting


@contextlib.contextmanager
def held(leases: Collection[Lease]) -> Iterator[None]:
    """Hold leases for as long as the context lasts. All are taken at a time, as each may have to outwait a dead run.

    Raises:
        DirectoryHeld: another run is alive in one of the directories
        NoLocks: the store does not let us write in one of them
        OSError: the store can't be asked
    """
    with ThreadPoolExecutor(_AT_A_TIME, "lease") as pool:
        attempts = [pool.submit(lease.acquire) for lease in leases]
        try:
            for attempt in as_completed(attempts):
                attempt.result()
            yield
        finally:
            for attempt, lease in zip(attempts, leases, strict=True):
                attempt.cancel()
                lease.give_up()
            wait(attempts)
            list(pool.map(Lease.release, leases))


@dataclass(frozen=True)
class _Holder:
    """Who a lease object names."""

    name: str
    good_for: float

    @classmethod
    def of(cls, data: bytes) -> _Holder:
        try:
            found = json.loads(data)
            return cls(f"{found['host']}, process {found['process']}", min(float(found["seconds"]), 10 * _GOOD_FOR))
        except (ValueError, KeyError, TypeError):
            return cls("an unknown run", _GOOD_FOR)


class Lease:
    """The hold of one directory. `acquire` begins it, `release` ends it."""

    def __init__(self, store: Store, directory: str, cancel: Cancel) -> None:
        self._store = store
        self._directory = directory
        self._url = f"{directory}/{NAME}"
        self._cancel = cancel
        self._token = uuid.uuid4().hex
        self._count = 0
        self._tag = ""
        self._minds = False  # the store minds conditions
        self._good_until = 0.0
        self._trouble = ""
        self._released = threading.Event()
        self._renewer = threading.Thread(target=self._renew_again_and_again, name=f"lease {directory}", daemon=True)
        self._guard = threading.Thread(target=self._see_to_the_end, name=f"end of lease {directory}", daemon=True)

    def acquire(self) -> None:
        """Take the lease; where another run has it, wait until it is seen to be alive, or until its lease has run out.

        Raises:
            DirectoryHeld: another run is alive there
            NoLocks: the store does not let us write there
            OSError: the store can't be asked
        """
        try:
            self._acquire()
        except PermissionError as error:
            raise NoLocks(
                f"{self._directory}: it can't be held, and without that two runs could load it at once: "
                f"{error.strerror}"
            ) from None

    def _acquire(self) -> None:
        while not self._try_to_make():
            if (seen := self._read()) is None:
                continue  # released at this moment
            self._watch(seen[1])
            if self._take_over(seen[1]):
                break
        self._minds = self._store.minds_conditions(self._url, self._content())
        if not self._minds:
            self._take_note()
            LOG.warning(
                "%s: the store ignores conditional writes, so that two runs which begin at the same moment may both "
                "load it; see to it that only one is started at a time",
                self._directory,
            )
        if not (self._minds and self._store.has_conditional_replace):
            self._cancel.wait(2 * _LOOK_EVERY)  # whoever was as fast as this run has written by then
            seen = self._read()
            if not seen or not self._is_mine(seen[1]):
                name = _Holder.of(seen[1] if seen else b"").name
                raise DirectoryHeld(f"{self._directory}: {name} is loading it; try again later ({self._url})")
        self._renewer.start()
        self._guard.start()

    def check(self) -> None:
        """Raise OSError if the lease has run out or is another's, as far as that is known."""
        if time.monotonic() > self._good_until - _MARGIN:
            raise Stopped(None, f"this run has lost its hold of {self._directory}", self._url)

    def give_up(self) -> None:
        """End the wait for another run, and the renewing."""
        self._released.set()

    def release(self) -> None:
        """Give the lease back, if it was taken."""
        self.give_up()
        if not self._good_until:
            return
        with contextlib.suppress(OSError):
            self._store = self._store.with_more_grace()
            seen = self._read()
            if seen and self._is_mine(seen[1]):
                self._store.delete(self._url)

    # -- taking it

    def _try_to_make(self) -> bool:
        """Make the object where there is none; return True if that is done."""
        if self._read() is not None:
            return False
        started = time.monotonic()
        tag = ""
        try:
            tag = self._store.create(self._url, self._content())
        except Conflict:  # somebody was faster; or it was ourselves, and the first answer was lost
            seen = self._read()
            if not seen or not self._is_mine(seen[1]):
                return False
        self._take_note(started, tag)
        return True

    def _watch(self, data: bytes) -> None:
        """Return once a lease of another has run out. Raises DirectoryHeld once it is seen to be renewed."""
        holder = _Holder.of(data)
        LOG.info(
            "%s: %s may be loading it; watching for %.0f s if it still does",
            self._directory,
            holder.name,
            holder.good_for,
        )
        deadline = time.monotonic() + holder.good_for
        while time.monotonic() < deadline:
            if self._cancel.wait(_WATCHED_EVERY) or self._released.is_set():
                raise Stopped(None, "the run was stopped while it waited for another one", self._url)
            seen = self._read()
            if seen is None:
                return
            if seen[1] != data:
                raise DirectoryHeld(
                    f"{self._directory}: {_Holder.of(seen[1]).name} is loading it; try again later ({self._url})"
                )

    def _take_over(self, data: bytes) -> bool:
        """Write over a lease that has run out; return False if somebody was faster, or it is gone."""
        started = time.monotonic()
        seen = self._read()
        if seen is None or seen[1] != data:
            return False
        new_tag = ""
        try:
            if self._store.has_conditional_replace:
                new_tag = self._store.replace(self._url, self._content(), seen[0])
            else:
                self._store.delete(self._url)
                new_tag = self._store.create(self._url, self._content())
        except Conflict:
            seen = self._read()
            if not seen or not self._is_mine(seen[1]):
                return False
        LOG.warning("%s: the run of %s has ended without a word; going on", self._directory, _Holder.of(data).name)
        self._take_note(started, new_tag)
        return True

    # -- keeping it

    def _renew_again_and_again(self) -> None:
        while not self._released.wait(_RENEWED_EVERY):
            try:
                self._write()
            except Conflict:
                self._lose("another run has taken it")
                return
            except OSError as error:  # there is time to try again
                self._trouble = error.strerror or str(error)

    def _see_to_the_end(self) -> None:
        """Stop the run in time where the lease could not be renewed, whatever keeps the renewer waiting."""
        while not self._released.wait(_LOOK_EVERY):
            if time.monotonic() > self._good_until - _MARGIN:
                self._lose(self._trouble or "it was not renewed in time")
                return

    def _write(self) -> None:
        """Write the object anew. Raises Conflict where it is another's, OSError."""
        started = time.monotonic()
        if not (self._minds and self._store.has_conditional_replace):
            self._check_token()
        try:
            tag = self._store.replace(self._url, self._content(), self._tag)
        except Conflict:  # an earlier write whose answer was lost may have done it
            self._check_token()
            self._take_note()
            raise OSError(None, "it was written, but not confirmed", self._url) from None
        self._take_note(started, tag)

    def _check_token(self) -> None:
        seen = self._read()
        if not seen or not self._is_mine(seen[1]):
            raise Conflict(None, f"another run has taken {self._directory}", self._url)

    def _take_note(self, started: float | None = None, tag: str = "") -> None:
        """Take note of the object's ETag, asked for where it is not known, and of a write that began then."""
        if not tag:
            seen = self._read()
            if not seen or not self._is_mine(seen[1]):
                return
            tag = seen[0]
        self._tag = tag
        if started is not None:
            self._good_until = started + _GOOD_FOR

    def _lose(self, why: str) -> None:
        if not self._released.is_set() and not self._cancel.is_set:
            LOG.error("%s: this run has lost its hold of it and stops: %s", self._directory, why)
            self._good_until = 0.0
            self._cancel.set(cause=f"the loss of its hold of {self._directory}")

    # -- the object

    def _content(self) -> bytes:
        self._count += 1
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=_GOOD_FOR)
        content = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "until": until.isoformat(timespec="seconds"),
            "seconds": _GOOD_FOR,
            "run": self._token,
            "renewed": self._count,
        }
        return json.dumps(content).encode()

    def _is_mine(self, data: bytes) -> bool:
        return self._token.encode() in data

    def _read(self) -> tuple[str, bytes] | None:
        """Return the object's ETag, taken first, and its content; None if there is none. Raises OSError."""
        entry = self._store.entry(self._url)
        if entry is None:
            return None
        try:
            return entry.tag, self._store.read(self._url, 0, min(entry.size, _LONGEST)) if entry.size else b""
        except FileNotFoundError:
            return None
