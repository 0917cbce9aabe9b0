"""Where a report or metrics go: a file that appears whole or not at all, or a pipe, a device or a stream as it is."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
import tempfile
import time
from typing import TextIO

from memcload.console import descriptor_of

_MODE = 0o644  # another user collects the metrics
_CHUNK = 4096  # bytes; what a pipe that is ready takes without blocking
_STALL = 10.0  # seconds without progress until it is clear that nobody reads


def write_file(path: str, text: str) -> None:
    """Write a text to a file, which takes its place at once; to a pipe or a device, write it as it is. Raises OSError.

    Whoever reads the path sees the old content or the new, never a part. A symbolic link stays one.
    """
    data = text.encode("utf-8", "backslashreplace")
    try:
        is_special = not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        is_special = False
    if is_special:
        _write_special(path, data)
    else:
        _replace(os.path.realpath(path), data)


def write_standard_output(text: str) -> None:
    """Write a text to standard output. Raises OSError."""
    stream: TextIO | None = sys.stdout
    if stream is None:
        raise OSError(errno.EBADF, "standard output is closed")
    descriptor = descriptor_of(stream)
    if descriptor is None:
        stream.write(text)
    stream.flush()
    if descriptor is not None:
        _write_slowly(descriptor, text.encode("utf-8", "backslashreplace"))


def why_not_written(path: str) -> str | None:
    """Return why write_file would fail, as far as that can be known without writing anything; None if it would not."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return why_not_writable(os.path.dirname(os.path.realpath(path)))
    except OSError as error:
        return f"{error.strerror}"
    if stat.S_ISDIR(status.st_mode):
        return "it is a directory"
    if not stat.S_ISREG(status.st_mode):
        return None if os.access(path, os.W_OK) else "it is not writable"
    directory = os.path.dirname(os.path.realpath(path))
    parent = os.stat(directory)
    if parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, parent.st_uid, status.st_uid):
        return f"another user owns it, and nobody else can replace it in the sticky directory {directory}"
    return why_not_writable(directory)


def why_not_appended(path: str) -> str | None:
    """Return why nothing could be appended to a file, or to a new one, as far as that can be known; None if it can."""
    if os.path.isdir(path):
        return "it is a directory"
    if os.path.exists(path):
        return None if os.access(path, os.W_OK) else "it is not writable"
    return why_not_writable(os.path.dirname(os.path.realpath(path)))


def why_not_writable(directory: str) -> str | None:
    """Return why no file can be made in a directory, as far as that can be known; None if one can."""
    if not os.path.isdir(directory):
        return f"directory {directory} does not exist"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"directory {directory} is not writable"
    disk = os.statvfs(directory)
    free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    if (disk.f_blocks and not free) or (disk.f_files and not disk.f_ffree):
        return f"the disk of {directory} is full"
    return None


def read_file(path: str, limit: int) -> bytes:
    """Return the beginning of a regular file; nothing of what is none, or can't be read."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe for reading would steal what is in it
            with open(path, "rb") as file:
                return file.read(limit)
    return b""


def _write_special(path: str, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads it", path) from None
        raise
    try:
        _write_slowly(descriptor, data)
    finally:
        os.close(descriptor)


def _write_slowly(descriptor: int, data: bytes) -> None:
    """Write as fast as somebody reads; raise OSError when nobody does."""
    remaining = memoryview(data)
    deadline = time.monotonic() + _STALL
    while remaining:
        if not select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))[1]:
            raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
        with contextlib.suppress(BlockingIOError):
            remaining = remaining[os.write(descriptor, remaining[:_CHUNK]) :]
            deadline = time.monotonic() + _STALL


def _replace(path: str, data: bytes) -> None:
    directory, name = os.path.split(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name[:50]}.", suffix=".part", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, _MODE)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
