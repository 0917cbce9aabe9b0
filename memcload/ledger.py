"""The accounts of a run, and the one place that decides what becomes of a file."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from memcload import inbox
from memcload.blocks import LogFile
from memcload.log import LOG, Complaints, excerpt
from memcload.options import Options
from memcload.records import DEVICE_TYPES
from memcload.rejects import Rejects
from memcload.tally import BlockResult, Tally

Status = Literal["done", "pending", "damaged", "dry", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(eq=False)
class FileLoad:
    """One file on its way through a run."""

    path: str
    log: LogFile | None = None  # None where it could not be opened
    rejects: Rejects | None = None
    complaints: Complaints = field(init=False)
    tally: Tally = field(default_factory=Tally)
    lines: int = 0  # of which it is known what became of them
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    status: Status = "pending"
    is_announced: bool = False
    is_left: bool = False  # pending as was asked for, not because something went wrong
    error: OSError | None = None  # met while the file was opened or read
    _unsaid: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.complaints = Complaints(lambda message: self.say(logging.WARNING, message))

    def say(self, level: int, message: str) -> None:
        """Log a message about the file, when its turn has come."""
        if self.is_announced:
            LOG.log(level, "%s", message)
        else:
            self._unsaid.append((level, message))

    def announce(self) -> None:
        """Log that the turn of the file has come, and what there was to say before."""
        if not self.is_announced:
            self.is_announced = True
            LOG.info("Processing %s", self.path)
            for level, message in self._unsaid:
                self.say(level, message)
            self._unsaid.clear()

    def blocks(self, block_size: int) -> Iterator[bytes]:
        """Yield the blocks of the file; an error ends them and is kept for the settlement."""
        if self.log is None:
            return
        try:
            yield from self.log.blocks(block_size)
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Let go of what the load held open."""
        if self.log is not None:
            self.log.close()
        if self.rejects is not None:
            self.rejects.close()


class Ledger:
    """Keeps the accounts of all files of a run and settles them, in the order of their names.

    `files` are the settled ones, `records_seen` and `rejects_seen` also count those of files that are being
    loaded. `has_trouble` tells that something went wrong that is no file's fault.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._pending: str | None = None  # the first file of the run that stays pending
        self._open: deque[FileLoad] = deque()
        self._writable: dict[str, bool] = {}  # by directory
        self._bytes_settled = 0
        self.records_seen = 0
        self.rejects_seen = 0
        self.files: list[FileLoad] = []
        self.has_trouble = False

    def begin(self, path: str) -> FileLoad:
        """Open a file, or note why that can't be done."""
        file = FileLoad(path)
        self._open.append(file)
        self._announce()
        try:
            if not self._options.dry and not self._is_writable(os.path.dirname(path)):
                raise PermissionError(None, "its directory can't be written, so it could not be renamed", path)
            file.log = LogFile(path)
        except OSError as error:
            file.error = error
        else:
            if self._options.rejects is not None or not self._options.dry:
                file.rejects = Rejects(path, self._options.rejects)
        return file

    def forget(self, file: FileLoad) -> None:
        """Drop what is known of a file that was begun: it will be loaded anew."""
        self._open.remove(file)
        file.close()

    def _announce(self) -> None:
        """Log the file whose turn it is; a later one may have been begun, but is not talked about yet."""
        if self._open:
            self._open[0].announce()

    def _is_writable(self, directory: str) -> bool:
        if directory not in self._writable:
            self._writable[directory] = inbox.is_writable(directory)
        return self._writable[directory]

    def absorb(self, file: FileLoad, result: BlockResult) -> None:
        """Account for the next block of a file. The blocks of a file come in their order."""
        for line in result.shown:
            file.say(logging.DEBUG, line)
        for complaint in result.complaints:
            file.complaints.add("failed", f"{file.path}: {complaint}")
        for reject in sorted(result.rejects):
            line_number = file.lines + reject.index + 1
            file.complaints.add(
                f"rejected for {reject.reason}",
                f"{file.path}:{line_number}: rejected for {reject.reason}: {excerpt(reject.line)}",
            )
            if file.rejects is not None:
                try:
                    file.rejects.add(line_number, reject)
                except OSError as error:
                    self._note_trouble(file, "can't keep its rejected lines", error)
                    file.rejects.close()
                    file.rejects = None
        self.records_seen += result.tally.records
        self.rejects_seen += result.tally.rejected.total()
        file.lines += result.lines
        file.tally += result.tally

    def settle(self, file: FileLoad, hindrance: str | None = None) -> None:
        """Decide what becomes of a file all of whose blocks are accounted for; rename it or not; log it.

        hindrance: what speaks against calling the file done, known to the caller alone.
        """
        file.complaints.summarize()
        file.seconds = time.monotonic() - file.started
        file.status = self._decide(file, hindrance)
        self._log_outcome(file)
        file.close()
        self._bytes_settled += file.log.bytes_read if file.log else 0
        self.files.append(file)
        if file in self._open:
            self._open.remove(file)
        self._announce()

    def _decide(self, file: FileLoad, hindrance: str | None) -> Status:
        if file.error is not None:
            LOG.error("%s: %s", file.path, file.error.strerror or file.error)
            if file.tally.records:  # it will be loaded again, and later files have to come after it
                self._hold_back(file)
            return "error"
        reason = self._reason_to_wait(file, hindrance)
        if reason:
            LOG.error("%s stays pending: %s", file.path, reason)
            self._hold_back(file)
            return "pending"
        log = file.log
        assert log is not None
        if self._options.dry:
            self._save_rejects(file, log)
            if log.damage:
                LOG.error("%s is %s: %s", file.path, log.damage, log.description)
                return "damaged"
            return "dry"
        return self._put_away(file, log)

    def _reason_to_wait(self, file: FileLoad, hindrance: str | None) -> str | None:
        """Say why the file may not be called done now but may be in a later run, or None."""
        if hindrance:
            return hindrance
        log = file.log
        assert log is not None  # or there were an error, or a hindrance
        if failed := file.tally.failed.total():
            return f"{failed} of its records failed"
        age = time.time() - log.stat.st_mtime
        if age < self._options.settle and (log.damage == "truncated" or log.stat.st_size == 0):
            return f"it looks as if it were still being written ({age:.0f} s old)"
        if os.path.lexists(file.path) and not log.is_unchanged():
            return "it changed while it was read"
        if self._pending is not None and not self._options.dry:
            return f"{self._pending}, which comes before it, is pending"
        return None

    def _put_away(self, file: FileLoad, log: LogFile) -> Status:
        """Save the rejects, then rename the file; what is renamed is never looked at again."""
        is_partly_loaded = len(self._options.only) < len(DEVICE_TYPES)
        if log.damage and (inbox.is_done(file.path) or is_partly_loaded):
            LOG.error("%s is %s (%s) and keeps its name", file.path, log.damage, log.description)
            return "damaged"
        if inbox.is_done(file.path):
            return "done"
        if is_partly_loaded:
            LOG.info("%s keeps its name: it was loaded for %s only", file.path, ", ".join(self._options.only))
            file.is_left = True
            return "pending"
        self._save_rejects(file, log)
        try:
            if log.damage:
                target = inbox.set_aside(file.path)
                LOG.error("%s is %s (%s): set aside as %s", file.path, log.damage, log.description, target)
                return "damaged"
            inbox.dot_rename(file.path)
            return "done"
        except OSError as error:
            LOG.error("%s: loaded, but it can't be renamed: %s", file.path, error.strerror)
            if os.path.lexists(file.path):
                self._hold_back(file)
            return "error"

    def _save_rejects(self, file: FileLoad, log: LogFile) -> None:
        if file.rejects is None:
            return
        try:
            saved = file.rejects.save(log.stat)
        except OSError as error:
            self._note_trouble(file, "can't save its rejected lines", error)
        else:
            if saved:
                LOG.info("Rejected lines saved as %s", saved)

    def _hold_back(self, file: FileLoad) -> None:
        """Let no later file be renamed: the next run has to load them all again, in their order."""
        if self._pending is None:
            self._pending = file.path

    def _note_trouble(self, file: FileLoad, what: str, error: OSError) -> None:
        self.has_trouble = True
        file.say(logging.ERROR, f"{file.path}: {what}: {error.strerror or error}")

    def _log_outcome(self, file: FileLoad) -> None:
        tally = file.tally
        LOG.info(
            "%s: %s. %d records in %.1f s: %d stored, %d rejected, %d failed; %d partial, %d blank lines",
            file.path,
            file.status,
            tally.records,
            file.seconds,
            tally.stored.total(),
            tally.rejected.total(),
            tally.failed.total(),
            tally.partial,
            tally.blank,
        )
        if file.status in ("done", "dry", "damaged") or file.is_left:
            if self.is_rate_too_high(file):
                limit = self._options.max_error_rate
                LOG.error("High error rate (%s > %s). Failed load", tally.error_rate, limit)
            else:
                LOG.info("Acceptable error rate (%s). Successful load", tally.error_rate)

    def is_rate_too_high(self, file: FileLoad) -> bool:
        """Tell whether more of the file's records were rejected than is acceptable."""
        return file.tally.error_rate > self._options.max_error_rate

    def bytes_read(self) -> int:
        """Return how many compressed bytes of all files have been read so far."""
        return self._bytes_settled + sum(file.log.bytes_read for file in list(self._open) if file.log)

    def files_by_status(self) -> Counter[Status]:
        """Count the settled files."""
        return Counter(file.status for file in self.files)

    def totals(self) -> Tally:
        """Return the sum of all settled files."""
        totals = Tally()
        for file in self.files:
            totals += file.tally
        return totals

    def is_clean(self) -> bool:
        """Tell whether all files ended well, so that the exit code may be 0."""
        return not self.has_trouble and all(
            (file.status in ("done", "dry") or file.is_left) and not self.is_rate_too_high(file) for file in self.files
        )
