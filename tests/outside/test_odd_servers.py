"""Servers that are old, or proxies, or full, or hard to find: nothing is lost, and nothing is told that is not so."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside.faults import (
    AnswersAndCloses,
    ClosesOnUnknown,
    KnowsNoMeta,
    OldMeta,
    TellsNoStats,
    counting_evictions_as,
    trigger,
)
from tests.outside.loading import DEFAULT, PARALLEL, REFERENCE, Loader, Running, all_loaders, in_small_blocks, load
from tests.outside.logs import Inbox, line, make_inbox, numbered
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.proxy import Fault, FaultyProxy, NewFault
from tests.outside.spec import TYPES, expected
from tests.outside.trials import MIDDLE, assert_all_pending, assert_loaded, hurried_load, persistent_load
from tools.servers import FREE_PORTS, MemcachedServer

QUITS = line("idfa", "quits", lat="4.969131003449048e-05")
both_engines = pytest.mark.parametrize("loader", [PARALLEL, DEFAULT], ids=["python", "default"])


def test_the_line_that_quits_does() -> None:
    assert b"\nquit\r\n" in struct.pack("<d", 4.969131003449048e-05)


@in_small_blocks
@pytest.mark.parametrize("kind", [Fault, KnowsNoMeta, ClosesOnUnknown, OldMeta, AnswersAndCloses, TellsNoStats])
def test_no_server_reads_a_value_as_a_command(tmp_path: Path, servers: Servers, loader: Loader, kind: NewFault) -> None:
    log = numbered(300) + QUITS + numbered(300, prefix="after")
    inbox = make_inbox(tmp_path / "inbox", [log, QUITS * 3])
    with contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(FaultyProxy(servers[name].address, kind)) for name in TYPES}
        where = {name: proxy.address for name, proxy in proxies.items()}
        finished = hurried_load(loader, inbox, servers, **where)
        made = [proxy.connections for proxy in proxies.values()]
    assert_loaded(finished, inbox, servers)
    for name in TYPES:
        assert (finished.device(name)["retries"], finished.device(name)["restarts"]) == (0, 0)
    assert max(made) <= 3  # what makes a proxy close its connection is not tried twice


# --- proxies ------------------------------------------------------------------------------------


@contextlib.contextmanager
def twemproxy(servers: Servers, directory: Path) -> Iterator[dict[str, str]]:
    """Start a twemproxy with a pool for each server; give the addresses of the pools."""
    program = shutil.which("nutcracker")
    if program is None:
        pytest.skip("twemproxy is not installed")
    *ports, stats = random.sample(FREE_PORTS, len(TYPES) + 1)
    where = {name: f"127.0.0.1:{port}" for name, port in zip(TYPES, ports, strict=True)}
    (directory / "nutcracker.yml").write_text(
        "".join(
            f"{name}:\n  listen: {where[name]}\n  hash: fnv1a_64\n  distribution: ketama\n"
            f"  servers:\n   - {servers[name].address}:1\n"
            for name in TYPES
        )
    )
    command = [program, "-c", str(directory / "nutcracker.yml"), "-s", str(stats), "-o", str(directory / "log")]
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + 10
            for port in ports:
                while process.poll() is None and time.monotonic() < deadline:
                    with contextlib.suppress(OSError):
                        socket.create_connection(("127.0.0.1", port)).close()
                        break
                    time.sleep(0.05)
            if process.poll() is not None:
                pytest.skip("twemproxy does not start here")
            yield where
        finally:
            process.kill()


@all_loaders
def test_twemproxy_is_loaded(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    inbox = make_inbox(tmp_path / "inbox", [numbered(3000) + QUITS, numbered(400, prefix="second")])
    with twemproxy(servers, tmp_path) as where:
        finished = load(loader, inbox.pattern, servers, **where)
    assert_loaded(finished, inbox, servers)
    for name in TYPES:
        (server,) = finished.device(name)["servers"]
        assert (server["retries"], server["restarts"], server["detects_restarts"]) == (0, 0, False)
        assert len([text for text in finished.messages("W") if "stats" in text and where[name] in text]) == 1


@in_small_blocks
@pytest.mark.parametrize("kind", [Fault, TellsNoStats, ClosesOnUnknown])
def test_a_proxy_that_closes_idle_connections_is_no_server_that_restarted(
    tmp_path: Path, servers: Servers, loader: Loader, kind: NewFault
) -> None:
    between = numbered(400, types=["gaid"])
    log = numbered(20, types=["idfa"]) + between + numbered(20, types=["idfa"], prefix="more")
    inbox = make_inbox(tmp_path / "inbox", [log, between])
    with FaultyProxy(servers["idfa"].address, kind, idle=0.1) as proxy:
        finished = hurried_load(loader, inbox, servers, "--max-rate", "800", idfa=proxy.address)
        assert proxy.connections > 1
    assert_loaded(finished, inbox, servers)
    assert (finished.device("idfa")["retries"], finished.device("idfa")["restarts"]) == (0, 0)


# --- what servers count, and forget -------------------------------------------------------------


@pytest.mark.parametrize("name", [b"extstore_objects_evicted", b"slab_reassign_evictions_nomem"])
@both_engines
def test_evictions_are_told_by_whatever_name_they_are_counted(
    tmp_path: Path, servers: Servers, loader: Loader, name: bytes
) -> None:
    fat = b"".join(line("idfa", f"fat{n}", apps=",".join(["9999"] * 500)) for n in range(2000))
    inbox = make_inbox(tmp_path / "inbox", [fat])
    with (
        MemcachedServer.start("-m", "2") as small,
        FaultyProxy(small.address, counting_evictions_as(name)) as proxy,
    ):
        finished = load(loader, inbox.pattern, servers, idfa=proxy.address)
        with small.client() as client:
            evictions = client.stats()[b"evictions"]
    assert evictions > 100
    assert finished.device("idfa")["evictions"] == evictions
    assert len([text for text in finished.messages("W") if "evicted" in text and proxy.address in text]) == 1


@in_small_blocks
def test_a_server_that_was_flushed_gets_its_records_again(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    log = numbered(200, types=["idfa"]) + numbered(600, types=["gaid"])
    inbox = make_inbox(tmp_path / "inbox", [log, numbered(10, prefix="second")])
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, servers["idfa"].flush)) as watch:
        finished = persistent_load(loader, inbox, servers, gaid=watch.address)
    if "--block-size" in loader:
        assert_loaded(finished, inbox, servers)
    else:  # the reference loads nothing twice in one run
        assert_all_pending(finished, inbox)
        assert load(loader, inbox.pattern, servers).exit_code == 0
        assert contents(servers) == expected(*inbox.logs).items
    assert finished.says("flushed", "W")
    assert finished.device("idfa")["restarts"] == 0


@pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])
def test_a_hash_table_that_grew_is_told_about_once_with_what_spares_it(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    log = numbered(8000, types=["idfa"])  # beyond 6,144 such a table grows, within a second
    inbox = make_inbox(tmp_path / "inbox", [log, numbered(4000, types=["idfa"], prefix="more")])
    with MemcachedServer.start("-t", "1", "-o", "hashpower=12") as small:
        finished = load(loader, inbox.pattern, servers, "--max-rate", "4500", idfa=small.address)
        again = load(loader, inbox.pattern, servers, "--again", idfa=small.address)
    (told,) = [text for text in finished.messages() if "hashpower" in text]
    assert small.address in told
    assert "-o hashpower=13" in told  # enough for 12,288 items
    assert not again.says("hashpower")


@both_engines
def test_many_refusals_over_a_unix_socket_block_nothing(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    inbox = make_inbox(tmp_path / "inbox", [numbered(60_000, types=["idfa"])])
    with MemcachedServer.start("-M", "-m", "2", socket=tmp_path / "socket") as full:
        finished = load(loader, inbox.pattern, servers, idfa=full.address)
    assert_all_pending(finished, inbox)
    assert finished.file("0.tsv.gz")["reason"] == "records_failed"
    assert "out of memory" in finished.file("0.tsv.gz")["detail"]
    assert finished.device("idfa")["failed"] > 20_000
    assert finished.device("idfa")["retries"] == 0
    assert not finished.says("timed out")


# --- names --------------------------------------------------------------------------------------


@pytest.fixture
def slow_names(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Give what runs a command in a system whose resolver never answers."""
    nameserver = ".".join(["127", *(str(random.randint(2, 250)) for _ in range(3))])
    (tmp_path / "resolv.conf").write_text(f"nameserver {nameserver}\noptions timeout:30 attempts:5\n")
    prefix = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')
    silent = (*prefix, str(tmp_path / "resolv.conf"))
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root can take the resolver away")
    if subprocess.run([*silent, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the resolver can't be taken away here")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        try:
            resolver.bind((nameserver, 53))
        except OSError as error:
            pytest.skip(f"no resolver can be put here: {error}")
        yield silent


@all_loaders
def test_a_name_is_looked_up_within_the_time_for_connecting(
    one_file: Inbox, servers: Servers, loader: Loader, slow_names: tuple[str, ...]
) -> None:
    where = [*addresses(servers, idfa="cache.example.com:11211"), "--connect-timeout", "0.5", "--retries", "1"]
    started = time.monotonic()
    with Running(loader, one_file.pattern, *where, prefix=slow_names) as running:
        finished = running.finish()
    assert time.monotonic() - started < 15
    assert finished.exit_code == 1
    assert finished.says("cache.example.com", "E")
    assert one_file.waiting() == ["0.tsv.gz"]


@all_loaders
def test_a_signal_does_not_wait_for_a_name(
    one_file: Inbox, servers: Servers, loader: Loader, slow_names: tuple[str, ...]
) -> None:
    where = [*addresses(servers, idfa="cache.example.com:11211"), "--connect-timeout", "100", "--timeout", "1"]
    with Running(loader, one_file.pattern, *where, prefix=slow_names) as running:
        running.wait_for("Processing")
        time.sleep(0.5)
        running.send(signal.SIGTERM)
        running.process.wait(6)  # the timeout and two seconds, and three more for a busy machine
        assert running.finish().exit_code == 143
    assert one_file.waiting() == ["0.tsv.gz"]
