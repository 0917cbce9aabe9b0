"""Directories with logs for tests that do harm to a load."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside.logs import Inbox, log_of_few_devices, make_inbox
from tests.outside.object_store import Bucket, Gate, s3_server


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    """Three logs with many records for few devices each: what is overwritten in the wrong order is seen."""
    rng = random.Random(2017)
    return make_inbox(tmp_path / "inbox", [log_of_few_devices(rng, file) for file in range(3)])


@pytest.fixture
def one_file(tmp_path: Path) -> Inbox:
    """One such log."""
    return make_inbox(tmp_path / "inbox", [log_of_few_devices(random.Random(1), 0)])


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of a real S3 server."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: see requirements-s3.txt")
    pytest.importorskip("moto", reason="moto is not installed: see requirements-s3.txt")
    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(s3_port: int) -> Iterator[Bucket]:
    """An empty bucket behind a gate where requests can go wrong."""
    with Gate(s3_port) as gate:
        yield Bucket(s3_port, gate)
