"""What every test can ask for: four real memcached servers, empty, and an empty bucket of a real S3 server."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside.forking import end_origins
from tests.outside.memcached import make_ready
from tests.outside.object_store import Bucket, Gate, s3_server
from tools.servers import MemcachedServer, four_servers

PROJECT = Path(__file__).resolve().parents[1]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the encoder once, before many tests at a time would all do it, where it can be compiled.

    Where the tests are run in the background, SIGINT is ignored, and would be by every load that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(session.config, "workerinput"):  # the process that starts the others, or the only one
        command = [sys.executable, str(PROJECT / "memc_load_parallel.py"), "--engine", "compiled", "--dry"]
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"idfa\t1\t1\t1\t1\n")
            file.flush()
            subprocess.run([*command, "--pattern", file.name], capture_output=True, timeout=300, check=False)


def pytest_sessionfinish() -> None:
    """End what the loaders were forked from."""
    end_origins()


@pytest.fixture(scope="session")
def running_servers() -> Iterator[dict[str, MemcachedServer]]:
    """Four memcached servers on free ports, by device type, of this process alone. Tests ask for `servers` instead."""
    with four_servers() as servers:
        yield servers


@pytest.fixture
def servers(running_servers: dict[str, MemcachedServer]) -> dict[str, MemcachedServer]:
    """Four memcached servers by device type: up and empty, whatever an earlier test did to them."""
    make_ready(running_servers)
    return running_servers


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of a real S3 server, of this process alone."""
    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(s3_port: int) -> Iterator[Bucket]:
    """An empty bucket behind a gate where requests can go wrong."""
    with Gate(s3_port) as gate:
        yield Bucket(s3_port, gate)
