"""The standard streams, which may be closed, full, gone, or unable to show every character."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import TextIO

_WAIT = 5.0  # seconds for a non-blocking descriptor to take more


def write_console(text: str) -> None:
    """Write to standard error as it is at the moment. Raises OSError.

    Where it was closed when the process started, the text is dropped: nobody wants to see it.
    """
    if sys.stderr is not None:
        write_stream(sys.stderr, text)


def write_stream(stream: TextIO | None, text: str) -> None:
    """Write to a standard stream, past its buffer. Raises OSError, also where the stream is closed.

    A buffer that can't be emptied would make the interpreter change the exit code.
    """
    try:
        if stream is None:
            raise ValueError("it is closed")
        stream.flush()
        descriptor = descriptor_of(stream)
        if descriptor is None:
            stream.write(text)
            stream.flush()
        else:
            write_all(descriptor, _encoded(text, stream.encoding))
    except ValueError as error:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from error


def write_lines(lines: str) -> None:
    """Write lines to standard error; a terminal gets them broken between words. Raises OSError."""
    write_console(broken(lines, _width()) if console_is_terminal() else lines)


def warn_console(text: str) -> None:
    """Write a line to standard error if that can be done."""
    with contextlib.suppress(OSError):
        write_lines(text + "\n")


def broken(lines: str, width: int) -> str:
    """Break lines between words where they are too long; a word that is longer itself is left to the terminal."""
    rows = []
    for line in lines.split("\n"):
        row, *words = line.split(" ")
        for word in words:
            if len(row) + 1 + len(word) > width:
                rows.append(row)
                row = word
            else:
                row += f" {word}"
        rows.append(row)
    return "\n".join(rows)


def is_size(text: str) -> bool:
    """Return True if a variable such as COLUMNS holds a size."""
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if is_size(columns):
        return int(columns)
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or sys.maxsize
    return sys.maxsize


def console_is_terminal() -> bool:
    """Return True if standard error is a terminal."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of the data to a file descriptor, which may be a non-blocking one. Raises OSError."""
    remaining = memoryview(data)
    while remaining:
        try:
            remaining = remaining[os.write(descriptor, remaining) :]
        except BlockingIOError:
            if not select.select([], [descriptor], [], _WAIT)[1]:
                raise


def reserve_standard_descriptors() -> None:
    """Open the null device in place of standard streams that are closed.

    Otherwise the next file or connection gets the number of one, and what is meant for that stream is written there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


def descriptor_of(stream: object) -> int | None:
    """Return the descriptor of a plain text stream; None for one that a test or a notebook has put in its place."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


def _encoded(text: str, encoding: str) -> bytes:
    """Encode a text; characters that the encoding lacks are escaped."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("…", "...").encode(encoding, "backslashreplace")
