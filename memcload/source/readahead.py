"""Reads an object ahead of its reader, in a thread of its own, so that decompression does not wait for the store."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time

from memcload.source.store import Entry, Store
from memcload.source.store_errors import Stopped, explained

_AHEAD = 16  # chunks
_PATIENCE = 60.0  # seconds without any bytes
_LOOK_EVERY = 0.05  # seconds


class ReadAhead:
    """An object as a file for reading; what is read is all of the version that was opened, or an error."""

    def __init__(self, store: Store, url: str, entry: Entry) -> None:
        self._store = store
        self._url = url
        self._entry = entry
        self._flow: _Flow | None = None
        self._data = memoryview(b"")
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return some of the next bytes, at most `size`; none at the end. Raises OSError, Stopped if the run is."""
        if not self._data and self._position < self._entry.size:
            self._flow = self._flow or _Flow(self._store, self._url, self._entry, self._position)
            self._data = memoryview(self._flow.next())
        taken = self._data[:size]
        self._data = self._data[size:]
        self._position += len(taken)
        return bytes(taken)

    def seek(self, position: int) -> int:
        """Go to a position."""
        self.close()
        self._position = position
        return position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """End the reading ahead."""
        if self._flow is not None:
            self._flow.is_closed = True
        self._flow = None
        self._data = memoryview(b"")


class _Flow:
    """What comes from an object, from a position on."""

    def __init__(self, store: Store, url: str, entry: Entry, position: int) -> None:
        self.is_closed = False
        self._store = store
        self._url = url
        self._entry = entry
        self._position = position
        self._chunks: queue.Queue[bytes | OSError] = queue.Queue(_AHEAD)
        threading.Thread(target=self._pump, name=f"read {url}", daemon=True).start()

    def next(self) -> bytes:
        """Return the next bytes; some, if the object has that many. Raises OSError."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(queue.Empty):
                chunk = self._chunks.get(timeout=_LOOK_EVERY)
                if isinstance(chunk, OSError):
                    raise chunk
                return chunk
            if self._store.is_cancelled:
                raise Stopped(errno.EINTR, "the run was stopped", self._url)
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"the store gives nothing for {_PATIENCE:.0f} s", self._url)

    def _pump(self) -> None:
        position = self._position
        try:
            with contextlib.closing(self._store.chunks(self._url, self._entry, position)) as chunks:
                for chunk in chunks:
                    position += len(chunk)
                    if not self._put(chunk):
                        return
            if position != self._entry.size:
                text = f"it ends at byte {position:,} of {self._entry.size:,}"
                self._put(OSError(errno.EIO, text, self._url))
        except BaseException as error:  # which the reader raises, as what it means
            self._put(explained(error, self._url))

    def _put(self, item: bytes | OSError) -> bool:
        """Hand something over when there is room; return False if nobody wants it any more."""
        while not self.is_closed:
            with contextlib.suppress(queue.Full):
                self._chunks.put(item, timeout=1)
                return True
        return False
