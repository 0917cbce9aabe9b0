"""The rejected lines of one file, kept until they are saved beside it."""

from __future__ import annotations

import contextlib
import os
import tempfile

from memcload.counts import Reject
from memcload.source.names import claim_name
from memcload.source.reader import cut_line

_KEPT_IN_MEMORY = 1 << 18  # bytes; more of them go to a temporary file


class Rejects:
    """Collects rejects in the order of the file and saves them: line number, reason, line, tab-separated.

    No file is open between two calls, so that many of these can be under way. `dropped` counts the rejects beyond the
    limit.

    Args:
        name: the file's
        directory: where to save
        limit: how many rejects are kept
    """

    def __init__(self, name: str, directory: str, limit: int) -> None:
        self._path = os.path.join(directory, f".{name}")
        self._limit = limit
        self._kept = 0
        self._latest = bytearray()  # those that are not in the temporary file yet
        self._temporary: str | None = None
        self.dropped = 0

    def add(self, line_number: int, reject: Reject) -> None:
        """Add one; `line_number` counts the lines of the file from 1. Raises OSError."""
        if self._kept >= self._limit:
            self.dropped += 1
            return
        self._kept += 1
        self._latest += b"%d\t%b\t%b\n" % (line_number, reject.reason.encode(), cut_line(reject.text))
        if len(self._latest) > _KEPT_IN_MEMORY:
            self._spill()

    def save(self, mode: int) -> str | None:
        """Write the file, never over another; return its path, or None if there were no rejects.

        It can be read by those who can read the log itself, whose mode this is. Raises OSError.
        """
        if not self._kept:
            return None
        temporary = self._spill()
        os.chmod(temporary, mode & 0o666)
        target = self._publish(temporary)
        self._temporary = None
        self._kept = 0
        return target

    def _publish(self, temporary: str) -> str:
        """Move the temporary file to where it is kept; return that path."""
        target = claim_name(self._path, ".rejects.tsv")
        try:
            os.replace(temporary, target)
        except OSError:
            os.unlink(target)
            raise
        return target

    def close(self) -> None:
        """Discard what was not saved."""
        self._latest.clear()
        self._kept = 0
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = None

    def _spill(self) -> str:
        """Move what is in memory to the temporary file; return its path."""
        if self._temporary is None:
            directory, name = os.path.split(self._path)
            descriptor, self._temporary = tempfile.mkstemp(prefix=f"{name[:50]}.", suffix=".part", dir=directory or ".")
            os.close(descriptor)
        with open(self._temporary, "ab") as file:
            file.write(self._latest)
        self._latest.clear()
        return self._temporary
