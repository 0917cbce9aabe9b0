"""Names beside a file that nobody has yet."""

from __future__ import annotations

import contextlib
import errno
import os


def free_name(path: str) -> str:
    """Return the path, or the first of path.1, path.2 … that does not exist yet.

    Raises:
        OSError: the name is too long for the file system, or it can't be looked up
    """
    candidate, number = path, 0
    while True:
        try:
            os.lstat(candidate)
        except FileNotFoundError:
            return candidate
        number += 1
        candidate = f"{path}.{number}"


def free_short_name(path: str, suffix: str) -> str:
    """Return a free name as `free_name` does, of the path and a suffix; the name is cut where it would be too long."""
    directory, name = os.path.split(path)
    while True:
        try:
            return free_name(os.path.join(directory, name + suffix))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG or len(name) < 2:
                raise
            name = name[:-1]


def claim_name(path: str, suffix: str) -> str:
    """Create an empty file under a name that `free_short_name` finds and nobody else gets. Raises OSError."""
    while True:
        candidate = free_short_name(path, suffix)
        with contextlib.suppress(FileExistsError):  # or another process was faster
            os.close(os.open(candidate, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return candidate
