"""What a run needs of the place where its files lie, whatever place that is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from memcload.source.reader import InputFile
from memcload.source.rejects import Rejects


class Source(Protocol):
    """The files that a pattern matches. What can't be done raises OSError, with the cause in its strerror."""

    pattern: str

    def find(self) -> list[str]:
        """Return the paths of the files in their order; while there is a lock, those in its directories.

        Raises:
            PatternError: the pattern can't mean any file
        """
        ...

    def lock(self) -> AbstractContextManager[set[str]]:
        """Hold the directories of the files for as long as the context lasts, and give their names.

        Find the files again then: the run that held a directory until now has renamed some.

        Raises:
            DirectoryHeld: another run holds one of them
            NoLocks: one of them can't be held
        """
        ...

    def size_of(self, paths: Sequence[str]) -> int:
        """Return how large these files are together, as far as that can be known."""
        ...

    def open(self, path: str) -> InputFile:
        """Open a file for reading."""
        ...

    def exists(self, path: str) -> bool:
        """Return True if there is something of this name."""
        ...

    def why_not_renamable(self, path: str) -> str | None:
        """Return why a file could not be renamed once it is loaded, as far as that can be known; None if it could."""
        ...

    def finalize(self, path: str, *, damaged: bool, wait: bool = True) -> str | None:
        """Give a file that is done, or damaged, the name for that; return its new path.

        Where that takes long and need not be waited for, it returns None: to be called again, for nothing else before.
        """
        ...

    def new_rejects(self, path: str, directory: str | None, limit: int) -> Rejects:
        """Return what keeps the rejected lines of a file, to save them in a directory or beside the file."""
        ...
