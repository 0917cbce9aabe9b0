"""Directories with logs for tests that do harm to a load, and a cluster to load on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside.clusters import DaskCluster
from tests.outside.logs import Inbox, log_of_few_devices, make_inbox
from tests.outside.object_store import environ_for


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
def running_cluster(tmp_path_factory: pytest.TempPathFactory, s3_port: int) -> Iterator[DaskCluster]:
    """A cluster of this process alone, which reaches the S3 server. Tests ask for `cluster` instead."""
    with DaskCluster(tmp_path_factory.mktemp("dask"), environ=environ_for(s3_port)) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: DaskCluster) -> DaskCluster:
    """A scheduler and two sound workers, whatever an earlier test did to them."""
    running_cluster.make_ready()
    return running_cluster
