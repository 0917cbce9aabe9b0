"""Which files a pattern means. Paths are strings as the operating system gives them; a name need not be valid UTF-8."""

from __future__ import annotations

import fnmatch
import glob
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator


class PatternError(Exception):
    """The pattern can't mean any file; the message says why, and what to do."""


class NoLibrary(Exception):
    """Nothing that is installed reaches the store that the pattern names; the message says how to get it."""


def is_done(path: str) -> bool:
    """Return True if a file was renamed because it was done."""
    return path.rpartition(os.sep)[2].startswith(".")


def check_pattern(pattern: str) -> None:
    """Raise PatternError where the part of a pattern that is no pattern does not exist, can't be read or is wrong."""
    if os.path.isdir(pattern) or pattern.endswith(os.sep):
        directory = pattern.rstrip(os.sep) or os.sep
        inside = shlex.quote(os.path.join(directory, "*"))
        raise PatternError(f"{pattern} is a directory; to load the files in it, use --pattern {inside}")
    directory = os.path.dirname(pattern)
    while glob.has_magic(directory):
        directory = os.path.dirname(directory)
    try:
        with os.scandir(directory or "."):
            pass
        if not os.path.isabs(directory) and not _has_working_directory():
            raise FileNotFoundError(None, "The working directory was deleted", directory or ".")
        if not os.access(directory or ".", os.X_OK):
            raise PermissionError(None, "Permission denied", directory)
        if not glob.has_magic(pattern) and not os.path.lexists(pattern) and not _was_done(pattern):
            raise FileNotFoundError(None, "No such file", pattern)
    except OSError as error:
        if isinstance(error, PermissionError):
            advice = f"so {pattern} can't be searched: let this user read it"
        elif pattern.startswith("~"):
            advice = "since a ~ in quotes is not expanded: write the path in full"
        else:
            advice = f"so nothing matches {pattern}: name the logs with --pattern 'DIR/*.tsv.gz'"
        raise PatternError(f"{error.filename}: {error.strerror}, {advice}") from None


def _has_working_directory() -> bool:
    """Return False where it was deleted: it can still be looked into, and holds nothing."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _was_done(path: str) -> bool:
    directory, name = os.path.split(path)
    return any(os.path.lexists(os.path.join(directory, f".{name}{suffix}")) for suffix in ("", ".damaged"))


def find_files(
    pattern: str, *, with_done: bool = False, with_named: bool = False, stops: Callable[[], bool] = lambda: False
) -> list[str]:
    """Return the paths that match a shell glob (`**` allowed), sorted by name.

    Directories do not count, nor do names that start with a dot: those are done.

    Args:
        pattern: what to look for
        with_done: return the done files too, as if they still had their names: `.NAME`, `.NAME.1`, …, `NAME`
        with_named: return those done files that the pattern itself names, dot and all
        stops: once it returns True, no more directories are looked into
    """
    directory, name_pattern = split_pattern(pattern)
    matching = _files(os.path.join(directory, name_pattern), stops)
    dotted = _files(os.path.join(directory, ".*"), stops) if with_done else []
    paths = in_order(matching, dotted, name_pattern, with_named=with_named or with_done)
    # A directory can be reached by several names.
    real = {directory: os.path.realpath(directory) for directory in {os.path.dirname(path) for path in paths}}
    once: dict[tuple[str, str], str] = {}
    for path in paths:
        once.setdefault((real[os.path.dirname(path)], os.path.basename(path)), path)
    return list(once.values())


def local_pattern(pattern: str) -> str | None:
    """Return the pattern of files of this machine; None if it is that of a store."""
    pattern = re.sub(r"^(?:file|local)://", "", pattern)
    return None if "://" in pattern else pattern


def would_match(path: str, pattern: str) -> bool:
    """Return True if a pattern matches a file of this machine, or would if there were one. `path` is a real path."""
    directory, name_pattern = split_pattern(local_pattern(pattern) or "")
    if is_done(path) or not fnmatch.fnmatchcase(os.path.basename(path), name_pattern):
        return False
    directories = _expand(os.path.join(directory or ".", ""), lambda: False)
    return os.path.dirname(path) in map(os.path.realpath, directories)


def split_pattern(pattern: str) -> tuple[str, str]:
    """Return the pattern of the directories and that of the names in them."""
    return (pattern, "*") if os.path.basename(pattern) == "**" else os.path.split(pattern)


def in_order(matching: Iterable[str], dotted: Iterable[str], name_pattern: str, *, with_named: bool) -> list[str]:
    """Return the paths of files that are to be loaded, sorted by name.

    Args:
        matching: what matches the pattern: of those that are done, it may name some itself
        dotted: what starts with a dot where the pattern looks; those that had a matching name are loaded again
        name_pattern: the pattern of the names
        with_named: return those done files that the pattern itself names, dot and all
    """
    found = {}
    for path in matching:
        if not is_done(path):
            found[path] = (path, math.inf)
        elif with_named and (original := _original(path)):
            found[path] = original
    for path in dotted:
        original = _original(path, name_pattern)
        if original and fnmatch.fnmatchcase(os.path.basename(original[0]), name_pattern):
            found[path] = original
    return sorted(found, key=lambda path: (os.fsencode(found[path][0]), found[path][1]))


def _original(path: str, name_pattern: str = "*") -> tuple[str, float] | None:
    """Return the path that a done file had, and its number; None if the file is none that was loaded.

    A number at the end may be of the name itself: it is if only so the name matches the pattern.
    """
    directory, slash, name = path.rpartition("/")
    match = re.fullmatch(r"\.(.+?)(?:\.([0-9]+))?", name, re.DOTALL)
    if not match or match[1].endswith((".damaged", ".rejects.tsv", ".part")):
        return None
    if match[2] and not fnmatch.fnmatchcase(match[1], name_pattern):
        return f"{directory}{slash}{name[1:]}", 0
    return f"{directory}{slash}{match[1]}", int(match[2] or 0)


def _files(pattern: str, stops: Callable[[], bool]) -> list[str]:
    return [path for path in _expand(pattern, stops) if not os.path.isdir(path)]


def _expand(pattern: str, stops: Callable[[], bool]) -> Iterator[str]:
    """Yield what a pattern matches. Python's own `**` goes around in circles where links do."""
    before, stars, after = _at_two_stars(pattern)
    if not stars:
        yield from glob.glob(pattern)
        return
    for root in glob.glob(before) if before else [""]:
        for directory in _tree(root):
            if stops():
                return
            yield from _expand(os.path.join(glob.escape(directory), after), stops)


def _at_two_stars(pattern: str) -> tuple[str, str, str]:
    """Part a pattern at its first component `**`; the first part keeps the slash at its end."""
    match = re.fullmatch(r"(|.*?/)(\*\*)/+(.*)", pattern, re.DOTALL)
    return (match[1], match[2], match[3]) if match else (pattern, "", "")


def _tree(root: str) -> Iterator[str]:
    """Yield a directory and all below it, each once; links are followed after the directories themselves."""
    seen: set[tuple[int, int]] = set()
    directories, links = [root], list[str]()
    while directories or links:
        directory = directories.pop() if directories else links.pop(0)
        try:
            status = os.stat(directory or ".")
            identity = status.st_dev, status.st_ino
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(directory or ".") as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and entry.is_dir():
                        (links if entry.is_symlink() else directories).append(os.path.join(directory, entry.name))
        except OSError:  # as in every shell, what can't be read has nothing in it
            continue
        yield directory
