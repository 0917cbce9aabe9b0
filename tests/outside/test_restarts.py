"""A server that goes or restarts has lost what it had acknowledged: that is noticed, whenever it happens.

Every device is in its log once, so that no later record hides what was lost.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.faults import KnowsNoMeta, SamePid, at, every, held_until, trigger
from tests.outside.loading import (
    PARALLEL,
    REFERENCE,
    SMALL_BLOCKS,
    Loader,
    engines_in_small_blocks,
    in_small_blocks,
    load,
)
from tests.outside.logs import Inbox, line, make_inbox, numbered
from tests.outside.memcached import Servers
from tests.outside.proxy import Fault, FaultyProxy, NewFault
from tests.outside.spec import expected
from tests.outside.trials import (
    MIDDLE,
    assert_all_pending,
    assert_loaded,
    assert_next_load_mends,
    hurried_load,
    persistent_load,
    wait_until,
)
from tools.servers import MemcachedServer

AFTER_THE_LAST = 20_000  # bytes of requests for gaid: by then idfa has acknowledged all, several queues ago
lost = pytest.mark.parametrize(
    ("loader", "harm"),
    [
        (loader, harm)
        for loader in (REFERENCE, PARALLEL, SMALL_BLOCKS)
        for harm in (MemcachedServer.kill, MemcachedServer.freeze)
    ],
    ids=[f"{loader}-{harm}" for loader in ("reference", "python", "default") for harm in ("killed", "frozen")],
)


@pytest.fixture
def mixed(tmp_path: Path) -> Inbox:
    """One log with all device types from its beginning to its end."""
    return make_inbox(tmp_path / "inbox", [numbered(600)])


@pytest.fixture
def idfa_first(tmp_path: Path) -> Inbox:
    """One log that begins with all its records for idfa; those for gaid follow."""
    log = numbered(100, types=["idfa"]) + b"rejected\n" + numbered(600, types=["gaid"])
    return make_inbox(tmp_path / "inbox", [log])


# --- servers that are gone ----------------------------------------------------------------------


@lost
def test_a_server_that_is_gone_after_its_last_record_leaves_the_file_pending(
    idfa_first: Inbox, servers: Servers, loader: Loader, harm: Callable[[MemcachedServer], None]
) -> None:
    with FaultyProxy(servers["gaid"].address, trigger(AFTER_THE_LAST, lambda: harm(servers["idfa"]))) as watch:
        finished = hurried_load(loader, idfa_first, servers, gaid=watch.address)
    assert_all_pending(finished, idfa_first)
    assert finished.says(servers["idfa"].address, "E")
    if servers["idfa"].running:
        servers["idfa"].thaw()
    else:
        servers["idfa"].restart()
    assert_next_load_mends(idfa_first, servers)


# --- one restart --------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["in the middle", "after the last record"])
def test_the_reference_leaves_the_file_of_a_server_that_restarted_pending(
    tmp_path: Path, servers: Servers, moment: str
) -> None:
    first, more = numbered(100, types=["idfa"]), numbered(100, types=["idfa"], prefix="more")
    between = numbered(600, types=["gaid"])
    inbox = make_inbox(tmp_path / "inbox", [first + between + (more if moment == "in the middle" else b"")])
    with FaultyProxy(servers["gaid"].address, trigger(AFTER_THE_LAST, servers["idfa"].restart)) as watch:
        finished = persistent_load(REFERENCE, inbox, servers, gaid=watch.address)
    assert_all_pending(finished, inbox)
    assert finished.device("idfa")["restarts"] == 1
    assert finished.says("restarted", "WE")
    assert_next_load_mends(inbox, servers)


@pytest.mark.parametrize("through", [Fault, KnowsNoMeta])
@engines_in_small_blocks
def test_a_server_that_restarts_in_the_middle_gets_the_records_of_that_file_again(
    mixed: Inbox, servers: Servers, loader: Loader, through: NewFault
) -> None:
    restart = trigger(MIDDLE, servers["idfa"].restart)
    with (
        FaultyProxy(servers["idfa"].address, through) as proxy,
        FaultyProxy(servers["gaid"].address, restart) as watch,
    ):
        finished = persistent_load(loader, mixed, servers, idfa=proxy.address, gaid=watch.address)
    assert_loaded(finished, mixed, servers)
    assert finished.device("idfa")["restarts"] == 1
    assert finished.says("restarted", "W")


@pytest.mark.parametrize("through", [Fault, KnowsNoMeta])
@engines_in_small_blocks
def test_a_server_that_restarts_after_its_last_record_of_the_file_is_noticed(
    idfa_first: Inbox, servers: Servers, loader: Loader, through: NewFault
) -> None:
    restart = trigger(AFTER_THE_LAST, servers["idfa"].restart)
    with (
        FaultyProxy(servers["idfa"].address, through) as proxy,
        FaultyProxy(servers["gaid"].address, restart) as watch,
    ):
        finished = persistent_load(loader, idfa_first, servers, idfa=proxy.address, gaid=watch.address)
    assert_loaded(finished, idfa_first, servers)
    assert finished.device("idfa")["restarts"] == 1
    (rejects,) = idfa_first.directory.glob("*.rejects.tsv*")
    assert rejects.read_bytes() == expected(*idfa_first.logs).rejects_file  # each once, though loaded twice


@in_small_blocks
def test_a_server_that_restarts_as_a_process_of_the_same_number_is_noticed(
    idfa_first: Inbox, servers: Servers, loader: Loader
) -> None:
    wait_until(lambda: uptime(servers["idfa"]) >= 3)  # stats tell the start to the second
    restart = trigger(AFTER_THE_LAST, servers["idfa"].restart)
    with (
        FaultyProxy(servers["idfa"].address, SamePid) as proxy,
        FaultyProxy(servers["gaid"].address, restart) as watch,
    ):
        finished = persistent_load(loader, idfa_first, servers, idfa=proxy.address, gaid=watch.address)
    assert finished.device("idfa")["restarts"] == 1
    if loader is REFERENCE:
        assert_all_pending(finished, idfa_first)
    else:
        assert_loaded(finished, idfa_first, servers)


def uptime(server: MemcachedServer) -> int:
    with server.client() as client:
        return int(client.stats()[b"uptime"])


# --- several restarts, several files ------------------------------------------------------------


@engines_in_small_blocks
def test_two_restarts_during_one_file_are_both_noticed(idfa_first: Inbox, servers: Servers, loader: Loader) -> None:
    restarts = every(25_000, servers["idfa"].restart, most=2)  # the second while the file is loaded again
    with FaultyProxy(servers["gaid"].address, restarts) as watch:
        finished = persistent_load(loader, idfa_first, servers, gaid=watch.address)
    assert_loaded(finished, idfa_first, servers)
    assert finished.device("idfa")["restarts"] == 2


@in_small_blocks
def test_a_server_that_restarts_for_ever_ends_the_load_and_leaves_the_file_pending(
    idfa_first: Inbox, servers: Servers, loader: Loader
) -> None:
    with FaultyProxy(servers["gaid"].address, every(25_000, servers["idfa"].restart)) as watch:
        finished = hurried_load(loader, idfa_first, servers, gaid=watch.address)
    assert_all_pending(finished, idfa_first)
    assert_next_load_mends(idfa_first, servers)


@engines_in_small_blocks
def test_a_restart_while_several_files_are_open_loads_them_again_in_their_order(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    def log(file: int) -> bytes:
        own = numbered(4, types=["idfa", "gaid"], prefix=f"file{file}-")
        return line(apps=f"{file}") + own + b"rejected\n" * (file + 1) + line("adid", apps=f"{file}")

    logs = [line("dvid") + log(0), log(1), log(2), log(3) + line("gaid", "last")]
    inbox = make_inbox(tmp_path / "inbox", logs)
    is_restarted = threading.Event()

    def restart() -> None:
        wait_until(lambda: items(servers["idfa"]) >= 7)  # all that the files before the last have for it
        servers["idfa"].restart()
        is_restarted.set()

    with (
        FaultyProxy(servers["dvid"].address, held_until(is_restarted, seconds=1)) as brake,  # for the first file
        FaultyProxy(servers["gaid"].address, at(b"gaid:last", restart)) as watch,
    ):
        options = ("--workers", "4", "--max-error-rate", "1", "--timeout", "20")
        finished = load(loader, inbox.pattern, servers, *options, dvid=brake.address, gaid=watch.address)
    assert_loaded(finished, inbox, servers)
    assert finished.device("idfa")["restarts"] == 1
    assert [os.path.basename(file["path"]) for file in finished.report["files"]] == [f"{n}.tsv.gz" for n in range(4)]
    for number, text in enumerate(inbox.logs):
        counts = expected(text).counts()
        assert {name: finished.file(f"{number}.tsv.gz")[name] for name in counts} == counts
        (rejects,) = inbox.directory.glob(f".{number}.tsv.gz.rejects.tsv*")
        assert rejects.read_bytes() == expected(text).rejects_file


def items(server: MemcachedServer) -> int:
    with server.client() as client:
        return int(client.stats()[b"curr_items"])
