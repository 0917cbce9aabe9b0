"""What goes over the wire to a real S3 server."""

from __future__ import annotations

import gzip
import random

import pytest
import s3fs

from memcload.cancel import Cancel
from memcload.source.remote import RemoteSource
from tests.outside.object_store import Bucket, Headers


def test_a_large_object_is_copied_by_one_request_that_is_held_to_its_version(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts it would get another ETag and lose its metadata, and a kill would leave what nobody sees."""
    monkeypatch.setattr(s3fs.core, "MANAGED_COPY_THRESHOLD", 1 << 10)
    s3.write("in/a.gz", gzip.compress(random.Random(1).randbytes(1 << 14)))
    requests: list[tuple[str, Headers]] = []
    s3.gate.rule = lambda method, path, headers: requests.append((f"{method} {path}", dict(headers)))
    source = RemoteSource(s3.url("in/*"), Cancel(), 1.0)
    with source.lock():
        (path,) = source.find()
        list(source.open(path).texts(1 << 20))
        assert source.finalize(path, damaged=False) == s3.url("in/.a.gz")
    copies = [(asked, headers) for asked, headers in requests if "/in/.a.gz" in asked and not asked.startswith("HEAD")]
    ((asked, headers),) = copies
    assert asked == f"PUT /{s3.name}/in/.a.gz"
    assert headers["x-amz-copy-source-if-match"]
    writing = [headers for asked, headers in requests if asked.startswith("PUT")]
    assert [name for headers in writing for name in headers if "checksum" in name] == []  # which few other stores know
