"""Which objects a pattern means: the rules of a shell glob, over the listings of a store."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator, Sequence

from memcload.source.pattern import PatternError, split_pattern
from memcload.source.store import Entry, Store


class Listing:
    """The directories of a store as they are now, each listed once, and what a pattern matches in them.

    Args:
        store: the store.
        pattern: a URL with a shell glob in it.
    """

    def __init__(self, store: Store, pattern: str) -> None:
        self._store = store
        self._pattern = pattern
        self._directories: dict[str, dict[str, Entry]] = {}
        scheme, _, rest = pattern.partition("://")
        directory, self.name_pattern = split_pattern(rest.lstrip("/"))
        self._root = f"{scheme}:/"
        self._components = directory.split("/") if directory else []

    def check(self) -> None:
        """Raise PatternError where the part of a pattern that is no pattern does not exist or is wrong; OSError."""
        fixed = []
        for component in self._components:
            if glob.has_magic(component):
                break
            fixed.append(component)
        directory = "/".join([self._root, *fixed])
        if not fixed and self._root not in ("memory:/",):
            raise PatternError(f"{self._pattern}: it has to name a bucket; check the pattern")
        try:
            entries = self._list(directory)
        except FileNotFoundError as error:
            what = error.strerror if "bucket" in str(error.strerror) else "there is nothing of this name"
            raise PatternError(f"{directory}: {what}; check the pattern {self._pattern}") from None
        if len(fixed) == len(self._components) and not glob.has_magic(self.name_pattern):
            self._check_name(entries)

    def _check_name(self, entries: dict[str, Entry]) -> None:
        name = self.name_pattern
        if not name or (name in entries and entries[name].is_directory):
            path = self._pattern.rstrip("/")
            raise PatternError(f"{self._pattern} is a directory; to load the files in it, use {path}/*")
        if name not in entries and not {f".{name}", f".{name}.damaged"} & entries.keys():
            raise PatternError(f"{self._pattern}: there is no such object; check the pattern")

    def entry(self, url: str) -> Entry | None:
        """Return what is known of an object in a directory that was listed."""
        directory, _, name = url.rpartition("/")
        return self._directories.get(directory, {}).get(name)

    def beside(self, url: str) -> dict[str, Entry]:
        """Return what lies in the directory of an object, by name."""
        return self._directories.get(url.rpartition("/")[0], {})

    def files(self, name_pattern: str) -> Iterator[str]:
        """Yield the URLs of the objects whose names match, in the directories that the pattern means."""
        for directory in dict.fromkeys(self._expand(self._root, self._components)):
            for name, entry in self._matching(directory, name_pattern):
                if not entry.is_directory:
                    yield f"{directory}/{name}"

    def _expand(self, directory: str, components: Sequence[str]) -> Iterator[str]:
        """Yield the directories that some components mean, beginning in another."""
        if not components:
            yield directory
            return
        first, rest = components[0], components[1:]
        if first == "**":
            for below in self._tree(directory):
                yield from self._expand(below, rest)
        elif glob.has_magic(first):
            for name, entry in self._matching(directory, first):
                if entry.is_directory:
                    yield from self._expand(f"{directory}/{name}", rest)
        else:
            yield from self._expand(f"{directory}/{first}", rest)

    def _tree(self, directory: str) -> Iterator[str]:
        yield directory
        for name, entry in self._matching(directory, "*"):
            if entry.is_directory:
                yield from self._tree(f"{directory}/{name}")

    def _matching(self, directory: str, name_pattern: str) -> Iterator[tuple[str, Entry]]:
        """Yield what matches in a directory; as in every shell, a dot at the start has to be in the pattern."""
        try:
            entries = self._list(directory)
        except FileNotFoundError:
            return
        if not glob.has_magic(name_pattern):
            if name_pattern in entries:
                yield name_pattern, entries[name_pattern]
            return
        for name, entry in entries.items():
            if name.startswith(".") <= name_pattern.startswith(".") and fnmatch.fnmatchcase(name, name_pattern):
                yield name, entry

    def _list(self, directory: str) -> dict[str, Entry]:
        if directory not in self._directories:
            self._directories[directory] = self._store.list(directory)
        return self._directories[directory]
