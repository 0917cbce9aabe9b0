"""An object store: fsspec behind a few plain operations that end in time, with errors that say what happened.

Every operation runs in a thread of its own, so that no store, however slow, keeps its caller waiting longer than it
should: not past the patience that is due to it, and not past the grace that a cancelled run has.
"""

from __future__ import annotations

import copy
import datetime
import errno
import functools
import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from memcload.cancel import Cancel
from memcload.source import s3
from memcload.source.pattern import NoLibrary
from memcload.source.store_errors import Conflict, Stopped, explained, is_collision

_PATIENCE = 20.0  # seconds for an operation
_PATIENCE_TO_READ = 60.0  # for a part of an object
_PATIENCE_TO_COPY = 900.0  # seconds; a store copies some tens of megabytes a second
_MORE_GRACE = 1.0  # seconds
_LOOK_EVERY = 0.05  # seconds
_PAUSES = (0.2, 0.6)  # seconds before another attempt
_PART = 1 << 23  # bytes, where each part is a request
_NOBODY_HAS = '"00000000000000000000000000000000"'  # an ETag
_S3 = ("s3://", "s3a://")
_LIBRARIES = ("fsspec", "s3fs", "aiobotocore", "botocore", "asyncio", "gcsfs", "adlfs")


@dataclass(frozen=True)
class Entry:
    """What a listing tells of an object. Two entries of a path are equal if it is the same object.

    tag: its ETag, empty where the store has none
    modified: when it was written, by the store's clock; 0 where that is not known
    """

    size: int
    tag: str = ""
    modified: float = 0.0
    is_directory: bool = False
    is_unpacked: bool = False  # on its way, because it says of itself that it is gzip: it can't be read to its end


class Call:
    """An operation that is under way."""

    def __init__(self, url: str, function: Callable[[], Any]) -> None:
        self._url = url
        self._function = function
        self._ended = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name=f"store {url}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # which the caller raises, as what it means
            self._error = error
        self._ended.set()

    @property
    def has_ended(self) -> bool:
        """True once there is a result."""
        return self._ended.is_set()

    def outcome(self) -> Any:
        """Wait for the result, however long that takes, and return it or raise what was raised."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._value

    def result(self, patience: float, cancel: Cancel, grace: float) -> Any:
        """Wait for the result. Raises OSError; Stopped where the run is cancelled for longer than the grace."""
        deadline = time.monotonic() + patience
        while not self._ended.wait(_LOOK_EVERY):
            now = time.monotonic()
            if cancel.requested_at is not None and now > cancel.requested_at + grace:
                raise Stopped(errno.EINTR, "the run was stopped while the store did not answer", self._url)
            if now > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"the store does not answer within {patience:.0f} s", self._url)
        if self._error is not None:
            raise explained(self._error, self._url) from None
        return self._value


class Store:
    """The store that a URL means, and what is done with its objects, which are named by URLs.

    Args:
        url: one of its URLs.
        cancel: ends waiting for it.
        grace: how many seconds after that.

    Raises:
        NoLibrary: what reaches such a store is not installed
    """

    def __init__(self, url: str, cancel: Cancel, grace: float) -> None:
        self._is_s3 = url.startswith(_S3)
        self._url = url
        self._class = _file_system_class(url)
        self._cancel = cancel
        self._grace = grace
        for library in _LIBRARIES:  # what they have to say would come in between the lines of the log
            logging.getLogger(library).addHandler(logging.NullHandler())

    @functools.cached_property
    def _system(self) -> Any:
        return self._call(self._url, lambda: _file_system(self._class, self._url))

    def with_more_grace(self) -> Store:
        """Return this store for what comes last in a run."""
        other = copy.copy(self)
        other._grace += _MORE_GRACE
        return other

    @property
    def has_conditional_replace(self) -> bool:
        """True if `replace` can be held to an ETag."""
        return self._is_s3

    @property
    def is_cancelled(self) -> bool:
        """True once the run is to stop."""
        return self._cancel.is_set

    def chunks(self, url: str, entry: Entry, position: int) -> Generator[bytes, None, None]:
        """Yield the bytes of an object from a position on; waits for the store as long as that takes.

        What it raises is the library's own. Where the store can hold to that, all is of the object that is known.
        """
        path = self._path(url)
        if self._is_s3:
            yield from s3.stream(self._system, path, entry.size, entry.tag, position)
            return
        while position < entry.size:
            data = self._system.cat_file(path, start=position, end=min(position + _PART, entry.size))
            if not data:
                return
            yield data
            position += len(data)

    def read(self, url: str, start: int, end: int) -> bytes:
        """Return a part of an object. Raises OSError."""
        path = self._path(url)
        data = self._call(url, lambda: self._system.cat_file(path, start=start, end=end), _PATIENCE_TO_READ)
        assert isinstance(data, bytes)
        return data

    def list(self, directory: str) -> dict[str, Entry]:
        """Return what lies in a directory, by name. Raises OSError."""
        path = self._path(f"{directory}/")
        entries: dict[str, Entry] = {}
        for found in self._call(directory, lambda: self._system.ls(path, detail=True)):
            name = found["name"].removesuffix("/").rpartition("/")[2]
            is_the_directory_itself = found["name"].strip("/") == path.strip("/")
            if name and not is_the_directory_itself:
                entries[name] = _entry(found)
        return entries

    def entry(self, url: str) -> Entry | None:
        """Return what is known of an object, or None if there is none. Raises OSError."""
        path = self._path(url)
        try:
            return _entry(self._call(url, lambda: self._system.info(path)))
        except FileNotFoundError:
            return None

    def create(self, url: str, data: bytes) -> str:
        """Write an object that must not exist; return its ETag, if the store tells it.

        Raises:
            Conflict: it exists, and the store minds that
            OSError: it can't be written
        """
        path = self._path(url)
        return _tag_of(self._call(url, lambda: self._system.pipe_file(path, data, mode="create")))

    def create_from(self, url: str, local: str) -> None:
        """Write an object that must not exist from a local file. Raises Conflict, OSError."""
        path = self._path(url)
        self._call(url, lambda: self._system.put_file(local, path, mode="create"), _PATIENCE_TO_COPY)

    def replace(self, url: str, data: bytes, tag: str) -> str:
        """Write over an object, which must still have this ETag where the store can hold to that; return the new one.

        Raises:
            Conflict: it has another one
            OSError: it can't be written
        """
        path = self._path(url)
        condition = {"IfMatch": tag} if self.has_conditional_replace else {}
        return _tag_of(self._call(url, lambda: self._system.pipe_file(path, data, **condition)))

    def copy(self, url: str, target: str, entry: Entry) -> None:
        """Copy an object, which must still be this one where the store can hold to that.

        Raises:
            Conflict: it is another one
            OSError: it can't be copied
        """
        source, path = self._path(url), self._path(target)
        if self._is_s3 and entry.size <= s3.LARGEST_COPY:
            self._call(url, lambda: s3.copy(self._system, source, path, entry.tag), _PATIENCE_TO_COPY)
        else:
            self._call(url, lambda: self._system.cp_file(source, path), _PATIENCE_TO_COPY)

    def delete(self, url: str) -> None:
        """Delete an object. Raises OSError."""
        path = self._path(url)
        self._call(url, lambda: self._system.rm_file(path))

    def minds_conditions(self, url: str, data: bytes) -> bool:
        """Return True if the store refuses to write over an object where conditions forbid it. Raises OSError."""
        try:
            self.create(url, data)
        except Conflict:
            pass
        else:
            return False
        if not self.has_conditional_replace:
            return True
        try:
            self.replace(url, data, _NOBODY_HAS)
        except Conflict:
            return True
        return False

    def _path(self, url: str) -> str:
        path = self._system._strip_protocol(url)
        assert isinstance(path, str)
        return path

    def _call(self, url: str, function: Callable[[], Any], patience: float | None = None) -> Any:
        return Call(url, lambda: _settled(function)).result(patience or _PATIENCE, self._cancel, self._grace)


def _settled(function: Callable[[], Any]) -> Any:
    """Do something again that met another request for the same object: the store has done neither, or one of them."""
    for pause in _PAUSES:
        try:
            return function()
        except Exception as error:
            if not is_collision(error):
                raise
        time.sleep(pause)
    return function()


def _file_system_class(url: str) -> Any:
    scheme = url.partition("://")[0]
    try:
        import fsspec  # here: only who loads from a store needs it

        return fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        if url.startswith(_S3):
            advice = "pip install '.[s3]' in the checkout"
        elif error.name == "fsspec":
            advice = f"install fsspec and its library for {scheme}:// (gcsfs for gs://, adlfs for abfs://)"
        else:
            advice = f"{error}"
        raise NoLibrary(f"{url}: a library that {scheme}:// needs is not installed: {advice}") from None
    except ValueError:
        raise NoLibrary(f"{url}: {scheme}:// is no kind of store that fsspec knows; check the pattern") from None


def _file_system(kind: Any, url: str) -> Any:
    """Make the file system of fsspec that a URL means. Credentials come from where its library looks for them."""
    import fsspec

    options = dict(kind._get_kwargs_from_urls(url))
    if url.startswith(_S3):
        configured = fsspec.config.conf.get(url.partition("://")[0], {})
        options["config_kwargs"] = {**s3.settings(), **configured.get("config_kwargs", {})}
    made = kind(use_listings_cache=False, skip_instance_cache=True, **options)
    if url.startswith(_S3):
        made.retries = 2  # beyond those of the library below
    return made


def _tag_of(written: object) -> str:
    return str(written.get("ETag", "")) if isinstance(written, dict) else ""


def _entry(found: dict[str, Any]) -> Entry:
    tag = found.get("ETag") or found.get("etag") or ""
    times = (found.get(name) for name in ("LastModified", "mtime", "updated", "last_modified", "modified", "created"))
    return Entry(
        size=found.get("size") or 0,
        tag=str(tag),
        modified=next((_seconds(time) for time in times if time), 0.0),
        is_directory=found.get("type") == "directory" or str(found.get("name", "")).endswith("/"),
        is_unpacked=found.get("contentEncoding") == "gzip",
    )


def _seconds(when: object) -> float:
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when.replace("Z", "+00:00"))
    if isinstance(when, datetime.datetime):
        return when.timestamp()
    return float(when) if isinstance(when, (int, float)) else 0.0
