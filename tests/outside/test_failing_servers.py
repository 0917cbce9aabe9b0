"""Servers that are down, freeze, run full or come back: a load ends in time, loses nothing and says what was wrong."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.outside.faults import cut, delay, late, trigger
from tests.outside.loading import (
    PARALLEL,
    REFERENCE,
    SMALL_BLOCKS,
    Loader,
    Running,
    both_loaders,
    engines_in_small_blocks,
    in_small_blocks,
    load,
    run,
)
from tests.outside.logs import Inbox, line, log_of_few_devices, make_inbox
from tests.outside.memcached import Servers, addresses, closed_port, contents
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import TYPES, expected
from tests.outside.trials import (
    BEGINNING_OF_SECOND,
    HURRIED,
    MIDDLE,
    PERSISTENT,
    RETRIES,
    assert_all_pending,
    assert_loaded,
    assert_next_load_mends,
    assert_others_are_served,
    hurried_load,
    persistent_load,
)
from tools.servers import MemcachedServer

gone = pytest.mark.parametrize(
    ("loader", "harm"),
    [
        (REFERENCE, MemcachedServer.kill),
        (PARALLEL, MemcachedServer.kill),
        (SMALL_BLOCKS, MemcachedServer.kill),
        (PARALLEL, MemcachedServer.freeze),
        (SMALL_BLOCKS, MemcachedServer.freeze),
    ],
    ids=["reference-killed", "python-killed", "default-killed", "python-frozen", "default-frozen"],
)


@gone
def test_a_server_gone_in_the_middle_leaves_the_files_pending_and_the_others_served(
    inbox: Inbox, servers: Servers, loader: Loader, harm: Callable[[MemcachedServer], None]
) -> None:
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, lambda: harm(servers["idfa"]))) as watch:
        finished = hurried_load(loader, inbox, servers, gaid=watch.address)
    assert_all_pending(finished, inbox)
    assert_others_are_served(finished, inbox)
    assert finished.device("idfa")["stored"] < expected(*inbox.logs).stored["idfa"]
    if servers["idfa"].running:
        servers["idfa"].thaw()
    else:
        servers["idfa"].restart()
    assert_next_load_mends(inbox, servers)


@gone
def test_a_server_gone_in_the_middle_costs_its_retries_once(
    one_file: Inbox, servers: Servers, loader: Loader, harm: Callable[[MemcachedServer], None]
) -> None:
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, lambda: harm(servers["idfa"]))) as watch:
        finished = hurried_load(loader, one_file, servers, gaid=watch.address)
    assert finished.device("idfa")["retries"] == RETRIES


@in_small_blocks
def test_a_server_that_is_not_there_costs_its_retries_once_a_file(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    with closed_port() as nowhere:
        finished = hurried_load(loader, inbox, servers, idfa=nowhere)
    assert_all_pending(finished, inbox)
    assert_others_are_served(finished, inbox)
    assert finished.device("idfa")["stored"] == 0
    assert RETRIES <= finished.device("idfa")["retries"] <= RETRIES * len(inbox.logs)
    assert_next_load_mends(inbox, servers)


@in_small_blocks
def test_a_server_that_was_marked_down_is_left_alone_until_the_next_file(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    with FaultyProxy(servers["idfa"].address, cut(0)) as proxy:
        finished = hurried_load(loader, inbox, servers, idfa=proxy.address)
        assert 1 + RETRIES < proxy.connections <= (1 + RETRIES) * len(inbox.logs)  # there are many more blocks
    assert_all_pending(finished, inbox)


@engines_in_small_blocks
def test_a_server_that_was_marked_down_is_tried_again_at_the_next_file(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    servers["idfa"].kill()
    with FaultyProxy(servers["gaid"].address, trigger(BEGINNING_OF_SECOND, servers["idfa"].restart)) as watch:
        finished = hurried_load(loader, inbox, servers, gaid=watch.address)
    assert_all_pending(finished, inbox)
    assert finished.file("2.tsv.gz")["failed"] == 0
    assert_next_load_mends(inbox, servers)


@in_small_blocks
def test_a_server_that_comes_back_within_the_retries_is_waited_for(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    servers["idfa"].kill()
    with Running(loader, inbox.pattern, *addresses(servers), *PERSISTENT) as running:
        running.wait_for("idfa.*trying again")
        servers["idfa"].restart()
        finished = running.finish()
    assert finished.exit_code == 0
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items


@engines_in_small_blocks
def test_a_server_that_thaws_within_the_retries_gets_no_older_record_after_a_newer(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    for moment in range(3):
        rng = random.Random(moment)
        inbox = make_inbox(tmp_path / str(moment), [log_of_few_devices(rng, moment, devices=2) for _ in range(2)])
        freeze = trigger(rng.randrange(MIDDLE), servers["idfa"].freeze)
        with FaultyProxy(servers["gaid"].address, freeze) as watch:
            options = [*addresses(servers, gaid=watch.address), *PERSISTENT]
            with Running(loader, inbox.pattern, *options) as running:
                running.wait_for("idfa.*trying again")
                servers["idfa"].thaw()
                finished = running.finish()
        assert finished.exit_code == 0
        held = contents(servers)
        assert {key: held[key] for key in expected(*inbox.logs).items} == expected(*inbox.logs).items


@in_small_blocks
def test_what_a_server_reads_late_does_not_overwrite_what_came_after_it(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    between = b"".join(line("gaid", f"device{number}") for number in range(100))  # several blocks
    inbox = make_inbox(tmp_path / "inbox", [line("idfa", apps="1") + between + line("idfa", apps="2")])
    with FaultyProxy(servers["idfa"].address, late(delay(1.0), 30), faulty=1) as proxy:
        finished = persistent_load(loader, inbox, servers, idfa=proxy.address)
        proxy.drain()
    assert finished.device("idfa")["retries"] > 0
    assert_loaded(finished, inbox, servers)


@pytest.fixture
def full_backlog() -> Iterator[str]:
    """An address where something listens, and takes no connection any more."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, contextlib.ExitStack() as clients:
        address = listening.getsockname()
        for _ in range(5):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"


@both_loaders
def test_a_connection_that_does_not_come_about_is_waited_for_no_longer_than_the_user_says(
    one_file: Inbox, servers: Servers, loader: Loader, full_backlog: str
) -> None:
    options = ("--timeout", "60", "--connect-timeout", "0.3", "--retries", "1")
    started = time.monotonic()
    finished = load(loader, one_file.pattern, servers, *options, idfa=full_backlog)
    assert time.monotonic() - started < 20
    assert_all_pending(finished, one_file)
    assert_others_are_served(finished, one_file)


@pytest.fixture
def with_two_addresses(tmp_path: Path) -> Sequence[str]:
    """What runs a command where `localhost` means several addresses, the first of which nothing listens at."""
    found = {address[4][0] for address in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)}
    if len(found) > 1:
        return ()
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 localhost\n127.0.0.2 localhost\n127.0.0.1 localhost\n")
    inner = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", inner, "sh")
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("localhost means one address, and only root may change that")
    return prefix


@both_loaders
def test_every_address_of_a_name_is_tried(
    one_file: Inbox, servers: Servers, loader: Loader, with_two_addresses: Sequence[str]
) -> None:
    port = servers["idfa"].address.rpartition(":")[2]
    options = [*addresses(servers, idfa=f"localhost:{port}"), *HURRIED]
    finished = run(loader, one_file.pattern, *options, prefix=with_two_addresses)
    assert finished.exit_code == 0
    assert contents(servers) == expected(*one_file.logs).items


# --- servers at their limits --------------------------------------------------------------------


def fat_log(records: int) -> bytes:
    """Return records of 1,500 bytes of value each, all of the first device type."""
    apps = ",".join(["9999"] * 500)
    return b"".join(line("idfa", f"fat{number}", apps=apps) for number in range(records))


@engines_in_small_blocks
def test_a_server_out_of_memory_fails_records_and_holds_the_file(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    inbox = make_inbox(tmp_path / "inbox", [fat_log(2000) + log_of_few_devices(random.Random(1), 0)])
    with MemcachedServer.start("-M", "-m", "2") as small:
        finished = hurried_load(loader, inbox, servers, "--block-size", "100000", idfa=small.address)
        with small.client() as client:
            held = client.stats()[b"curr_items"]
    assert_all_pending(finished, inbox)
    assert_others_are_served(finished, inbox)
    assert finished.device("idfa")["failed"] > 100
    assert 0 < held <= finished.device("idfa")["stored"]
    assert [text for text in finished.messages("W") if "out of memory" in text] != []
    assert_next_load_mends(inbox, servers)


@in_small_blocks
def test_evicted_items_are_counted_and_warned_about_once(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    inbox = make_inbox(tmp_path / "inbox", [fat_log(1500), fat_log(1500)])
    with MemcachedServer.start("-m", "2") as small:
        finished = hurried_load(loader, inbox, servers, idfa=small.address)
        with small.client() as client:
            evictions = client.stats()[b"evictions"]
    assert finished.exit_code == 0
    assert evictions > 100
    assert {name: finished.report["devices"][name]["evictions"] for name in TYPES} == {
        "idfa": evictions,
        **dict.fromkeys(TYPES[1:], 0),
    }
    (warning,) = (text for text in finished.messages("W") if "evicted" in text)
    assert small.address in warning
    assert f"{evictions} items" in warning
    assert "memcached -m" in warning  # what to do about it


@both_loaders
def test_what_was_evicted_before_the_run_is_not_counted(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    fat = make_inbox(tmp_path / "fat", [fat_log(1500)])
    thin = make_inbox(tmp_path / "thin", [line("idfa")])
    with MemcachedServer.start("-m", "2") as small:
        before = hurried_load(loader, fat, servers, idfa=small.address)
        finished = hurried_load(loader, thin, servers, idfa=small.address)
    assert before.device("idfa")["evictions"] > 100
    assert finished.device("idfa")["evictions"] <= 1  # the one record may have needed the room of another


@in_small_blocks
def test_a_server_with_too_many_connections_is_one_that_does_not_answer(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    with MemcachedServer.start("-t", "1", "-c", "20", "-o", "maxconns_fast") as busy, contextlib.ExitStack() as held:
        host, port = busy.address.split(":")
        reply = b"VERSION"
        while reply.startswith(b"VERSION"):
            connection = held.enter_context(socket.create_connection((host, int(port)), timeout=5))
            connection.sendall(b"version\r\n")
            reply = connection.recv(100)
        finished = hurried_load(loader, inbox, servers, idfa=busy.address)
        assert_all_pending(finished, inbox)
        assert_others_are_served(finished, inbox)
        assert [text for text in finished.messages("WE") if "too many connections" in text] != []
    assert_next_load_mends(inbox, servers)
