"""Connections: a request goes out while its reply comes in, in time, whatever the other end does."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from memc_client import MemcacheClient, ServerDown
from memcload.cancel import Cancel
from memcload.memcached.address import parse_address
from memcload.memcached.deadline import Deadline, Stopped
from memcload.memcached.protocol import BadReply
from memcload.memcached.replies import BatchReply, OneLine, SetReplies
from memcload.memcached.transport import Channel, Closed
from tests.inside.peers import FrontEnd, Peer, Talk, replying
from tests.inside.test_batch import make_batch
from tools.servers import MemcachedServer

RECORDS = [(b"idfa:%d" % number, b"value %d" % number) for number in range(100)]
PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
DESCRIPTORS = Path("/proc/self/fd")

# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:33013", ("127.0.0.1", 33013)),
        ("localhost:1", ("localhost", 1)),
        ("memcached-1.example.com:65535", ("memcached-1.example.com", 65535)),
        ("memc_idfa:11211", ("memc_idfa", 11211)),
        ("[::1]:11211", ("::1", 11211)),
        ("[2001:db8::8a2e:370:7334]:11211", ("2001:db8::8a2e:370:7334", 11211)),
        ("[::ffff:127.0.0.1]:11211", ("::ffff:127.0.0.1", 11211)),
        ("[fe80::1%eth0]:11211", ("fe80::1%eth0", 11211)),
        ("[fe80::1%eth0.100]:11211", ("fe80::1%eth0.100", 11211)),
        ("[fe80::1%br-lan]:11211", ("fe80::1%br-lan", 11211)),
        ("unix:/run/memcached.sock", "/run/memcached.sock"),
        ("unix:/run/a b:1.sock", "/run/a b:1.sock"),
    ],
)
def test_an_address_is_a_host_with_a_port_or_a_path(address: str, parsed: object) -> None:
    assert parse_address(address) == parsed


NO_ADDRESSES = [
    *["", "host", "host:", ":11211", ":", "11211", "host:0", "host:65536", "host:99999", "host:123456", "host:-1"],
    *["host:x", "host:1x", "host:0x1", "host: 1", "host:1 ", " host:1", "ho st:1", "host:1\n", "host:1:2"],
    *["host:\u0663", "::1:11211", "::1", "[::1]", "[::1]:", "[::1]11211", "[]:1", "[::zz]:1", "[127.0.0.1]:1"],
    *["[1::2::3]:1", "unix", "unix:", "unix:run/memcached.sock", "http://host:1", "host/path:1", "tcp:host:1"],
    *["a..b:11211", ".a:11211", f"{'x' * 64}.example.com:11211"],
]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(address))) as caught:
        parse_address(address)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(repr(address))):
        MemcacheClient(address)


def test_a_host_that_can_not_be_found_is_named() -> None:
    address = "no-such-host.invalid:11211"
    with (
        closing(MemcacheClient(address, retries=0)) as client,
        pytest.raises(ServerDown, match=f"^{address}: can't resolve its name"),
    ):
        client.confirm()


@pytest.fixture
def slow_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that takes its time."""
    over = threading.Event()
    real = socket.getaddrinfo

    def resolve(host: str, *rest: int, **more: int) -> object:
        if host == "slow.example":
            over.wait(20)
        return real("127.0.0.1" if host == "slow.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield
    over.set()


@pytest.mark.usefixtures("slow_resolver")
def test_a_name_is_looked_up_within_the_time_for_connecting() -> None:
    with closing(MemcacheClient("slow.example:1", retries=0, connect_timeout=0.3)) as client:
        started = time.monotonic()
        with pytest.raises(ServerDown, match=r"timed out after 0\.3 s while resolving its name"):
            client.confirm()
        assert 0.3 <= time.monotonic() - started < 1


@pytest.mark.usefixtures("slow_resolver")
def test_a_lookup_of_a_name_ends_when_the_run_is_cancelled() -> None:
    cancel = Cancel()
    threading.Timer(0.2, cancel.set).start()
    with closing(MemcacheClient("slow.example:1", timeout=0.1, connect_timeout=30, cancel=cancel)) as client:
        started = time.monotonic()
        with pytest.raises(ServerDown, match="stopped"):
            client.confirm()
        assert time.monotonic() - started < 1


@pytest.mark.usefixtures("slow_resolver")
def test_a_numeric_address_needs_no_resolver(servers: dict[str, MemcachedServer]) -> None:
    threads = threading.active_count()
    with closing(MemcacheClient(servers["idfa"].address)) as client:
        client.confirm()
        assert threading.active_count() == threads


@pytest.mark.skipif(not PORTS.exists(), reason="only Linux tells which ports it hands out to clients")
def test_a_port_on_which_only_the_client_itself_would_listen_refuses() -> None:
    low, high = map(int, PORTS.read_text().split())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert low <= port <= high
    with closing(MemcacheClient(f"127.0.0.1:{port}", retries=0)) as client:
        for _ in range(200):
            with pytest.raises(ServerDown, match="connection refused"):
                client.confirm()


# --- one exchange -------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_a_request_of_many_buffers_arrives_whole(pair: Pair) -> None:
    buffers = [bytes([number % 251]) * (number % 7) for number in range(5000)] + [bytes(3_000_000), b"end"]
    expected = b"".join(buffers)
    received = bytearray()

    def read() -> None:
        while len(received) < len(expected):
            received.extend(pair[1].recv(100_000))
        pair[1].sendall(b"MN\r\n")

    thread = threading.Thread(target=read)
    thread.start()
    made = []

    def buffers_when_needed() -> Iterator[bytes]:
        for buffer in buffers:
            made.append(buffer)
            yield buffer

    assert Channel(pair[0], 5).exchange(buffers_when_needed(), BatchReply(1)) == []
    thread.join()
    assert received == expected


def test_buffers_are_made_no_sooner_than_they_are_needed(pair: Pair) -> None:
    made = []

    def buffers() -> Iterator[bytes]:
        for _ in range(1000):
            made.append(1)
            yield bytes(1 << 20)

    with pytest.raises(TimeoutError):
        Channel(pair[0], 0.2).exchange(buffers(), BatchReply(1))
    assert len(made) < 10


def test_replies_are_read_while_the_request_is_sent(pair: Pair) -> None:
    """The other end reads nothing more until its own replies are read."""
    count, refusal = 400_000, b"SERVER_ERROR out of memory storing object\r\n"

    def serve() -> None:
        for _ in range(count // 1000):
            remaining = 100_000
            while remaining:
                remaining -= len(pair[1].recv(remaining))
            pair[1].sendall(refusal * 1000)
        pair[1].sendall(b"MN\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    batch = (bytes(100_000) for _ in range(count // 1000))
    assert sum(Channel(pair[0], 5).exchange(batch, BatchReply(count))) == count
    thread.join()


def test_a_timeout_counts_from_the_last_progress_in_sending(pair: Pair) -> None:
    def read_slowly() -> None:
        for _ in range(8):
            time.sleep(0.1)
            pair[1].recv(1 << 20)

    request = [bytes(5_000_000)]
    thread = threading.Thread(target=read_slowly)
    thread.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^timed out after 0\.3 s$"):
        Channel(pair[0], 0.3).exchange(request, BatchReply(1))
    assert 0.7 < time.monotonic() - started < 3
    thread.join()


def test_a_reply_has_to_be_whole_in_time_however_steadily_it_comes(pair: Pair) -> None:
    over = threading.Event()

    def dribble() -> None:
        pair[1].recv(100)
        while not over.wait(0.02):
            pair[1].sendall(b"x")

    thread = threading.Thread(target=dribble)
    thread.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        Channel(pair[0], 0.3).exchange([b"stats\r\n"], OneLine())
    assert 0.3 <= time.monotonic() - started < 1
    over.set()
    thread.join()


def test_a_cancelled_run_leaves_a_request_the_time_of_one_timeout(pair: Pair) -> None:
    cancel = Cancel()
    over = threading.Event()

    def read_steadily() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.02):
                pair[1].recv(200_000)

    thread = threading.Thread(target=read_steadily)
    thread.start()
    started = time.monotonic()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Stopped):
        Channel(pair[0], 0.3, cancel).exchange((bytes(100_000) for _ in range(1000)), BatchReply(1))
    assert 0.5 <= time.monotonic() - started < 1
    over.set()
    pair[0].close()
    thread.join()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"MN\r\nMN\r\n", BadReply),
        (b"x" * 10_000, BadReply),
        (b"ERROR\r\n" * 10, BadReply),
        (b"MN", Closed),
        (b"", Closed),
    ],
)
def test_a_wrong_reply_is_an_error(pair: Pair, reply: bytes, error: type[Exception]) -> None:
    pair[1].sendall(reply)
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        Channel(pair[0], 1).exchange([b"mn\r\n"], BatchReply(3))


def test_a_reply_before_its_request_is_an_error(pair: Pair) -> None:
    pair[1].sendall(b"STORED\r\n")
    with pytest.raises(BadReply, match="before the request was complete"):
        Channel(pair[0], 1).exchange([bytes(10_000_000)], SetReplies(1))


def test_the_last_words_of_a_server_count_more_than_a_broken_pipe(pair: Pair) -> None:
    pair[1].sendall(b"HELLO\r\n")
    pair[1].close()
    with pytest.raises(BadReply, match="HELLO"):
        Channel(pair[0], 1).exchange([bytes(10_000_000)], SetReplies(1))


def test_a_channel_is_stale_once_the_other_end_has_closed(pair: Pair) -> None:
    channel = Channel(pair[0], 1)
    assert not channel.is_stale()
    pair[1].sendall(b"MN\r\n")
    with pytest.raises(BadReply):
        channel.is_stale()
    pair[1].close()
    assert channel.is_stale()


def test_a_deadline_is_extended_by_progress_and_cut_by_a_cancel() -> None:
    cancel = Cancel()
    deadline = Deadline(10, 0.1, cancel)
    assert 9 < deadline.remaining <= 10
    time.sleep(0.05)
    deadline.extend()
    assert 9.99 < deadline.remaining <= 10
    cancel.set()
    assert 0 < deadline.check() <= 0.1
    time.sleep(0.12)
    with pytest.raises(Stopped):
        deadline.check()


# --- a client and the other end -----------------------------------------------------------------


def silent(sock: socket.socket) -> None:
    while sock.recv(1 << 16):
        pass


def endless(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    while True:
        sock.sendall(b"STAT x y\r\n" * 1000)


def babble(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"x" * 1000)


@pytest.mark.parametrize("talk", [silent, endless, babble, replying(b"VERSION 1\r\n")])
def test_no_server_keeps_a_client_longer_than_its_time(talk: Talk) -> None:
    with Peer(talk) as peer, closing(MemcacheClient(peer.address, timeout=0.3, retries=1)) as client:
        started = time.monotonic()
        with pytest.raises(ServerDown):
            client.store([make_batch(RECORDS)])
        assert time.monotonic() - started < 3
        assert client.server.retries == 1


REQUESTS: list[Callable[[MemcacheClient], object]] = [
    lambda client: client.store([make_batch(RECORDS)]),
    lambda client: client.set(b"key", b"value"),
    lambda client: client.confirm(),
]


@pytest.mark.parametrize("request_of", REQUESTS, ids=["store", "set", "confirm"])
@pytest.mark.parametrize("connected", [False, True])
def test_a_frozen_server_holds_a_cancelled_run_for_no_longer_than_one_timeout(
    servers: dict[str, MemcachedServer], request_of: Callable[[MemcacheClient], object], connected: bool
) -> None:
    cancel = Cancel()
    server = servers["idfa"]
    with closing(MemcacheClient(server.address, timeout=0.5, connect_timeout=9, retries=99, cancel=cancel)) as client:
        if connected:
            request_of(client)
        server.freeze()
        threading.Timer(1.2, cancel.set).start()  # in one of the retries
        started = time.monotonic()
        with pytest.raises(ServerDown):
            request_of(client)
        assert 1.2 <= time.monotonic() - started < 1.2 + 0.5 + 0.5
        assert client.server.state == "retrying"
    server.thaw()


def test_nothing_is_tried_again_after_a_cancel(servers: dict[str, MemcachedServer]) -> None:
    cancel = Cancel()
    with Peer(lambda sock: None) as peer, closing(MemcacheClient(peer.address, retries=99, cancel=cancel)) as client:
        threading.Timer(1.0, cancel.set).start()
        with pytest.raises(ServerDown):
            client.confirm()
        assert cancel.requested_at is not None
        assert time.monotonic() - cancel.requested_at < 0.3
        retries = client.server.retries
        with pytest.raises(ServerDown):
            client.confirm()
        assert client.server.retries == retries


def test_many_refusals_do_not_block_a_unix_socket(tmp_path: Path) -> None:
    count = 400_000
    with (
        MemcachedServer.start("-M", "-m", "2", socket=tmp_path / "memcached.sock") as server,
        closing(MemcacheClient(server.address)) as client,
    ):
        number = 0
        while not client.set(b"fill:%d" % number, bytes(200_000)) or not client.set(b"f:%d" % number, bytes(60)):
            number += 1
        refusals = client.store([make_batch([(b"gaid:%d" % number, bytes(60)) for number in range(count)])]).refusals
        assert [refusal.position for refusal in refusals[:3]] == [0, 1, 2]
        assert len(refusals) == count
        assert not any(refusal.too_large for refusal in refusals)
        assert client.server.retries == 0


def test_what_an_old_connection_still_holds_is_read_before_newer_records_are_sent(
    servers: dict[str, MemcachedServer],
) -> None:
    class Late(FrontEnd):
        def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
            if word == b"ms" and self.seen[b"ms"] == 2:  # the first record; the probe was before it
                time.sleep(0.6)
            return None

    with Peer(Late(servers["idfa"].address)) as peer, closing(MemcacheClient(peer.address, timeout=0.4)) as client:
        client.store([make_batch([(b"key", b"old")])])
        client.store([make_batch([(b"key", b"new")])])
        assert client.server.retries > 0
    with servers["idfa"].client() as reader:
        assert reader.get(b"key") == b"new"


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="only Linux shows the open files of a process")
def test_no_socket_is_left_open(servers: dict[str, MemcachedServer]) -> None:
    gc.collect()
    before = len(list(DESCRIPTORS.iterdir()))
    for talk in (silent, replying(b"ERROR\r\n"), replying(b"VERSION 1\r\n", b"ERROR\r\n", b"x\r\n"), lambda sock: None):
        with (
            Peer(talk) as peer,
            closing(MemcacheClient(peer.address, timeout=0.1, retries=1)) as client,
            pytest.raises(ServerDown),
        ):
            client.store([make_batch(RECORDS)])
    gc.collect()
    assert len(list(DESCRIPTORS.iterdir())) == before
