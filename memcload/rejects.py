"""The rejected lines of one file, kept until they are saved beside it."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile

from memcload.blocks import cut_line
from memcload.inbox import free_name, written_whole
from memcload.tally import Reject

_KEPT_IN_MEMORY = 1 << 18  # bytes; more of them go to a temporary file


class Rejects:
    """Collects rejects in the order of the file and saves them: line number, reason, line, tab-separated.

    directory: where to save; the file's own where it is None.
    """

    def __init__(self, path: str, directory: str | None) -> None:
        own_directory, name = os.path.split(path)
        self._directory = directory or own_directory
        self._name = f".{name}.rejects.tsv"
        self._spool: tempfile.SpooledTemporaryFile[bytes] | None = None  # most files have no rejects

    def add(self, line_number: int, reject: Reject) -> None:
        """Add one; `line_number` counts the lines of the file from 1. Raises OSError."""
        if self._spool is None:
            self._spool = tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY, dir=self._directory or ".")  # noqa: SIM115
        self._spool.write(b"%d\t%b\t%b\n" % (line_number, reject.reason.encode(), cut_line(reject.line)))

    def save(self, like: os.stat_result) -> str | None:
        """Write the file, never over another; return its path, or None if there were no rejects.

        It can be read by those who can read the log itself, whose stat is `like`. Raises OSError.
        """
        if self._spool is None:
            return None
        target = free_name(os.path.join(self._directory, self._name))
        with written_whole(target, stat.S_IMODE(like.st_mode) & 0o666) as file:
            self._spool.seek(0)
            shutil.copyfileobj(self._spool, file)
        return target

    def close(self) -> None:
        """Forget everything."""
        if self._spool is not None:
            self._spool.close()
