"""What tests of the parts can ask for."""

from __future__ import annotations

import pytest

from tests.outside.object_store import Bucket


@pytest.fixture
def s3(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket that this process finds as a loader would."""
    for name, value in bucket.environ().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return bucket
