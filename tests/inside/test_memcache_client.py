"""The client of one memcached: what it stores is there, and what it could not store it tells."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from memc_client import MemcacheClient, ServerDown
from memcload.memcached.batch import Batch, Refusal
from tests.inside.test_batch import make_batch
from tools.servers import MemcachedServer

PROJECT = Path(__file__).resolve().parent.parent.parent
DAY = 24 * 3600
TOO_LARGE = b"x" * (2 << 20)


def batch(records: Iterable[tuple[bytes, bytes]], ttl: int = 0) -> list[Batch]:
    return [make_batch(list(records), ttl)]


def numbered(count: int, value: bytes = b"value") -> list[tuple[bytes, bytes]]:
    return [(b"idfa:%d" % number, b"%b %d" % (value, number)) for number in range(count)]


def found(server: MemcachedServer, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return what the server holds under these keys, by way of another client."""
    with server.client() as reader:
        return {key: value for key, value in reader.get_many(list(keys)).items() if isinstance(key, bytes)}


def stat(server: MemcachedServer, name: str) -> int:
    with server.client() as reader:
        return int(reader.stats()[name.encode()])


def meta(server: MemcachedServer, key: bytes, flag: str) -> int:
    """Return what a meta get says about an item: `f` its flags, `t` the seconds it has yet to live."""
    with server.client() as reader:
        reply = bytes(reader.raw_command(b"mg %b %b" % (key, flag.encode())))
    return int(reply.removeprefix(b"HD " + flag.encode()))


@pytest.fixture
def server(servers: dict[str, MemcachedServer]) -> MemcachedServer:
    return servers["idfa"]


@pytest.fixture
def client(server: MemcachedServer) -> Iterator[MemcacheClient]:
    with closing(MemcacheClient(server.address)) as client:
        yield client


def test_all_records_of_a_batch_are_stored(server: MemcachedServer, client: MemcacheClient) -> None:
    records = numbered(5000)
    assert client.store(batch(records)).refusals == []
    assert found(server, dict(records)) == dict(records)


@pytest.mark.parametrize("value", [b"", b"\r\n", b"MN\r\n", b"mn\r\n", b"\x00\xff" * 5000, b"x" * 1_000_000])
def test_a_value_may_hold_anything(server: MemcachedServer, client: MemcacheClient, value: bytes) -> None:
    assert client.store(batch([(b"before", b"1"), (b"key", value), (b"after", b"2")])).refusals == []
    assert found(server, [b"before", b"key", b"after"]) == {b"before": b"1", b"key": value, b"after": b"2"}


def test_a_key_may_have_250_bytes(server: MemcachedServer, client: MemcacheClient) -> None:
    key = b"idfa:" + b"~" * 245
    assert client.store(batch([(key, b"1")])).refusals == []
    assert found(server, [key]) == {key: b"1"}


def test_the_last_record_of_a_key_wins(server: MemcachedServer, client: MemcacheClient) -> None:
    client.store(batch([(b"key", b"1"), (b"other", b"2"), (b"key", b"3")]))
    assert found(server, [b"key"]) == {b"key": b"3"}
    client.store(batch([(b"key", b"4")]))
    assert found(server, [b"key"]) == {b"key": b"4"}


def test_a_batch_may_come_in_any_kind_of_buffer(server: MemcachedServer, client: MemcacheClient) -> None:
    for kind in (bytes, lambda data: memoryview(bytearray(data))):
        made = make_batch([(b"key", b"value"), (b"large", TOO_LARGE)])
        buffer = kind(bytes(made.commands))
        refusals = client.store([Batch(2, buffer, made.ends, made.lines)]).refusals
        assert [refusal.position for refusal in refusals] == [1]


def test_batches_are_stored_in_one_request_and_refusals_count_through_all(
    server: MemcachedServer, client: MemcacheClient
) -> None:
    parts = [numbered(3), [], [(b"large", TOO_LARGE), (b"key", b"1")], [(b"key", b"2"), (b"large", TOO_LARGE)]]
    before = stat(server, "cmd_meta")
    refusals = client.store([make_batch(records) for records in parts]).refusals
    assert [refusal.position for refusal in refusals] == [3, 6]
    assert found(server, [b"key", b"large", b"idfa:2"]) == {b"key": b"2", b"idfa:2": b"value 2"}
    client.store([make_batch(numbered(10)) for _ in range(2000)])
    assert stat(server, "cmd_meta") - before < 20_000 + 30


def test_a_slice_of_a_batch_is_a_batch(server: MemcachedServer, client: MemcacheClient) -> None:
    for part in make_batch(numbered(100)).slices(max_count=7):
        assert client.store([part]).refusals == []
    middle = list(make_batch([*numbered(10), (b"large", TOO_LARGE), (b"key", b"1")]).slices(max_count=8))[1]
    assert [refusal.position for refusal in client.store([middle]).refusals] == [2]
    assert len(found(server, dict(numbered(100)))) == 100
    assert found(server, [b"key"]) == {b"key": b"1"}


def test_an_empty_batch_asks_no_server() -> None:
    with closing(MemcacheClient("unix:/missing")) as client:
        assert client.store([]).refusals == client.store(batch([])).refusals == []


def test_a_record_can_be_stored_alone(server: MemcachedServer, client: MemcacheClient) -> None:
    assert client.set(b"key", b"MN\r\n") is None
    assert found(server, [b"key"]) == {b"key": b"MN\r\n"}


def test_the_flags_of_every_item_are_0(server: MemcachedServer, client: MemcacheClient) -> None:
    client.store(batch([(b"batch", b"1")]))
    client.store(batch([(b"answered", b"1"), (b"large", TOO_LARGE)]))
    client.set(b"set", b"1")
    assert [meta(server, key, "f") for key in (b"batch", b"answered", b"set")] == [0, 0, 0]


def test_everything_goes_over_one_connection(server: MemcachedServer) -> None:
    before = stat(server, "total_connections")
    with closing(MemcacheClient(server.address)) as client:
        for number in range(50):
            client.store(batch(numbered(10)))
            client.set(b"%d" % number, b"value")
            client.confirm()
    assert stat(server, "total_connections") - before == 2  # and this one


def test_no_connection_is_opened_before_it_is_needed(server: MemcachedServer) -> None:
    before = stat(server, "total_connections")
    with closing(MemcacheClient(server.address)):
        pass
    assert stat(server, "total_connections") - before == 1


def test_a_closed_client_connects_again(server: MemcachedServer, client: MemcacheClient) -> None:
    client.set(b"one", b"1")
    client.close()
    client.close()
    client.set(b"two", b"2")
    assert found(server, [b"one", b"two"]) == {b"one": b"1", b"two": b"2"}
    assert (client.server.retries, client.server.restarts) == (0, 0)


def test_any_thread_may_store(server: MemcachedServer, client: MemcacheClient) -> None:
    refusals: list[Refusal] = []

    def store(name: bytes) -> None:
        for number in range(20):
            refusals.extend(client.store(batch([(b"%b:%d:%d" % (name, number, i), name) for i in range(20)])).refusals)

    threads = [threading.Thread(target=store, args=(b"%d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refusals == []
    keys = [b"%d:%d:%d" % (name, number, i) for name in range(8) for number in range(20) for i in range(20)]
    assert len(found(server, keys)) == len(keys)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [[0], [2], [0, 1], [1, 3], [255], [256], list(range(0, 600, 37))])
def test_records_that_are_too_large_are_named_by_their_position(
    server: MemcachedServer, client: MemcacheClient, positions: list[int]
) -> None:
    large = b"x" * (1 << 20)
    records = numbered(max(4, positions[-1] + 1))
    for position in positions:
        records[position] = records[position][0], large
    refusals = client.store(batch(records)).refusals
    assert [refusal.position for refusal in refusals] == positions
    assert all(refusal.too_large and "too large" in refusal.reply for refusal in refusals)
    stored = {key: value for key, value in records if value != large}
    assert found(server, dict(records)) == stored


def test_the_next_batch_is_stored_as_if_nothing_had_been_refused(
    server: MemcachedServer, client: MemcacheClient
) -> None:
    assert len(client.store(batch([(b"large", TOO_LARGE)])).refusals) == 1
    assert client.store(batch(numbered(100))).refusals == []
    assert found(server, dict(numbered(100))) == dict(numbered(100))
    assert client.server.retries == 0


def test_a_refused_record_leaves_no_older_one_in_its_place(server: MemcachedServer, client: MemcacheClient) -> None:
    client.store(batch([(b"key", b"old")]))
    client.store(batch([(b"key", TOO_LARGE), (b"other", b"1")]))
    assert found(server, [b"key", b"other"]) == {b"other": b"1"}


def test_a_single_record_that_is_too_large_is_refused(client: MemcacheClient) -> None:
    refusal = client.set(b"key", TOO_LARGE)
    assert refusal is not None
    assert refusal.too_large
    assert refusal.reply == "SERVER_ERROR object too large for cache"


def test_a_server_that_is_full_refuses_and_what_it_took_is_there() -> None:
    with (
        MemcachedServer.start("-M", "-m", "4") as server,
        closing(MemcacheClient(server.address)) as client,
    ):
        taken, refused = set[bytes](), set[bytes]()
        for number in range(100):
            records = [(b"%d:%d" % (number, i), b"x" * 10_000) for i in range(20)]
            refusals = client.store(batch(records)).refusals
            assert not any(refusal.too_large for refusal in refusals)
            assert all(refusal.reply.startswith("SERVER_ERROR out of memory") for refusal in refusals)
            lost = {records[refusal.position][0] for refusal in refusals}
            taken |= {key for key, _ in records} - lost
            refused |= lost
            if refused:
                break
        assert taken
        assert refused
        assert set(found(server, taken | refused)) == taken
        alone = client.set(b"alone", b"x" * 10_000)
        assert alone is not None
        assert not alone.too_large
        assert (client.server.retries, client.server.evictions) == (0, 0)


# --- a server that is not there -----------------------------------------------------------------

REQUESTS: list[Callable[[MemcacheClient], object]] = [
    lambda client: client.store(batch([(b"key", b"value")])),
    lambda client: client.set(b"key", b"value"),
    lambda client: client.confirm(),
]


@pytest.mark.parametrize("request_of", REQUESTS, ids=["store", "set", "confirm"])
def test_an_unreachable_server_is_named(
    server: MemcachedServer, request_of: Callable[[MemcacheClient], object]
) -> None:
    server.kill()
    with closing(MemcacheClient(server.address, retries=1)) as client:
        with pytest.raises(ServerDown, match=f"^{re.escape(server.address)}: connection refused$") as caught:
            request_of(client)
        assert (caught.value.server, caught.value.cause) == (server.address, "connection refused")
        assert client.server.retries == 1


def test_retries_are_counted_and_wait_longer_and_longer(server: MemcachedServer) -> None:
    server.kill()
    for retries, least, most in ((0, 0.0, 0.1), (1, 0.1, 0.2), (3, 0.7, 1.0)):
        with closing(MemcacheClient(server.address, retries=retries)) as client:
            started = time.monotonic()
            with pytest.raises(ServerDown):
                client.store(batch([(b"key", b"value")]))
            assert least <= time.monotonic() - started < most + 0.5
            assert client.server.retries == retries


def test_an_request_without_retries_is_not_tried_again(server: MemcachedServer) -> None:
    server.kill()
    with closing(MemcacheClient(server.address, retries=100)) as client:
        with pytest.raises(ServerDown):
            client.store(batch([(b"key", b"value")]), retry=False)
        assert client.server.retries == 0


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_timeout(server: MemcachedServer) -> None:
    server.freeze()
    with closing(MemcacheClient(server.address, timeout=0.2, connect_timeout=0.2, retries=0)) as client:
        started = time.monotonic()
        with pytest.raises(ServerDown, match="timed out"):
            client.store(batch([(b"key", b"value")]))
        assert 0.2 <= time.monotonic() - started < 1
        server.thaw()
        assert client.store(batch([(b"key", b"value")])).refusals == []


def test_a_server_that_comes_back_in_time_is_as_good_as_any(server: MemcachedServer) -> None:
    server.kill()
    returning = threading.Timer(0.3, server.restart)
    returning.start()
    try:
        with closing(MemcacheClient(server.address, retries=20)) as client:
            assert client.store(batch(numbered(10))).refusals == []
            assert client.server.retries > 0
    finally:
        returning.join()
    assert found(server, dict(numbered(10))) == dict(numbered(10))


# --- where a server may listen ------------------------------------------------------------------


def test_a_server_may_listen_on_a_unix_socket(tmp_path: Path) -> None:
    with (
        MemcachedServer.start(socket=tmp_path / "a b:1.sock") as server,
        closing(MemcacheClient(server.address)) as client,
    ):
        assert client.store(batch(numbered(1000))).refusals == []
        assert stat(server, "curr_items") == 1000


def test_a_missing_unix_socket_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / ("long" * 50)):
        address = f"unix:{path}"
        with closing(MemcacheClient(address, retries=0)) as client, pytest.raises(ServerDown, match=address):
            client.confirm()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this system has no IPv6")
def test_a_server_may_listen_on_ipv6() -> None:
    with MemcachedServer.start("-l", "::1") as server:
        address = server.address.replace("127.0.0.1", "[::1]")
        with closing(MemcacheClient(address)) as client:
            assert client.store(batch(numbered(10))).refusals == []
        assert stat(server, "curr_items") == 10


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare to give a process its own /etc/hosts")
@pytest.mark.parametrize("hosts", ["::1 localhost\n127.0.0.1 localhost\n", "127.0.0.1 localhost\n"])
def test_every_address_of_a_host_is_tried(server: MemcachedServer, tmp_path: Path, hosts: str) -> None:
    (tmp_path / "hosts").write_text(hosts)
    program = (
        "import sys; from memc_client import *; client = MemcacheClient(sys.argv[1], retries=0)\n"
        "client.set(b'key', b'value'); client.close()"
    )
    script = 'mount --bind "$0" /etc/hosts || exit 99; exec "$@"'
    address = server.address.replace("127.0.0.1", "localhost")
    process = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, str(tmp_path / "hosts"), sys.executable, "-c", program, address],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if process.returncode == 99 or process.stderr.startswith("unshare: "):
        pytest.skip("a process may not have its own /etc/hosts here")
    assert (process.returncode, process.stderr) == (0, "")
    assert found(server, [b"key"]) == {b"key": b"value"}


# --- expiry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [1000, 30 * DAY, 30 * DAY + 1, 40 * DAY, 1000 * DAY])
def test_a_record_lives_as_long_as_asked_for(server: MemcachedServer, ttl: int) -> None:
    with closing(MemcacheClient(server.address, ttl=ttl)) as client:
        client.store(batch([(b"batch", b"1")], ttl))
        client.store(batch([(b"answered", b"1"), (b"large", TOO_LARGE)], ttl))
        client.set(b"set", b"1")
    for key in (b"batch", b"answered", b"set"):
        assert ttl - 10 <= meta(server, key, "t") <= ttl + 2


def test_without_a_ttl_a_record_lives_for_ever(server: MemcachedServer, client: MemcacheClient) -> None:
    client.store(batch([(b"batch", b"1")]))
    client.set(b"set", b"1")
    assert [meta(server, key, "t") for key in (b"batch", b"set")] == [-1, -1]


def test_a_record_is_gone_when_its_time_is_over(server: MemcachedServer) -> None:
    with closing(MemcacheClient(server.address, ttl=1)) as client:
        client.store(batch([(b"short", b"1")], ttl=1))
        client.store(batch([(b"long", b"1")]))
    deadline = time.monotonic() + 5
    while b"short" in found(server, [b"short"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found(server, [b"long"]) == {b"long": b"1"}
