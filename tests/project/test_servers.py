"""The servers that the other tests stand on are real, and do what their methods say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from pymemcache.client.base import Client

from tools.servers import MemcachedServer, ServerError, server_pid


def test_a_server_answers_at_its_address() -> None:
    with MemcachedServer.start() as server:
        assert server_pid(server.address) == server.pid
    assert server_pid(server.address) is None


def test_a_server_takes_a_given_port_and_options(servers: dict[str, MemcachedServer]) -> None:
    port = int(servers["idfa"].address.rpartition(":")[2])
    servers["idfa"].kill()
    with MemcachedServer.start("-m", "100", port=port) as server, server.client() as client:
        assert server.address == f"127.0.0.1:{port}"
        assert client.stats()[b"limit_maxbytes"] == 100 * 1024 * 1024


def test_a_taken_port_is_named(servers: dict[str, MemcachedServer]) -> None:
    address = servers["idfa"].address
    with pytest.raises(ServerError, match=f"did not start at {address}.*Address already in use"):
        MemcachedServer.start(port=int(address.rpartition(":")[2]))


def test_a_missing_memcached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerError, match="memcached is not installed"):
        MemcachedServer.start()


def test_a_server_listens_on_a_unix_socket(tmp_path: Path) -> None:
    with MemcachedServer.start(socket=tmp_path / "memcached.sock") as server:
        assert server.address == f"unix:{tmp_path}/memcached.sock"
        server.restart()
        assert server_pid(server.address) == server.pid


def test_a_restarted_server_is_empty_at_the_same_address(servers: dict[str, MemcachedServer]) -> None:
    server = servers["idfa"]
    address, pid = server.address, server.pid
    with server.client() as client:
        client.set("key", b"value", noreply=False)
    server.restart()
    assert server.address == address
    assert server.pid != pid
    with server.client() as client:
        assert client.get("key") is None


def test_a_frozen_server_answers_once_it_is_thawed(servers: dict[str, MemcachedServer]) -> None:
    server = servers["gaid"]
    server.freeze()
    with closing(Client(server.address, timeout=0.1)) as hurried, pytest.raises(TimeoutError):
        hurried.version()
    server.thaw()
    with server.client() as client:
        assert client.version()


def test_a_flushed_server_is_empty(servers: dict[str, MemcachedServer]) -> None:
    with servers["adid"].client() as client:
        client.set("key", b"value", noreply=False)
        servers["adid"].flush()
        assert client.get("key") is None


@pytest.mark.parametrize("harm", ["kill", "freeze"])
def test_the_next_test_finds_the_servers_up_whatever_this_one_does(
    servers: dict[str, MemcachedServer], harm: str
) -> None:
    assert all(server_pid(server.address) == server.pid for server in servers.values())
    getattr(servers["dvid"], harm)()


def test_a_server_does_not_outlive_a_killed_python() -> None:
    program = (
        "import os, signal; from tools.servers import MemcachedServer; "
        "print(MemcachedServer.start().pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    finished = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    pid = int(finished.stdout)
    deadline = time.monotonic() + 5
    while _is_alive(pid):
        assert time.monotonic() < deadline, "memcached outlived the Python process that started it"
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A container's first process may be one that never collects what has ended.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
