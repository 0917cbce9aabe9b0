"""Standard error as a terminal for rich: it may fail, and its width and letters may be anything."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO, cast

from rich.console import Console
from rich.text import Text

from memcload.console import console_is_terminal, is_size, write_console


class _ConsoleFile(io.TextIOBase):
    """Standard error for rich, which must not see it fail: that would end the program. `error` is the last failure."""

    error: OSError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stderr, "encoding", None) or "ascii"

    def write(self, text: str) -> int:
        try:
            write_console(text)
        except OSError as error:
            self.error = error
        return len(text)

    def isatty(self) -> bool:
        return console_is_terminal()


class Terminal:
    """Standard error and rich's view of it, `console`."""

    def __init__(self) -> None:
        self._file = _ConsoleFile()
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environ.update({name: os.environ[name] for name in ("COLUMNS", "LINES") if is_size(os.environ.get(name, ""))})
        self.console = Console(
            file=cast(TextIO, self._file),
            markup=False,
            emoji=False,
            highlight=False,
            force_jupyter=False,
            _environ=environ,
        )

    @property
    def has_unicode(self) -> bool:
        """True if it shows more than a few hundred characters."""
        return self._file.encoding.lower().startswith("utf")

    def print_lines(self, lines: str) -> None:
        """Print lines of the log, broken between words, above whatever is displayed. Raises OSError."""
        self._file.error = None
        self.console.print(Text(lines.removesuffix("\n"), overflow="fold"))
        if self._file.error is not None:
            raise self._file.error
