"""The directory that logs arrive in: find them, hold the directory, rename what is done.

Paths are strings as the operating system gives them; a name need not be valid UTF-8.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import glob
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO


class DirectoryHeld(Exception):
    """Another run holds the directory; the message says which."""


def find_logs(pattern: str, *, with_done: bool = False, with_named: bool = False) -> list[str]:
    """Return the paths that match a shell glob (`**` allowed), sorted by name.

    Directories do not count, nor do names that start with a dot: those are done. with_done: return the
    done files too, as if they still had their names: `.NAME`, `.NAME.1`, …, `NAME`. with_named: return
    those done files that the pattern itself names, dot and all.
    """
    directory, name_pattern = (pattern, "*") if os.path.basename(pattern) == "**" else os.path.split(pattern)
    found = {}
    for path in _glob(pattern):
        if not is_done(path):
            found[path] = (path, math.inf)
        elif (with_named or with_done) and (original := _original(path)):
            found[path] = original
    if with_done:
        for path in _glob(os.path.join(directory, ".*")):
            original = _original(path, name_pattern)
            if original and fnmatch.fnmatchcase(os.path.basename(original[0]), name_pattern):
                found[path] = original
    paths = sorted(found, key=lambda path: (os.fsencode(found[path][0]), found[path][1]))
    # A directory can be reached by several names.
    real = {directory: os.path.realpath(directory) for directory in {os.path.dirname(path) for path in paths}}
    once: dict[tuple[str, str], str] = {}
    for path in paths:
        once.setdefault((real[os.path.dirname(path)], os.path.basename(path)), path)
    return list(once.values())


def _original(path: str, name_pattern: str = "*") -> tuple[str, float] | None:
    """Return the path that a done file had, and its number; None if the file is none that was loaded.

    A number at the end may be of the name itself: it is if only so the name matches the pattern.
    """
    directory, name = os.path.split(path)
    match = re.fullmatch(r"\.(.+?)(?:\.([0-9]+))?", name, re.DOTALL)
    if not match or match[1].endswith((".damaged", ".rejects.tsv", ".part")):
        return None
    if match[2] and not fnmatch.fnmatchcase(match[1], name_pattern):
        return os.path.join(directory, name[1:]), 0
    return os.path.join(directory, match[1]), int(match[2] or 0)


def is_done(path: str) -> bool:
    """Tell whether a file was renamed because it was done."""
    return os.path.basename(path).startswith(".")


def _glob(pattern: str) -> list[str]:
    return [path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)]


@contextlib.contextmanager
def hold_directories(paths: Iterable[str]) -> Iterator[set[str]]:
    """Hold the directories of these files for as long as the context lasts, and give their names.

    The hold is an advisory lock on each directory itself: it leaves no file behind and goes with the
    process, however that ends. Raises DirectoryHeld, or OSError where a directory can't be opened.
    """
    with contextlib.ExitStack() as stack:
        directories = {os.path.dirname(path) for path in paths}
        for directory in sorted(directories):
            descriptor = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryHeld(
                    f"{directory or '.'}: {_holder(descriptor)} is loading it; try again later"
                ) from None
        yield directories


def _holder(descriptor: int) -> str:
    """Say which process holds the lock on an open directory, as far as the system tells."""
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError), open("/proc/locks") as locks:
        for line in locks:  # 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                return f"process {fields[4]}"
    return "another process"


def is_writable(directory: str) -> bool:
    """Tell whether files in the directory can be renamed."""
    return os.access(directory or ".", os.W_OK | os.X_OK)


def dot_rename(path: str) -> str:
    """Rename NAME to .NAME, or .NAME.1, .NAME.2 … where that exists; return the new path. Raises OSError."""
    return _rename(path, free_name(_beside(path, "")))


def set_aside(path: str) -> str:
    """Rename NAME to .NAME.damaged, never over an existing file; return the new path. Raises OSError."""
    return _rename(path, free_name(_beside(path, ".damaged")))


def _beside(path: str, suffix: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}{suffix}")


def _rename(path: str, target: str) -> str:
    os.rename(path, target)
    return target


def free_name(path: str) -> str:
    """Return the path, or the first of path.1, path.2 … that does not exist yet."""
    candidate, number = path, 0
    while os.path.lexists(candidate):
        number += 1
        candidate = f"{path}.{number}"
    return candidate


@contextlib.contextmanager
def written_whole(path: str, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its place under `path` at once, when it is complete.

    Whoever reads the path sees the old content or the new, never a part. A device or a pipe is just
    written to, and a symbolic link stays one. Raises OSError.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            yield file
        return
    directory, name = os.path.split(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name[:50]}.", suffix=".part", dir=directory or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            os.fchmod(descriptor, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
