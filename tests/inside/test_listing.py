"""Which objects a pattern means: on a real S3 server and on memory://, held to what it means on a disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from memcload.cancel import Cancel
from memcload.source.listing import Listing
from memcload.source.pattern import PatternError, find_files
from memcload.source.store import Store
from tests.outside.object_store import Bucket

KEYS = [
    "a.gz",
    "in/.deep/a.gz",
    "in/.done.gz",
    "in/a.gz",
    "in/a1.gz",
    "in/a[1].gz",
    "in/b",
    "in/deep/er/a.gz",
    "odd/%20.gz",
    "odd/a b+c.gz",
    "odd/é.gz",
    "other/a.gz",
]
FOUND = {
    "in/*.gz": ["in/a.gz", "in/a1.gz", "in/a[1].gz"],
    "in/a[1].gz": ["in/a1.gz"],
    "in/a[[]1].gz": ["in/a[1].gz"],
    "in/a?.gz": ["in/a1.gz"],
    "in/[!a]*": ["in/b"],
    "*/a.gz": ["in/a.gz", "other/a.gz"],
    "**/a.gz": ["a.gz", "in/a.gz", "in/deep/er/a.gz", "other/a.gz"],
    "in/**/a.gz": ["in/a.gz", "in/deep/er/a.gz"],
    "in/**": ["in/a.gz", "in/a1.gz", "in/a[1].gz", "in/b", "in/deep/er/a.gz"],
    "in/**/*": ["in/a.gz", "in/a1.gz", "in/a[1].gz", "in/b", "in/deep/er/a.gz"],
    "in/**.gz": ["in/a.gz", "in/a1.gz", "in/a[1].gz"],
    "in/deep/*": [],
    "in/a.gz": ["in/a.gz"],
    "in/.*": ["in/.done.gz"],
    "odd/*": ["odd/%20.gz", "odd/a b+c.gz", "odd/é.gz"],
    "odd/%20.gz": ["odd/%20.gz"],
}


@pytest.fixture(params=["s3", "memory"])
def root(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a place of a store where all the keys are."""
    if request.param == "memory":
        system, place = fsspec.filesystem("memory"), "memory:/"
        system.store.clear()
    else:
        bucket = request.getfixturevalue("s3")
        system, place = bucket.system, bucket.url("").rstrip("/")
        bucket.write("in/", b"")  # as consoles make a directory
    for key in KEYS:
        system.pipe_file(f"{place}/{key}", key.encode())
    yield place
    if request.param == "memory":
        system.store.clear()


def test_a_pattern_means_what_it_means_on_a_disk(root: str, tmp_path: Path) -> None:
    for key in KEYS:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(key.encode())
    store = Store(f"{root}/", Cancel(), 1.0)
    found, on_disk = {}, {}
    for pattern in FOUND:
        listing = Listing(store, f"{root}/{pattern}")
        listing.check()
        found[pattern] = sorted(url.removeprefix(f"{root}/") for url in listing.files(listing.name_pattern))
        paths = find_files(str(tmp_path / pattern), with_named=True)
        on_disk[pattern] = [os.path.relpath(path, tmp_path) for path in paths]
    assert found == on_disk == FOUND


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("s3://BUCKET/gone/*.gz", "s3://BUCKET/gone: there is nothing of this name"),
        ("s3://BUCKETx/*.gz", "s3://BUCKETx: there is no such bucket"),
        ("s3://BUCKET/in", "s3://BUCKET/in is a directory; to load the files in it, use s3://BUCKET/in/*"),
        ("s3://BUCKET/in/", "s3://BUCKET/in/ is a directory"),
        ("s3://BUCKET/in/b.gz", "s3://BUCKET/in/b.gz: there is no such object"),
        ("s3://*/in/*.gz", "it has to name a bucket"),
    ],
)
def test_a_pattern_that_can_mean_nothing_is_told(s3: Bucket, pattern: str, says: str) -> None:
    s3.write("in/a.gz", b"")
    pattern, says = (text.replace("BUCKET", s3.name) for text in (pattern, says))
    with pytest.raises(PatternError, match=re.escape(says)):
        Listing(Store(pattern, Cancel(), 1.0), pattern).check()
