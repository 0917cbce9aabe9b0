"""Which source a pattern means: directories of this machine, or an object store."""

from __future__ import annotations

import os

from memcload.cancel import Cancel
from memcload.source.local import LocalSource
from memcload.source.pattern import local_pattern
from memcload.source.source import Source


def absolute(path: str) -> str:
    """Return a path so that it means the same to who works in another directory; a URL does that anyway."""
    return path if "://" in path else os.path.join(os.getcwd(), path)


def source_of(
    pattern: str, cancel: Cancel, grace: float, *, with_done: bool, with_named: bool, min_age: float
) -> Source:
    """Return the source of the files that a pattern, a shell glob or a URL with one in it, means.

    Args:
        pattern: what to look for
        cancel: ends waiting for a store
        grace: how many seconds after that
        with_done: find the files that are done too, in the order in which they were loaded
        with_named: find those done files that the pattern itself names
        min_age: leave files that are younger, in seconds
    """
    local = local_pattern(pattern)
    if local is not None:
        return LocalSource(
            local, with_done=with_done, with_named=with_named, min_age=min_age, stops=lambda: cancel.is_set
        )
    from memcload.source.remote import RemoteSource  # here: only who loads from a store needs it

    return RemoteSource(pattern, cancel, grace, with_done=with_done, with_named=with_named, min_age=min_age)
