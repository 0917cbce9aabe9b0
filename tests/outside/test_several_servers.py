"""Several servers a device type: clients that read find every record where they look for it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from pymemcache.client.hash import HashClient

from tests.outside.loading import Loader, all_loaders, run, with_report
from tests.outside.logs import make_inbox, numbered
from tests.outside.memcached import Servers, closed_port
from tests.outside.spec import TYPES, expected
from tools.servers import connect

Get = Callable[[str], object]  # of a value, by its key
Reader = Callable[[Sequence[str]], AbstractContextManager[Get]]


@contextmanager
def rendezvous(where: Sequence[str]) -> Iterator[Get]:
    client = HashClient(where)
    yield client.get
    client.close()


@contextmanager
def crc32(where: Sequence[str]) -> Iterator[Get]:
    def get(key: str) -> object:
        with connect(where[zlib.crc32(key.encode()) % len(where)]) as client:
            return client.get(key)

    yield get


@contextmanager
def python_memcached(where: Sequence[str]) -> Iterator[Get]:
    client = pytest.importorskip("memcache").Client(where, socket_timeout=5)
    yield client.get
    client.disconnect_all()


@contextmanager
def ketama(where: Sequence[str]) -> Iterator[Get]:
    client = pytest.importorskip("pylibmc").Client(where, behaviors={"ketama_weighted": True})
    yield client.get
    client.disconnect_all()


READERS: dict[str, Reader] = {
    "rendezvous": rendezvous,
    "crc32": crc32,
    "python-memcached": python_memcached,
    "ketama": ketama,
}


@pytest.mark.parametrize("routing", READERS)
@all_loaders
def test_clients_find_every_record(tmp_path: Path, servers: Servers, loader: Loader, routing: str) -> None:
    where = [server.address for server in servers.values()]
    inbox = make_inbox(tmp_path / "inbox", [numbered(300), numbered(300).replace(b"55.55", b"-1")])
    options = [part for name in TYPES for part in (f"--{name}", ",".join(where))]
    finished = with_report(run(loader, inbox.pattern, *options, "--routing", routing, "--report", "-"))
    assert finished.exit_code == 0
    for name in TYPES:
        told = finished.device(name)["servers"]
        assert [server["address"] for server in told] == where
        assert sum(server["stored"] for server in told) == finished.device(name)["stored"] == 150
        assert min(server["stored"] for server in told) > 0
    items = expected(*inbox.logs).items
    with READERS[routing](where) as get:
        assert [key for key, item in items.items() if get(key.decode()) != item.value] == []


@all_loaders
def test_no_other_server_takes_over_for_one_that_is_down(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    inbox = make_inbox(tmp_path / "inbox", [numbered(300)])
    intact = servers["gaid"].address
    with closed_port() as nowhere:
        options = [part for name in TYPES for part in (f"--{name}", f"{intact},{nowhere}")]
        finished = with_report(run(loader, inbox.pattern, *options, "--retries", "0", "--report", "-"))
    assert finished.exit_code == 1
    assert finished.file("0.tsv.gz")["reason"] == "records_failed"
    assert nowhere in finished.file("0.tsv.gz")["detail"]
    failed = 0
    for name in TYPES:
        up, down = finished.device(name)["servers"]
        assert (up["failed"], down["stored"]) == (0, 0)
        failed += down["failed"]
    with servers["gaid"].client() as client:
        assert client.stats()[b"curr_items"] == 300 - failed
    assert 0 < failed < 300
