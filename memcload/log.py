"""The log: its format, what it may show of an input line, and where it goes, whatever happens there."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator

from memcload.console import reserve_standard_descriptors, warn_console, write_all, write_lines

LOG = logging.getLogger("memcload")

_DATE_FORMAT = "%Y.%m.%d %H:%M:%S"
_LONGEST_SHOWN = 120  # characters of an input line

Write = Callable[[str], None]
"""Writes whole lines somewhere. Raises OSError."""


class LogHandler(logging.Handler):
    """Formats messages, one line for each, and writes them.

    A log that can't be written must not stop a load, nor go unnoticed: `failures` counts the lines that were lost.
    """

    def __init__(self, write: Write) -> None:
        super().__init__()
        self.write = write
        self.failures = 0
        self._second = 0
        self._time = ""  # of that second, formatted

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message of a record."""
        self.emit_lines([(record.levelno, record.getMessage())])

    def emit_lines(self, lines: Iterable[tuple[int, str]]) -> None:
        """Write messages with their levels, all at once."""
        now = int(time.time())
        if now != self._second:
            self._second, self._time = now, time.strftime(_DATE_FORMAT, time.localtime(now))
        texts = [f"[{self._time}] {logging.getLevelName(level)[0]} {printable(message)}\n" for level, message in lines]
        try:
            self.write("".join(texts))
        except OSError as error:
            if not self.failures:
                warn_console(f"can't write the log: {error.strerror or error}")
            self.failures += len(texts)


class _LogFile:
    """A file that is appended to, and opened anew once it was renamed or deleted: logrotate does so during a load."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._descriptor: int | None = None
        self._identity = (0, 0)
        self._open()

    def write(self, text: str) -> None:
        write_all(self._reopened(), text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _reopened(self) -> int:
        try:
            found = os.stat(self._path)
            is_same = (found.st_dev, found.st_ino) == self._identity
        except FileNotFoundError:
            is_same = False
        if not is_same or self._descriptor is None:
            self.close()
            return self._open()
        return self._descriptor

    def _open(self) -> int:
        # Without O_NONBLOCK a named pipe that nobody reads would be waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o666)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.set_blocking(descriptor, True)
        self._descriptor, self._identity = descriptor, (found.st_dev, found.st_ino)
        return descriptor


class _FileLogHandler(LogHandler):
    """Writes to a file."""

    def __init__(self, path: str) -> None:
        self._file = _LogFile(path)
        super().__init__(self._file.write)

    def close(self) -> None:
        self._file.close()
        super().close()


def start_logging(path: str | None, level: str) -> None:
    """Log to the console (standard error), or append to a file. Raises OSError if it can't be opened."""
    reserve_standard_descriptors()
    handler = LogHandler(write_lines) if path is None else _FileLogHandler(path)
    for old in LOG.handlers[:]:
        LOG.removeHandler(old)
        old.close()
    LOG.addHandler(handler)
    LOG.setLevel(level.upper())
    LOG.propagate = False


def log_lines(lines: Iterable[tuple[int, str]]) -> None:
    """Log messages with their levels, in one write: several that belong together cost little more than one."""
    enabled = [(level, message) for level, message in lines if LOG.isEnabledFor(level)]
    handlers = [handler for handler in LOG.handlers if isinstance(handler, LogHandler)]
    if not handlers:  # somebody else has set up the logging
        for level, message in enabled:
            LOG.log(level, "%s", message)
    for handler in handlers if enabled else ():
        with handler.lock or contextlib.nullcontext():
            handler.emit_lines(enabled)


def log_failures() -> int:
    """Return how many messages could not be written since the log was started."""
    return sum(handler.failures for handler in LOG.handlers if isinstance(handler, LogHandler))


def logs_to_console() -> bool:
    """Return True unless the log goes to a file."""
    return not any(isinstance(handler, _FileLogHandler) for handler in LOG.handlers)


@contextlib.contextmanager
def console_lines_through(write: Write) -> Iterator[None]:
    """Hand the lines for the console to `write` for as long as the context lasts: a display is shown there."""
    handlers = [h for h in LOG.handlers if isinstance(h, LogHandler) and not isinstance(h, _FileLogHandler)]
    for handler in handlers:
        handler.write = write
    try:
        yield
    finally:
        for handler in handlers:
            handler.write = write_lines


def printable(text: str) -> str:
    """Escape what would break a log line or a terminal: control characters and undecodable bytes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def excerpt(line: bytes) -> str:
    """Return the beginning of an input line, fit to be shown in the log."""
    text = printable(line[: _LONGEST_SHOWN + 1].decode("ascii", "backslashreplace").replace("\t", "\\t"))
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
