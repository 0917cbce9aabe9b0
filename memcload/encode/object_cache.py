"""A cache of object code on disk: private, whole or not there at all, and made again where it is damaged.

What lies there is run, so nothing is read that anybody else could have written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEADER = b"memcload object code 1\n"
_CHECKSUM_LENGTH = hashlib.sha256().digest_size


class Cached(NamedTuple):
    """What the cache has under a name: its code, or why there is a file and no code."""

    code: bytes | None
    problem: str | None = None


def read(name: str) -> Cached:
    """Return what lies under a name in the first directory that has it whole."""
    return _search(name)[0]


def find(name: str) -> Path | None:
    """Return where that lies; None where no directory has it."""
    return _search(name)[1]


def find_writable() -> Path | None:
    """Return the directory that code would be written to, which may have to be made; None if there is none."""
    for directory in _directories():
        try:
            _require_private(directory)
        except FileNotFoundError:
            existing = next((parent for parent in directory.parents if parent.exists()), directory.parent)
        except OSError:
            continue
        else:
            existing = directory
        if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            return directory
    return None


def _search(name: str) -> tuple[Cached, Path | None]:
    problem = None
    for directory in _directories():
        path = directory / name
        try:
            _require_private(directory)
        except OSError:
            continue
        try:
            return Cached(_checked(_read_own(path))), path
        except FileNotFoundError:
            continue
        except OSError as error:
            problem = problem or f"{path}: {error.strerror or error}"
    return Cached(None, problem), None


def write(name: str, code: bytes) -> Path | None:
    """Write code in whole under a name into the first directory that takes it; return where, None if none does."""
    for directory in _directories():
        try:
            _make_private(directory)
            path = directory / name
            _write_whole(path, _HEADER + hashlib.sha256(code).digest() + code)
        except OSError:
            continue
        return path
    return None


def is_empty() -> bool:
    """Return True if no directory of the cache holds anything."""
    for directory in _directories():
        with contextlib.suppress(OSError):
            if any(directory.iterdir()):
                return False
    return True


def _directories() -> Iterator[Path]:
    """Yield where the cache may lie, the best place first."""
    systemd = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]  # it may name several
    for place in (os.environ.get("NUMBA_CACHE_DIR"), systemd):
        if place:
            yield Path(place) / "memcload"
    own = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(own):  # which the XDG specification says to ignore
        own = os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    if os.path.isabs(own):
        yield Path(own) / "memcload"
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir()) / f"memcload-{os.geteuid()}"


def _refuse_others(status: os.stat_result) -> None:
    """Raise PermissionError for what somebody else than this user and root may write."""
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("other users can write to it")


def _make_private(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(0o700)
    _require_private(directory)


def _require_private(directory: Path) -> None:
    """Raise OSError unless it is a directory that only this user and root may write."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError("it is not a directory")
    _refuse_others(status)


def _read_own(path: Path) -> bytes:
    """Return the content of a file that nobody else may write. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        _refuse_others(status)
        return file.read()


def _checked(content: bytes) -> bytes:
    """Return the code in a file's content. Raises OSError where it is damaged."""
    checksum = content[len(_HEADER) : len(_HEADER) + _CHECKSUM_LENGTH]
    code = content[len(_HEADER) + _CHECKSUM_LENGTH :]
    if not content.startswith(_HEADER) or hashlib.sha256(code).digest() != checksum:
        raise OSError("it is damaged")
    return code


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees a part of it, however many write it at once."""
    descriptor, name = tempfile.mkstemp(prefix=".", dir=path.parent)  # with the mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
