"""A loader on a terminal: a small screen takes what it writes there and shows what a person would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from tests.outside.loading import PATIENCE, PROJECT, Loader
from tests.outside.memcached import Servers, addresses

_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """The lines that a terminal would show, as far back as there are any, and whether it shows a cursor."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows = [""]
        self._row = self._column = 0
        self.shows_cursor = True

    @property
    def rows(self) -> list[str]:
        return [row.rstrip() for row in self._rows]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    def write(self, text: str) -> None:
        position = 0
        while position < len(text):
            if match := _SEQUENCE.match(text, position):
                self._obey(match[1] + match[3], match[2])
                position = match.end()
                continue
            self._put(text[position])
            position += 1

    def _obey(self, command: str, argument: str) -> None:
        if command == "m":
            return
        if command in ("?h", "?l"):
            assert argument == "25"
            self.shows_cursor = command == "?h"
        elif command == "A":
            self._row = max(0, self._row - int(argument or 1))
        elif command == "K":
            assert argument == "2"
            self._rows[self._row] = ""
        else:
            raise AssertionError(f"what is {command!r}?")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n" or self._column == self._width:
            self._row += 1
            if self._row == len(self._rows):
                self._rows.append("")
            if character != "\n":
                self._column = 0
        if character in "\r\n":
            return
        assert character.isprintable(), repr(character)
        row = self._rows[self._row].ljust(self._column)
        self._rows[self._row] = row[: self._column] + character + row[self._column + 1 :]
        self._column += 1


class Session:
    """A loader on a terminal of its own: a context manager, which ends it. `seen` are all screens so far."""

    def __init__(self, loader: Loader, *options: str, width: int = 2000, environ: dict[str, str] | None = None):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        surroundings = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / loader[0]), *loader[1:], *options],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            env={**surroundings, "TERM": "xterm", **(environ or {})},
        )
        os.close(slave)
        self.screen = Screen(width)
        self.seen = [self.screen.text]
        self.raw = b""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self._master)

    def _read(self) -> bool:
        """Take what was written to the terminal; return False if that was all."""
        if not select.select([self._master], [], [], 0.05)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.raw += data
        while True:  # no sequence and no character is cut in two
            with contextlib.suppress(UnicodeDecodeError):
                text = data.decode()
                if not re.search(r"\x1b(\[[?0-9;]*)?$", text):
                    break
            more = os.read(self._master, 1)
            self.raw += more
            data += more
        self.screen.write(text)
        self.seen.append(self.screen.text)
        return True

    def wait_for(self, is_so: Callable[[str], object]) -> None:
        """Wait until the screen is as asked for."""
        deadline = time.monotonic() + PATIENCE
        while not is_so(self.screen.text):
            assert self._read(), self.screen.text
            assert time.monotonic() < deadline, self.screen.text

    def finish(self) -> int:
        """Wait for the end and return the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < deadline, self.screen.text
        return self.process.wait(PATIENCE)

    def tables(self) -> list[list[str]]:
        """Return the cells of the tables of the summary."""
        cells = [re.split(r"\s{2,}", row.strip()) for row in self.screen.rows if not row.startswith("[")]
        return [row for row in cells if len(row) > 1]


def session(loader: Loader, inbox: Path, servers: Servers, *options: str, **other: str) -> Session:
    return Session(loader, "--pattern", f"{inbox}/*.gz", *addresses(servers, **other), *options)


def bar_of(screen: str) -> str:
    return next((row for row in screen.splitlines() if " records · " in row), "")
