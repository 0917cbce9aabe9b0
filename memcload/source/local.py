"""Logs in the directories of this machine: find them, hold their directories, rename what is done."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from memcload.source import linux
from memcload.source.holding import hold
from memcload.source.names import free_name, free_short_name
from memcload.source.pattern import check_pattern, find_files, is_done
from memcload.source.reader import InputFile
from memcload.source.rejects import Rejects

_USUAL = 64  # bytes: most names are shorter, and most file systems take longer ones


class LocalFile(InputFile):
    """A regular file, opened for reading. A symbolic link is not followed: it could lead anywhere. Raises OSError."""

    def __init__(self, path: str) -> None:
        # O_NONBLOCK: opening a pipe that matches the pattern must not wait for its writer
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ELOOP and os.path.islink(path):
                raise OSError(errno.ELOOP, "it is a symbolic link, and links are not followed", path) from None
            raise
        self.stat = os.fstat(descriptor)
        file = _Descriptor(descriptor, self.stat.st_size)
        if not stat.S_ISREG(self.stat.st_mode):
            file.close()
            kind = "a directory" if stat.S_ISDIR(self.stat.st_mode) else "not a regular file"
            raise OSError(None, f"it is {kind}", path)
        super().__init__(path, file, self.stat.st_size)

    @property
    def age(self) -> float:
        """Seconds since the file was last written to; negative if it is dated in the future."""
        return time.time() - self.stat.st_mtime

    @property
    def mode(self) -> int:
        """Who may read and write the file."""
        return stat.S_IMODE(self.stat.st_mode)

    @property
    def version(self) -> object:
        """What was opened. Hosts that share a file system may have other numbers for it."""
        return self.stat.st_ino, self.stat.st_size, self.stat.st_mtime_ns

    def is_unchanged(self) -> bool:
        """Return True if the path still names the file that was opened, as it was then."""
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return _version(now) == _version(self.stat)

    def is_open_for_writing(self) -> bool:
        """Return True if some process has the file open for writing; False also where that can't be known."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return linux.is_open_for_writing(descriptor)
        finally:
            os.close(descriptor)


class _Descriptor:
    """A file that is read by its descriptor alone: to make an io object takes longer than to read a small file.

    It ends where it ended when it was opened: a file that has grown since is one that has changed.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._position = 0

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        if self._size:
            size = min(size, self._size - self._position)
        data = os.read(self._descriptor, size) if size > 0 else b""
        self._position += len(data)
        return data

    def seek(self, position: int, /) -> int:
        """Go to a position."""
        self._position = os.lseek(self._descriptor, position, os.SEEK_SET)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class LocalSource:
    """The files that a pattern matches.

    Args:
        pattern: a shell glob; `**` is any number of directories
        with_done: find the files that are done too, in the order in which they were loaded
        with_named: find those done files that the pattern itself names
        min_age: leave files that are younger, in seconds; a file dated in the future is not young
        stops: once it returns True, no more directories are looked into
    """

    def __init__(
        self,
        pattern: str,
        *,
        with_done: bool = False,
        with_named: bool = False,
        min_age: float = 0.0,
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        self.pattern = pattern
        self._with_done = with_done
        self._with_named = with_named
        self._min_age = min_age
        self._stops = stops
        self._held: set[str] | None = None  # the directories, once there is a lock
        self._parents: dict[str, _Parent] = {}

    def find(self) -> list[str]:
        """Return the paths of the files in their order; while there is a lock, those in its directories.

        Raises:
            PatternError: the pattern is a directory, or what is fixed of it does not exist or can't be read
        """
        check_pattern(self.pattern)
        paths = find_files(self.pattern, with_done=self._with_done, with_named=self._with_named, stops=self._stops)
        return [path for path in paths if self._is_held(path) and not self._is_too_young(path)]

    def _is_held(self, path: str) -> bool:
        return self._held is None or os.path.dirname(path) in self._held

    def _is_too_young(self, path: str) -> bool:
        if self._min_age <= 0:
            return False
        try:
            return 0 <= time.time() - os.lstat(path).st_mtime < self._min_age
        except OSError:
            return False  # gone: whoever opens it will see

    @contextlib.contextmanager
    def lock(self) -> Iterator[set[str]]:
        """Hold the directories of the files for as long as the context lasts, and give their names.

        Find the files again then: the run that held a directory until now has renamed some.

        Raises:
            DirectoryHeld: another run holds one of them
            NoLocks: the file system of one of them has no locks
            OSError: one of them can't be opened
        """
        directories = {os.path.dirname(path) for path in self.find()}
        with hold(directories):
            self._held = directories
            try:
                yield directories
            finally:
                self._held = None

    def size_of(self, paths: Sequence[str]) -> int:
        """Return how large these files are together, as far as that can be known."""
        total = 0
        for path in paths:
            with contextlib.suppress(OSError):
                total += os.stat(path).st_size
        return total

    def open(self, path: str) -> LocalFile:
        """Open a file; raise OSError where it can't be opened or is no regular file."""
        return LocalFile(path)

    def exists(self, path: str) -> bool:
        """Return True if there is something of this name."""
        return os.path.lexists(path)

    def new_rejects(self, path: str, directory: str | None, limit: int) -> Rejects:
        """Return what keeps the rejected lines of a file, to save them in a directory or beside the file."""
        own_directory, name = os.path.split(path)
        return Rejects(name, own_directory if directory is None else directory, limit)

    def why_not_renamable(self, path: str) -> str | None:
        """Return why a file could not be renamed once it is loaded, as far as that can be known; None if it could."""
        if is_done(path):
            return None  # and keeps its name
        directory, name = os.path.split(path)
        try:
            parent = self._parents.get(directory) or self._parents.setdefault(directory, _Parent.of(directory or "."))
            if not parent.is_writable:
                return f"directory {directory or '.'} is not writable"
            if parent.is_restricted and os.lstat(path).st_uid != os.geteuid():
                return f"only its owner may rename it in the sticky directory {directory or '.'}"
            if len(os.fsencode(name)) > parent.fitting:
                free_name(_dotted(path))
        except FileNotFoundError:
            return None  # gone: whoever opens it will see
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return "its name is too long for a dot in front of it; give it a shorter one"
            return f"{error.strerror}"
        return None

    def finalize(self, path: str, *, damaged: bool, wait: bool = True) -> str:
        """Give a file that is done, or damaged, the name for that; return its new path. Raises OSError."""
        return set_aside(path) if damaged else dot_rename(path)


class _Parent(NamedTuple):
    """What this user may do in a directory: looked at once, since files can be many and small.

    is_restricted: only the owner of a file may rename it
    fitting: bytes of a name that surely leaves room for a dot and a number
    """

    is_writable: bool
    is_restricted: bool
    fitting: int

    @classmethod
    def of(cls, directory: str) -> _Parent:
        """Look at a directory. Raises OSError."""
        status = os.stat(directory)
        is_restricted = bool(status.st_mode & stat.S_ISVTX) and os.geteuid() not in (0, status.st_uid)
        fitting = 0
        with contextlib.suppress(OSError):
            free_name(os.path.join(directory, "." * _USUAL))
            fitting = _USUAL - len("..9999")
        return cls(os.access(directory, os.W_OK | os.X_OK), is_restricted, fitting)


def dot_rename(path: str) -> str:
    """Rename NAME to .NAME, or to .NAME.1, .NAME.2 … where that exists; return the new path. Raises OSError."""
    target = free_name(_dotted(path))
    os.rename(path, target)
    return target


def set_aside(path: str) -> str:
    """Rename NAME to .NAME.damaged, never over an existing file; return the new path. Raises OSError."""
    target = free_short_name(_dotted(path), ".damaged")
    os.rename(path, target)
    return target


def _dotted(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}")
