"""What every test can ask for: four real memcached servers, empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.servers import MemcachedServer, four_servers


@pytest.fixture(scope="session")
def running_servers() -> Iterator[dict[str, MemcachedServer]]:
    """Four memcached servers on free ports, by device type. Tests ask for `servers` instead."""
    with four_servers() as servers:
        yield servers


@pytest.fixture
def servers(running_servers: dict[str, MemcachedServer]) -> dict[str, MemcachedServer]:
    """Four memcached servers by device type: up and empty, whatever an earlier test did to them."""
    for server in running_servers.values():
        if server.running:
            server.thaw()
            server.flush()
        else:
            server.restart()
    return running_servers
