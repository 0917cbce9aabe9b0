"""Reads an object ahead of its reader, in parts, so that decompression does not wait for the store."""

from __future__ import annotations

import errno
from collections import deque

from memcload.source.store import Call, Store

PART_SIZE = 1 << 23  # bytes
_AHEAD = 3  # parts, side by side where the store can do that


class ReadAhead:
    """An object as a file for reading."""

    def __init__(self, store: Store, url: str, size: int) -> None:
        self._store = store
        self._url = url
        self._size = size
        self._ahead = _AHEAD if store.reads_side_by_side else 1
        self._parts: deque[tuple[int, int, Call]] = deque()
        self._next = 0  # the position of the part that is asked for next
        self._data = memoryview(b"")
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Return some of the next bytes, at most `size`; none at the end. Raises OSError."""
        if not self._data and self._position < self._size:
            self._data = memoryview(self._next_part())
        taken = self._data if size < 0 else self._data[:size]
        self._data = self._data[len(taken) :]
        self._position += len(taken)
        return bytes(taken)

    def _next_part(self) -> bytes:
        self._ask()
        start, end, call = self._parts.popleft()
        data = self._store.wait(call, grace=0)
        self._ask()
        if len(data) != end - start:
            raise OSError(errno.EIO, f"the store gave {len(data):,} bytes of {end - start:,} from {start:,}", self._url)
        assert isinstance(data, bytes)
        return data

    def _ask(self) -> None:
        """Ask for parts until enough are under way."""
        while len(self._parts) < self._ahead and self._next < self._size:
            start, end = self._next, min(self._next + PART_SIZE, self._size)
            self._parts.append((start, end, self._store.begin_read(self._url, start, end)))
            self._next = end

    def seek(self, position: int) -> int:
        """Go to a position."""
        self.close()
        self._position = self._next = position
        return position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """Forget the parts that are under way."""
        self._parts.clear()
        self._data = memoryview(b"")
