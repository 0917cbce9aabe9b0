"""The log: its format, what it may show of an input line, and how it spares the reader repetition."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import sys
from collections import Counter
from collections.abc import Callable

LOG = logging.getLogger("memcload")

_FORMAT = "[%(asctime)s] %(levelname).1s %(message)s"
_DATE_FORMAT = "%Y.%m.%d %H:%M:%S"
_FIRST_FEW = 3  # complaints of one kind that are shown for a file
_LONGEST_SHOWN = 120  # characters of an input line


class _SafeFormatter(logging.Formatter):
    """Puts every record on one line: no name of a file and no text of an input can forge another."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class _TolerantHandler(logging.Handler):
    """Mixed into a handler: a log that can't be written must not stop a load, nor go unnoticed."""

    failures = 0  # of all handlers together

    def handleError(self, record: logging.LogRecord) -> None:
        if not _TolerantHandler.failures:
            with contextlib.suppress(OSError):
                print(f"can't write the log: {sys.exc_info()[1]}", file=sys.stderr)
        _TolerantHandler.failures += 1


class _ConsoleHandler(_TolerantHandler, logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error as it is at the moment: a progress display puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _FileHandler(_TolerantHandler, logging.handlers.WatchedFileHandler):
    """Opens the file anew when it was renamed, so that it can be rotated under a running load."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # it can't be opened anew
            self.handleError(record)


def start_logging(path: str | None, level: str) -> None:
    """Log to the console (standard error), or append to a file. Raises OSError if it can't be opened."""
    handler = _ConsoleHandler() if path is None else _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_SafeFormatter(_FORMAT, _DATE_FORMAT))
    for old in LOG.handlers[:]:
        LOG.removeHandler(old)
        old.close()
    LOG.addHandler(handler)
    LOG.setLevel(level.upper())
    LOG.propagate = False


def log_failures() -> int:
    """Return how many messages could not be written to the log."""
    return _TolerantHandler.failures


def printable(text: str) -> str:
    """Escape what would break a log line or a terminal: control characters and undecodable bytes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def excerpt(line: bytes) -> str:
    """Return the beginning of an input line, fit to be shown in the log."""
    text = printable(line[: _LONGEST_SHOWN + 1].decode("ascii", "backslashreplace").replace("\t", "\\t"))
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


class Complaints:
    """Warnings about one file: the first few of each kind are logged, the others counted.

    say: what logs a warning
    """

    def __init__(self, say: Callable[[str], None] = lambda message: LOG.warning("%s", message)) -> None:
        self._say = say
        self._seen: Counter[str] = Counter()

    def add(self, kind: str, message: str) -> None:
        """Complain, unless there were enough complaints of this kind."""
        self._seen[kind] += 1
        if self._seen[kind] <= _FIRST_FEW:
            self._say(message)

    def summarize(self) -> None:
        """Log how many complaints of each kind were not shown."""
        for kind, count in self._seen.items():
            if count > _FIRST_FEW:
                self._say(f"… and {count - _FIRST_FEW} more: {kind}")
