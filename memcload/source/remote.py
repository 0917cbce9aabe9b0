"""Logs in an object store: find them, hold their directories, rename what is done by a copy and a delete.

A run that dies between the two leaves NAME and .NAME. That is known by this: they are of one size, .NAME was written
after NAME, and they hold the same bytes. (A NAME that is delivered once more is written after .NAME.) The next run
deletes NAME and does not load it again.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence

from memcload.cancel import Cancel
from memcload.log import LOG
from memcload.source.lease import NAME as LEASE_NAME
from memcload.source.lease import Lease, held
from memcload.source.listing import Listing
from memcload.source.pattern import PatternError, in_order, is_done
from memcload.source.readahead import ReadAhead
from memcload.source.reader import InputFile
from memcload.source.rejects import Rejects
from memcload.source.store import Call, Entry, Store
from memcload.source.store_errors import Conflict, Stopped
from memcload.text import Text

_LONGEST_KEY = 1024  # bytes, as in S3 and Google's
_COMPARED = 1 << 23  # bytes at a time
_LONGEST_SUFFIX = len("..rejects.tsv.99")


class RemoteFile(InputFile):
    """An object, opened for reading. Raises OSError."""

    arrives_whole = True
    mode = 0o644

    def __init__(self, store: Store, url: str) -> None:
        entry = store.entry(url)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object any more", url)
        if entry.is_directory:
            raise OSError(None, "not a regular file", url)
        if entry.is_unpacked:
            raise OSError(
                None, "its store unpacks it on the way (Content-Encoding: gzip) and cuts it; remove that property", url
            )
        self.entry = entry
        self._store = store
        file = ReadAhead(store, url, entry)
        super().__init__(url, file, entry.size)

    @property
    def age(self) -> float:
        """Seconds since the object was written, as far as the clocks agree."""
        return time.time() - self.entry.modified if self.entry.modified else math.inf

    @property
    def version(self) -> object:
        """What was opened."""
        return self.entry

    def is_unchanged(self) -> bool:
        """Return True if the URL still names the object that was opened, or if that can't be known now."""
        try:
            return self._store.entry(self.path) == self.entry
        except OSError:
            return True  # whoever renames it will see

    def is_open_for_writing(self) -> bool:
        """Return False: nobody sees an object that is being written."""
        return False

    def texts(self, size: int) -> Iterator[Text]:
        """Yield the object's lines in texts of about `size` bytes, in order, until the run is stopped."""
        yield from super().texts(size)
        if isinstance(self.read_error, Stopped):
            self.read_error = None  # it is not the file that is wrong
        elif isinstance(self.read_error, Conflict):
            self.read_error = None  # it has changed: see is_unchanged


class _RemoteRejects(Rejects):
    """Rejects that are kept in a temporary directory and saved beside their object."""

    def __init__(self, store: Store, url: str, limit: int) -> None:
        directory, _, name = url.rpartition("/")
        super().__init__(name, tempfile.gettempdir(), limit)
        self._store = store
        self._target = f"{directory}/.{name}.rejects.tsv"

    def _publish(self, temporary: str) -> str:
        while True:
            target = _free(self._store, self._target)
            with contextlib.suppress(Conflict):  # another process was faster
                self._store.create_from(target, temporary)
                os.unlink(temporary)
                return target


class RemoteSource:
    """The objects that a pattern matches.

    Args:
        pattern: a URL with a shell glob in it; `**` is any number of directories
        cancel: ends waiting for the store
        grace: how many seconds after that
        with_done: find the files that are done too, in the order in which they were loaded
        with_named: find those done files that the pattern itself names
        min_age: leave files that are younger, in seconds
    """

    def __init__(
        self,
        pattern: str,
        cancel: Cancel,
        grace: float,
        *,
        with_done: bool = False,
        with_named: bool = False,
        min_age: float = 0.0,
    ) -> None:
        self.pattern = pattern
        self._cancel = cancel
        self._store = Store(pattern, cancel, grace)
        self._with_done = with_done
        self._with_named = with_named
        self._min_age = min_age
        self._leases: dict[str, Lease] | None = None  # by directory, once there is a lock
        self._found: dict[str, Entry] = {}
        self._opened: dict[str, Entry] = {}
        self._renames: dict[str, Call] = {}  # under way
        self._stuck: dict[str, str] = {}  # why files that are done could not be deleted
        self._compared: dict[tuple[str, Entry, str, Entry], bool] = {}

    def find(self) -> list[str]:
        """Return the URLs of the files in their order; while there is a lock, those in its directories.

        Then what a run that died has copied but not deleted is deleted.

        Raises:
            PatternError: the pattern names no bucket, a directory, or nothing
            OSError: the store can't be asked
        """
        paths, leftovers = self._scan()
        if self._leases is not None:
            paths = [path for path in paths if path.rpartition("/")[0] in self._leases]
            for path, done in leftovers.items():
                if path.rpartition("/")[0] in self._leases and not self._delete_leftover(path, done):
                    paths = sorted([*paths, path], key=os.fsencode)
        return paths

    def _scan(self) -> tuple[list[str], dict[str, str]]:
        """Return the files to load, and those that are done but were not deleted, with their new names."""
        listing = Listing(self._store, self.pattern)
        try:
            listing.check()
            matching = list(listing.files(listing.name_pattern))
            dotted = list(listing.files(".*")) if self._with_done else []
        except OSError as error:
            raise PatternError(f"{error.filename}: {error.strerror}") from None
        found = in_order(matching, dotted, listing.name_pattern, with_named=self._with_named or self._with_done)
        paths, leftovers = [], {}
        for path in found:
            entry = listing.entry(path)
            if entry is None or path.endswith(f"/{LEASE_NAME}"):
                continue
            self._found[path] = entry
            if not is_done(path) and (done := self._copy_of(path, entry, listing)):
                leftovers[path] = done
            elif self._min_age <= 0 or not 0 <= time.time() - entry.modified < self._min_age:
                paths.append(path)
        return paths, leftovers

    def _copy_of(self, path: str, entry: Entry, listing: Listing) -> str | None:
        """Return the name under which a file is done already, if it was only not deleted; else None."""
        directory, _, name = path.rpartition("/")
        is_its_name = re.compile(rf"\.{re.escape(name)}(?:\.damaged)?(?:\.[0-9]+)?")
        for other, copied in listing.beside(path).items():
            if (
                copied.size == entry.size
                and copied.modified >= entry.modified
                and is_its_name.fullmatch(other)
                and self._is_same(path, entry, f"{directory}/{other}", copied)
            ):
                return f"{directory}/{other}"
        return None

    def _is_same(self, path: str, entry: Entry, other: str, copied: Entry) -> bool:
        """Return True if two objects of one size hold the same bytes. Raises OSError."""
        if entry.tag and entry.tag == copied.tag:
            return True
        key = (path, entry, other, copied)
        if key not in self._compared:
            starts = range(0, entry.size, _COMPARED)
            ends = [min(start + _COMPARED, entry.size) for start in starts]
            self._compared[key] = all(
                self._store.read(path, start, end) == self._store.read(other, start, end)
                for start, end in zip(starts, ends, strict=True)
            )
        return self._compared[key]

    def _delete_leftover(self, path: str, done: str) -> bool:
        """Delete a file that is done under another name; return True if it is gone."""
        try:
            self._store.delete(path)
        except OSError as error:
            self._stuck[path] = f"it is done and copied to {done}, but it can't be deleted: {error.strerror}"
            return False
        LOG.info("%s was loaded by a run that ended before it could delete it; it is %s now", path, done)
        return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[set[str]]:
        """Hold the directories of the files for as long as the context lasts, and give their names.

        Raises:
            DirectoryHeld: another run holds one of them
            NoLocks: the store does not let us write there
            OSError: the store can't be asked
        """
        paths, leftovers = self._scan()
        directories = sorted({path.rpartition("/")[0] for path in (*paths, *leftovers)})
        leases = {directory: Lease(self._store, directory, self._cancel) for directory in directories}
        with held(leases.values()):
            self._leases = leases
            try:
                yield set(directories)
            finally:
                self._leases = None

    def size_of(self, paths: Sequence[str]) -> int:
        """Return how large these files are together, as far as that can be known."""
        return sum(self._found[path].size for path in paths if path in self._found)

    def open(self, path: str) -> InputFile:
        """Open a file; raise OSError where it can't be opened."""
        file = RemoteFile(self._store, path)
        self._opened[path] = file.entry
        return file

    def exists(self, path: str) -> bool:
        """Return True if there is an object of this name, or if that can't be known."""
        try:
            return self._store.entry(path) is not None
        except OSError:
            return True

    def new_rejects(self, path: str, directory: str | None, limit: int) -> Rejects:
        """Return what keeps the rejected lines of a file, to save them in a directory or beside the file."""
        if directory is not None:
            return Rejects(path.rpartition("/")[2], directory, limit)
        return _RemoteRejects(self._store, path, limit)

    def why_not_renamable(self, path: str) -> str | None:
        """Return why a file could not be renamed once it is loaded, as far as that can be known; None if it could."""
        if path in self._stuck:
            return self._stuck[path]
        key = path.partition("://")[2].partition("/")[2]
        if len(key.encode("utf-8", "surrogateescape")) + _LONGEST_SUFFIX > _LONGEST_KEY:
            return "its name is too long for a dot in front of it; give it a shorter one"
        return None

    def finalize(self, path: str, *, damaged: bool, wait: bool = True) -> str | None:
        """Give a file that is done, or damaged, the name for that; return it. Raises OSError.

        A store takes seconds to copy a large object; who does not wait for that gets None, and calls again.
        """
        if path not in self._renames:
            self._renames[path] = Call(path, lambda: self._rename(path, damaged=damaged))
        if not wait and not self._renames[path].has_ended:
            return None
        target = self._renames.pop(path).outcome()
        assert isinstance(target, str)
        return target

    def _rename(self, path: str, *, damaged: bool) -> str:
        directory, _, name = path.rpartition("/")
        if self._leases is not None:
            self._leases[directory].check()
        entry = self._opened.pop(path)
        target = _free(self._store, f"{directory}/.{name}{'.damaged' if damaged else ''}")
        try:
            self._store.copy(path, target, entry)
        except Conflict:
            raise OSError(None, "it was replaced while it was loaded", path) from None
        copied = self._store.entry(target)
        if copied is None or copied.size != entry.size or self._store.entry(path) != entry:
            self._store.delete(target)
            raise OSError(None, "it was replaced while it was renamed", path)
        try:
            self._store.delete(path)
        except OSError as error:  # the copy stays: the store may still do what it did not confirm
            if isinstance(error, TimeoutError) and not self.exists(path):
                return target
            raise type(error)(error.errno, f"copied to {target}, but not deleted: {error.strerror}", path) from None
        return target


def _free(store: Store, url: str) -> str:
    """Return the URL, or the first of url.1, url.2 … that does not exist yet. Raises OSError."""
    candidate, number = url, 0
    while store.entry(candidate) is not None:
        number += 1
        candidate = f"{url}.{number}"
    return candidate
