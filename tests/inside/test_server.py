"""What is known of a server: whether it answers, who it is, what it has lost, what it understands."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

import memc_client
from memc_client import MemcacheClient
from memcload.memcached.batch import lookups
from memcload.memcached.server import UNKNOWN, Identity, Server, ServerDown
from tests.inside.peers import (
    Cut,
    FrontEnd,
    Hangup,
    NoMeta,
    NoStats,
    OldMeta,
    OwnStats,
    Peer,
    Picky,
    SameProcess,
    listening,
    replying,
)
from tests.inside.test_batch import make_batch
from tools.servers import MemcachedServer

RECORDS = [(b"idfa:%d" % number, b"value %d" % number) for number in range(100)]
COMMANDS = [(b"idfa:quit", b"\nquit\r\n\nflush_all\r\n"), (b"idfa:set", b"\r\nset stray 0 0 1\r\n1\r\n")]


@pytest.fixture
def memcached(servers: dict[str, MemcachedServer]) -> MemcachedServer:
    return servers["idfa"]


@pytest.fixture
def client(memcached: MemcachedServer) -> Iterator[MemcacheClient]:
    with closing(MemcacheClient(memcached.address)) as client:
        yield client


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("memcload").propagate = True
    caplog.set_level("INFO", "memcload")
    return caplog


def stat(server: MemcachedServer, name: str) -> int:
    with server.client() as reader:
        return int(reader.stats()[name.encode()])


def memcached_version() -> str:
    return subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=True).stdout.split()[-1]


def states(*servers: Server) -> list[str]:
    return [server.state for server in servers]


# --- whether it answers -------------------------------------------------------------------------


def test_a_change_of_state_is_logged_once(
    memcached: MemcachedServer, client: MemcacheClient, log: pytest.LogCaptureFixture
) -> None:
    label = f"idfa {memcached.address}"
    server = Server(memcached.address, label)
    with closing(MemcacheClient(server, retries=1)) as client:
        client.set(b"key", b"value")
        assert states(server) == ["ok"]
        assert log.messages == []
        memcached.kill()
        for _ in range(2):
            with pytest.raises(ServerDown):
                client.store([make_batch(RECORDS)], retry=False)
        assert states(server) == ["down"]
        assert log.messages == [f"{label}: connection closed by the server; marked down"] or log.messages == [
            f"{label}: connection refused; marked down"
        ]
        memcached.restart()
        client.set(b"key", b"value")
        assert states(server) == ["ok"]
    assert log.messages[1:] == [f"{label} restarted and lost what it had stored", f"{label} answers again"]


def test_a_server_is_as_well_as_the_worst_of_its_connections(log: pytest.LogCaptureFixture) -> None:
    server = Server("127.0.0.1:1", "idfa, gaid 127.0.0.1:1")
    one, two = object(), object()
    server.report(one, "retrying", "timed out")
    server.report(two, "retrying", "timed out")
    assert server.retries == 2
    assert states(server) == ["retrying"]
    server.report(one, "ok")
    assert states(server) == ["retrying"]
    server.report(two, "down", "timed out")
    assert states(server) == ["down"]
    server.report(two, "ok")
    assert states(server) == ["ok"]
    assert log.messages == [
        "idfa, gaid 127.0.0.1:1: timed out; trying again",
        "idfa, gaid 127.0.0.1:1: timed out; marked down",
        "idfa, gaid 127.0.0.1:1 answers again",
    ]


@pytest.mark.parametrize(
    ("number", "cause"),
    [(errno.EMFILE, "this process has run out.*ulimit -n"), (errno.ENFILE, "this system has run out.*fs.file-max")],
)
def test_a_server_is_not_down_where_there_are_no_descriptors_for_a_connection(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture, number: int, cause: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(memc_client, "connect", fail)
    with closing(MemcacheClient("127.0.0.1:1", retries=0)) as client, pytest.raises(ServerDown, match=cause):
        client.store([make_batch(RECORDS)])
    assert (client.server.state, client.server.retries) == ("ok", 0)
    assert log.messages == []


# --- who it is ----------------------------------------------------------------------------------


def test_a_server_that_is_still_the_same_has_one_identity(client: MemcacheClient, memcached: MemcachedServer) -> None:
    stored = client.store([make_batch(RECORDS)])
    client.set(b"key", b"value")
    assert stored.identity == client.confirm() == client.confirm() == client.server.identity
    assert stored.identity.pid == memcached.pid
    client.close()
    assert client.confirm() == stored.identity
    assert (client.server.restarts, client.server.flushes) == (0, 0)


def test_a_restart_makes_another_identity(client: MemcacheClient, memcached: MemcachedServer) -> None:
    stored = client.store([make_batch(RECORDS)])
    for restarts in (1, 2):
        memcached.restart()
        now = client.confirm()
        assert stored.identity != now == client.confirm()
        assert stored.identity.loss(now) == "restarted and lost what it had stored"
        assert client.server.restarts == restarts
        stored = client.store([make_batch(RECORDS)])
        assert stored.identity == now


def test_a_restart_is_noticed_even_if_records_were_stored_since(
    client: MemcacheClient, memcached: MemcachedServer
) -> None:
    before = client.store([make_batch(RECORDS)]).identity
    memcached.restart()
    after = client.store([make_batch(RECORDS)]).identity
    assert before != after == client.confirm()
    assert client.server.restarts == 1


def test_a_restart_while_the_client_was_closed_is_noticed(client: MemcacheClient, memcached: MemcachedServer) -> None:
    before = client.confirm()
    client.close()
    memcached.restart()
    assert client.confirm() != before
    assert client.server.restarts == 1


def test_a_restart_before_the_first_request_is_none(client: MemcacheClient, memcached: MemcachedServer) -> None:
    memcached.restart()
    client.confirm()
    assert client.server.restarts == 0


def test_a_flush_makes_another_identity_and_is_no_restart(client: MemcacheClient, memcached: MemcachedServer) -> None:
    stored = client.store([make_batch(RECORDS)])
    memcached.flush()
    now = client.confirm()
    assert stored.identity != now == client.confirm()
    assert stored.identity.loss(now) == "was flushed and lost what it had stored"
    assert (client.server.restarts, client.server.flushes) == (0, 1)
    assert client.store([make_batch(RECORDS)]).identity == now


def test_a_restart_that_neither_pid_nor_start_shows_is_noticed(memcached: MemcachedServer) -> None:
    with Peer(SameProcess(memcached.address)) as peer, closing(MemcacheClient(peer.address)) as client:
        before = client.store([make_batch(RECORDS)]).identity
        assert client.confirm() == before
        client.store([make_batch(RECORDS)])
        memcached.restart()
        after = client.confirm()
        assert before != after == client.confirm()
        assert before.loss(after) == "restarted and lost what it had stored"
        client.store([make_batch(RECORDS * 3)])
        assert client.confirm() == after
        memcached.restart()
        assert client.store([make_batch(RECORDS)]).identity != after
        assert client.server.restarts == 2


def test_connections_to_one_server_find_out_once(memcached: MemcachedServer) -> None:
    server = Server(memcached.address)
    clients = [MemcacheClient(server) for _ in range(3)]
    for client in clients:
        client.store([make_batch(RECORDS)])
    memcached.restart()
    now = [client.confirm() for client in clients]
    assert now == [server.identity] * 3
    memcached.flush()
    clients[0].confirm()
    assert [client.store([make_batch(RECORDS)]).identity for client in clients] == [server.identity] * 3
    assert (server.restarts, server.flushes) == (1, 1)
    for client in clients:
        client.close()


def test_connections_at_work_do_not_take_each_others_records_for_a_restart(memcached: MemcachedServer) -> None:
    server = Server(memcached.address)
    over = threading.Event()

    def store() -> None:
        with closing(MemcacheClient(server)) as client:
            while not over.is_set():
                client.store([make_batch(RECORDS)])

    threads = [threading.Thread(target=store) for _ in range(3)]
    for thread in threads:
        thread.start()
    with closing(MemcacheClient(server)) as client:
        identities = {client.confirm() for _ in range(200)}
    over.set()
    for thread in threads:
        thread.join()
    assert len(identities) == 1
    assert server.restarts == 0


STATS = {b"pid": b"1", b"time": b"100", b"uptime": b"50", b"cmd_set": b"10", b"cmd_flush": b"0", b"curr_items": b"5"}


def learn(server: Server, **changed: int) -> Identity | None:
    changes = {name.encode(): b"%d" % value for name, value in changed.items()}
    return server.learn({**STATS, **changes}, server.sets_acknowledged())


def test_a_request_under_way_at_a_look_may_be_in_it_or_not() -> None:
    server = Server("127.0.0.1:1")
    learn(server)
    begun = server.begin()
    learn(server, cmd_set=40)  # it was stored, and its reply is not here yet
    server.acknowledge(30, begun)
    learn(server, cmd_set=40)
    server.acknowledge(5, server.begin())
    learn(server, cmd_set=45)
    assert server.restarts == 0
    server.acknowledge(5, server.begin())
    learn(server, cmd_set=49)
    assert server.restarts == 1


def test_a_server_that_does_not_count_sets_has_not_restarted_for_ever() -> None:
    server = Server("127.0.0.1:1")
    for _ in range(10):
        learn(server, cmd_set=0)
        server.acknowledge(100, server.begin())
    assert server.restarts <= 2


PROXY_STATS = {b"pid": b"1", b"parent_pid": b"1", b"time": b"100", b"uptime": b"50", b"num_servers": b"1"}  # mcrouter's


@pytest.mark.parametrize(
    "stats",
    [
        {},
        {b"pid": b"1"},
        {b"time": b"1"},
        {**STATS, b"pid": b"x"},
        {**STATS, b"pid": b"1" * 5000},
        {**STATS, b"proxy_conn_requests": b"1"},
        PROXY_STATS,
        {**PROXY_STATS, b"cmd_set": b"10"},
    ],
)
def test_stats_that_do_not_say_whose_they_are_are_none(stats: dict[bytes, bytes]) -> None:
    assert Server("127.0.0.1:1").learn(stats, 0) is None


def test_evictions_are_counted_wherever_they_are_told_and_over_restarts() -> None:
    server = Server("127.0.0.1:1")
    learn(server, evictions=5, extstore_objects_evicted=10)
    assert server.evictions == 0
    learn(server, evictions=6, extstore_objects_evicted=12, slab_reassign_evictions_nomem=4)
    assert server.evictions == 7
    learn(server, pid=2, evictions=3)
    assert (server.restarts, server.evictions) == (1, 10)
    learn(server, pid=2, evictions=3)
    assert server.evictions == 10


def test_what_a_server_evicts_is_counted_from_the_first_request_on() -> None:
    with MemcachedServer.start("-m", "4") as server:
        with closing(MemcacheClient(server.address)) as client:
            for number in range(100):
                client.store([make_batch([(b"%d:%d" % (number, i), b"x" * 10_000) for i in range(10)])])
            client.confirm()
            assert client.server.evictions == stat(server, "evictions") > 0
            for number in range(100):
                client.store([make_batch([(b"again:%d:%d" % (number, i), b"x" * 10_000) for i in range(10)])])
        assert client.server.evictions == stat(server, "evictions") > 1000
        with closing(MemcacheClient(server.address)) as later:
            later.confirm()
        assert later.server.evictions == 0


# --- its hash table -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "advised"), [(1000, 13), (98_304, 16), (98_305, 17), (1_572_864, 20), (2_000_000, 21), (10**12, 32)]
)
def test_a_hash_table_that_has_grown_should_have_been_large_enough(items: int, advised: int) -> None:
    server = Server("127.0.0.1:1")
    learn(server, hash_power_level=16)
    assert server.advised_hash_power is None
    learn(server, hash_power_level=17, hash_is_expanding=1, curr_items=items)
    learn(server, hash_power_level=17, curr_items=3)
    assert server.advised_hash_power == advised


def test_a_hash_table_that_was_already_large_has_not_grown() -> None:
    server = Server("127.0.0.1:1")
    learn(server, hash_power_level=20, curr_items=2_000_000, hash_is_expanding=1)
    learn(server, hash_power_level=20, curr_items=2_000_000)
    learn(server, pid=2, hash_power_level=16)  # a restart makes it small again
    assert server.advised_hash_power is None
    learn(Server("127.0.0.1:1"))
    assert server.advised_hash_power is None


def test_a_real_hash_table_grows() -> None:
    with MemcachedServer.start("-o", "hashpower=13") as memcached, closing(MemcacheClient(memcached.address)) as client:
        client.store([make_batch([(b"k%d" % number, b"v") for number in range(30_000)])])
        deadline = time.monotonic() + 10
        while client.server.advised_hash_power is None:  # memcached looks at it once a second
            assert time.monotonic() < deadline
            time.sleep(0.1)
            client.confirm()
        assert client.server.advised_hash_power == 15
        assert client.server.items == 30_000


# --- what it understands ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FrontEnd, NoMeta, OldMeta, NoStats, Picky, SameProcess])
def test_every_kind_of_server_is_loaded_and_no_value_is_read_as_a_command(
    memcached: MemcachedServer, kind: type[FrontEnd]
) -> None:
    records = [*RECORDS, *COMMANDS]
    before = stat(memcached, "cmd_set")
    with Peer(kind(memcached.address)) as peer, closing(MemcacheClient(peer.address)) as client:
        assert client.store([make_batch(RECORDS), make_batch(COMMANDS)]).refusals == []
        assert client.set(b"alone", b"1") is None
        assert [client.lookup(lookup) for lookup in lookups(records)] == [[]]
        differing = [(b"idfa:0", b"other"), *RECORDS[1:], (b"idfa:missing", b"1")]
        assert [(d.position, d.kind) for lookup in lookups(differing) for d in client.lookup(lookup)] == [
            (0, "different"),
            (100, "missing"),
        ]
        client.confirm()
        assert client.server.speaks_meta == (kind in (FrontEnd, NoStats, SameProcess))
        assert (client.server.retries, client.server.restarts, client.server.state) == (0, 0, "ok")
    with memcached.client() as reader:
        assert reader.get(b"stray") is None
        assert reader.get(b"alone") == b"1"
        assert reader.stats()[b"cmd_set"] - before == len(records) + 1  # and nothing was stored by a probe


def test_a_real_server_understands_all_of_it(client: MemcacheClient, memcached: MemcachedServer) -> None:
    before = stat(memcached, "cmd_set")
    client.confirm()
    assert client.server.speaks_meta
    assert client.server.detects_restarts
    assert client.server.version == memcached_version()
    assert stat(memcached, "cmd_set") == before


def test_what_makes_a_proxy_close_its_connection_is_not_done_twice(
    memcached: MemcachedServer, log: pytest.LogCaptureFixture
) -> None:
    front_end = Picky(memcached.address)
    with Peer(front_end) as peer:
        server = Server(peer.address)
        clients = [MemcacheClient(server) for _ in range(4)]
        threads = [threading.Thread(target=client.store, args=([make_batch(RECORDS)],)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
            client.store([make_batch(RECORDS)])
            client.confirm()
            client.close()
        assert (front_end.seen[b"stats"], front_end.seen[b"ms"]) == (1, 1)
        assert (server.retries, server.restarts, server.detects_restarts) == (0, 0, False)
    assert [message for message in log.messages if "does not report its stats" in message] == log.messages
    assert len(log.messages) == 1


def test_a_server_that_ended_while_it_was_asked_is_no_proxy(memcached: MemcachedServer) -> None:
    with Peer(Picky(memcached.address)) as peer:
        client = MemcacheClient(peer.address, retries=0)
        client.store([make_batch(RECORDS)])
        assert not client.server.detects_restarts
    with pytest.raises(ServerDown, match=r"closed|reset|refused"):
        client.store([make_batch(RECORDS)])
    with pytest.raises(ServerDown, match="refused"):
        client.store([make_batch(RECORDS)])
    with MemcachedServer.start(port=int(peer.address.rpartition(":")[2])):
        client.store([make_batch(RECORDS)])
        assert client.server.detects_restarts
        assert client.server.speaks_meta
    client.close()


def twemproxy(upstream: str, directory: Path) -> AbstractContextManager[str]:
    """Start a twemproxy before a memcached; its address is what it yields."""

    def command(port: int) -> list[str]:
        configuration = directory / "nutcracker.yml"
        configuration.write_text(
            f"alpha:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n"
            f"  servers:\n   - {upstream}:1\n"
        )
        return ["nutcracker", "-c", str(configuration), "-s", str(port + 1), "-o", str(directory / "log")]

    return listening(command)


@pytest.mark.skipif(shutil.which("nutcracker") is None, reason="twemproxy is not installed")
def test_twemproxy_is_loaded(tmp_path: Path, memcached: MemcachedServer) -> None:
    records = [*((b"twem:%d" % number, b"value %d" % number) for number in range(5000)), *COMMANDS]
    with twemproxy(memcached.address, tmp_path) as address, closing(MemcacheClient(address)) as client:
        assert client.store([make_batch(records)]).refusals == []
        assert client.set(b"alone", b"1") is None
        assert {str(client.lookup(lookup)) for lookup in lookups(records)} == {"[]"}
        client.confirm()
        assert (client.server.retries, client.server.restarts) == (0, 0)
        assert (client.server.speaks_meta, client.server.detects_restarts) == (False, False)


@pytest.mark.parametrize("kind", [NoStats, Picky, FrontEnd])
def test_a_proxy_that_closes_idle_connections_has_not_restarted(
    memcached: MemcachedServer, kind: type[FrontEnd]
) -> None:
    with Peer(kind(memcached.address)) as peer, closing(MemcacheClient(peer.address)) as client:
        stored = client.store([make_batch(RECORDS)])
        for _ in range(3):
            peer.close_connections()
            time.sleep(0.05)
            assert client.confirm() == stored.identity
            peer.close_connections()
            time.sleep(0.05)
            assert client.store([make_batch(RECORDS)]).identity == stored.identity
        assert (client.server.retries, client.server.restarts) == (0, 0)
        assert (stored.identity == UNKNOWN) == (kind is not FrontEnd)


def test_a_memcached_that_closes_idle_connections_has_not_restarted() -> None:
    with MemcachedServer.start("-o", "idle_timeout=1") as server, closing(MemcacheClient(server.address)) as client:
        before = client.store([make_batch(RECORDS)]).identity
        deadline = time.monotonic() + 10
        while stat(server, "idle_kicks") == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.confirm() == before
        assert client.server.retries == 0


def test_a_proxy_that_reports_no_stats_hides_restarts(memcached: MemcachedServer) -> None:
    with Peer(NoStats(memcached.address)) as peer, closing(MemcacheClient(peer.address)) as client:
        before = client.store([make_batch(RECORDS)]).identity
        memcached.restart()
        assert client.confirm() == before
        assert not client.server.detects_restarts
        assert client.server.restarts == 0


@pytest.mark.parametrize(
    "stats",
    [
        b"END\r\n",
        b"STAT foo 1\r\nEND\r\n",
        b"STAT pid 1\r\nSTAT time 100\r\nSTAT uptime 50\r\nSTAT num_servers 1\r\nEND\r\n",
        b"STAT pid 1\r\nSTAT time 100\r\nSTAT uptime 50\r\nSTAT proxy_conn_requests 1\r\nEND\r\n",
    ],
    ids=["none", "others", "mcrouter", "memcached"],
)
def test_a_proxy_with_stats_of_its_own_is_loaded(
    memcached: MemcachedServer, log: pytest.LogCaptureFixture, stats: bytes
) -> None:
    with Peer(OwnStats(memcached.address, stats)) as peer, closing(MemcacheClient(peer.address)) as client:
        for _ in range(2):
            assert client.store([make_batch(RECORDS)]) == (UNKNOWN, [])
            assert client.confirm() == UNKNOWN
            client.close()
        assert (client.server.retries, client.server.detects_restarts, client.server.stats) == (0, False, {})
        assert len(log.messages) == 1
        assert "does not report its stats" in log.messages[0]


def test_a_server_that_tells_who_it_is_and_then_does_not_is_tried_again(memcached: MemcachedServer) -> None:
    class Forgetful(FrontEnd):
        def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
            return b"END\r\n" if word == b"stats" and self.seen[b"stats"] in (2, 3) else None

    with Peer(Forgetful(memcached.address)) as peer, closing(MemcacheClient(peer.address)) as client:
        before = client.store([make_batch(RECORDS)]).identity
        assert client.confirm() == before != UNKNOWN
        assert (client.server.detects_restarts, client.server.retries) == (True, 2)


def test_a_number_of_absurd_length_is_no_stats_of_a_memcached(memcached: MemcachedServer) -> None:
    stats = b"STAT pid %b\r\nEND\r\n" % (b"1" * 5000)
    with (
        Peer(OwnStats(memcached.address, stats)) as peer,
        closing(MemcacheClient(peer.address, retries=0)) as client,
        pytest.raises(ServerDown, match="sent a reply line that is too long"),
    ):
        client.store([make_batch(RECORDS)])


class Rude(FrontEnd):
    """A proxy that answers what it does not know with an error, and closes the connection."""

    def __call__(self, sock: socket.socket) -> None:
        self._last = threading.local()
        super().__call__(sock)

    def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
        if getattr(self._last, "was_unknown", False):
            raise Hangup
        self._last.was_unknown = word not in (b"set", b"get", b"version")
        return b"ERROR\r\n" if self._last.was_unknown else None


def test_a_proxy_that_answers_with_an_error_and_closes_is_loaded(memcached: MemcachedServer) -> None:
    with Peer(Rude(memcached.address)) as peer, closing(MemcacheClient(peer.address)) as client:
        for _ in range(3):
            assert client.store([make_batch(RECORDS)]).refusals == []
            client.confirm()
            client.close()
        assert (client.server.retries, client.server.restarts) == (0, 0)
        assert peer.connections <= 5


def test_half_a_reply_to_a_probe_is_a_broken_connection_and_no_sign_of_a_proxy(memcached: MemcachedServer) -> None:
    class Half(FrontEnd):
        def __init__(self, upstream: str, at: bytes) -> None:
            super().__init__(upstream)
            self._at = at
            self._cuts = 2

        def change(self, reply: bytes) -> bytes:
            if reply.startswith(self._at) and self._cuts:
                self._cuts -= 1
                raise Cut(reply[: len(reply) // 2])
            return reply

    for at in (b"STAT uptime", b"CLIENT_ERROR", b"EN"):
        with Peer(Half(memcached.address, at)) as peer, closing(MemcacheClient(peer.address)) as client:
            client.store([make_batch(RECORDS)])
            assert (client.server.retries, client.server.restarts) == (2, 0)
            assert (client.server.speaks_meta, client.server.detects_restarts) == (True, True)


def test_a_server_that_has_reported_its_stats_once_is_not_believed_to_have_none(memcached: MemcachedServer) -> None:
    class Breaking(FrontEnd):
        def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
            return b"ERROR\r\n" if word == b"stats" and self.seen[b"stats"] in (2, 3) else None

    with Peer(Breaking(memcached.address)) as peer, closing(MemcacheClient(peer.address)) as client:
        before = client.store([make_batch(RECORDS)]).identity
        assert client.confirm() == before != UNKNOWN
        assert client.server.detects_restarts
        assert client.server.retries == 2


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (b"ERROR\r\n", "replied ERROR"),
        (b"ERROR Too many open connections\r\n", "has too many connections: raise memcached -c"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "sent a reply that is not memcached's: 'SSH-2.0-OpenSSH_9.2'"),
        (b"x" * 5000, "sent a reply line that is too long"),
        (b"VERSION 1\r\nVERSION 1\r\n", "sent more replies than requests"),
        (b"CLIENT_ERROR unauthenticated\r\n", "wants a password: use --auth-file"),
    ],
)
def test_what_is_no_memcached_is_told_by_its_answer(reply: bytes, cause: str) -> None:
    with Peer(replying(reply)) as peer, closing(MemcacheClient(peer.address, retries=1, timeout=0.5)) as client:
        with pytest.raises(ServerDown) as caught:
            client.set(b"key", b"value")
        assert caught.value.cause == cause
        assert client.server.retries == ("password" not in cause)


def test_the_path_of_a_socket_may_be_anywhere(tmp_path: Path, memcached: MemcachedServer) -> None:
    with (
        Peer(NoMeta(memcached.address), tmp_path / "a b.sock") as peer,
        closing(MemcacheClient(peer.address)) as client,
    ):
        assert client.store([make_batch(RECORDS)]).refusals == []
