"""Holds directories for one run at a time.

The hold is an advisory lock on each directory itself: it leaves no file behind and goes with the process, however
that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from collections.abc import Iterable, Iterator
from types import TracebackType

from memcload.source import linux

_SHARE = 4  # of the descriptors that a process may have, one in four may hold a directory


class DirectoryHeld(Exception):
    """Another run holds the directory; the message names both."""


class NoLocks(Exception):
    """The file system of a directory has no locks; the message names the directory and what to do."""


@contextlib.contextmanager
def hold(directories: Iterable[str]) -> Iterator[None]:
    """Hold directories for as long as the context lasts; the empty name is the current directory.

    Raises:
        DirectoryHeld: another run holds one of them
        NoLocks: the file system of one of them has no locks
        OSError: one of them can't be opened
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = limit // _SHARE if limit > 0 else None  # no limit is -1
    descriptors: list[int] = []
    with _Keepers() as keepers:
        try:
            for directory in sorted(directories):
                if len(descriptors) == room:
                    keepers.keep(descriptors)
                descriptors.append(os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                _lock(descriptors[-1], directory or ".")
            yield
        finally:
            _close(descriptors)


class _Keepers:
    """Processes that keep descriptors open for this one, whose own are limited. They end when it does.

    A lock belongs to what a descriptor stands for, so a child that was given the descriptor holds it just as well.
    """

    def __init__(self) -> None:
        self._processes: list[int] = []
        self._pipe: tuple[int, int] | None = None  # whose other end closes with this process

    def __enter__(self) -> _Keepers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pipe is not None:
            _close(list(self._pipe))
        for process in self._processes:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)

    def keep(self, descriptors: list[int]) -> None:
        """Let another process keep these open, and close them here. Raises OSError."""
        if self._pipe is None:
            self._pipe = os.pipe()
        receiver, sender = self._pipe
        # Signals from the terminal go to children too: the locks must stay until this process has ended in good order.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            process = os.fork()
            if not process:
                try:
                    os.close(sender)
                    os.read(receiver, 1)
                finally:
                    os._exit(0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._processes.append(process)
        _close(descriptors)


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _lock(descriptor: int, directory: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = linux.lock_holder(descriptor)
        holder = f"process {process}" if process else "another process"
        raise DirectoryHeld(f"{directory}: {holder} is loading it; try again later") from None
    except OSError as error:
        raise NoLocks(
            f"{directory}: its file system does not support locks ({error.strerror}), so two runs could load it at "
            "once: move the logs to a local disk"
        ) from None
