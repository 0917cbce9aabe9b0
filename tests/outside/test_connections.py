"""Connections that break, lie or crawl, and servers of other kinds: nothing is lost and no older record wins."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.outside.faults import (
    Blackhole,
    BreaksInBatch,
    ClosesOnUnknown,
    Endless,
    Garble,
    HalfReply,
    KnowsNoMeta,
    Misspelled,
    SingleBytes,
    TellsNoStats,
    TellsNoStatsAndCloses,
    TellsOwnStats,
    cut,
    delay,
    dribble,
    late,
    reset,
)
from tests.outside.loading import DEFAULT, PARALLEL, Loader, engines_in_small_blocks, in_small_blocks
from tests.outside.logs import Inbox, line, make_inbox, numbered
from tests.outside.memcached import Servers, contents
from tests.outside.proxy import Fault, FaultyProxy, NewFault
from tests.outside.spec import TYPES, expected
from tests.outside.trials import (
    MIDDLE,
    assert_all_pending,
    assert_loaded,
    assert_next_load_mends,
    assert_others_are_served,
    hurried_load,
)
from tools.servers import MemcachedServer

LASTING: dict[str, NewFault] = {
    "cut": cut(100),  # a connection is made, but gets no batch through
    "cut-at-once": cut(0),
    "reset": reset(100),
    "blackhole": Blackhole,
    "blackhole-late": late(Blackhole, MIDDLE),
    "garble-batches": late(Garble, 100),
    "misspelled": late(Misspelled, 100),
    "half-reply": HalfReply,
    "endless-late": late(Endless, MIDDLE),
    "dribble-late": late(dribble(0.05), MIDDLE),
}

PASSING: dict[str, NewFault] = {
    "cut": cut(MIDDLE),
    "reset": reset(MIDDLE),
    "blackhole": Blackhole,
    "garble": Garble,
    "garble-late": late(Garble, MIDDLE),
    "misspelled": late(Misspelled, 100),
    "half-reply": HalfReply,
    "endless": Endless,
    "dribble": dribble(0.05),
}


@engines_in_small_blocks
@pytest.mark.parametrize("fault", LASTING.values(), ids=LASTING.keys())
def test_connections_that_always_break_leave_the_files_pending_and_the_others_served(
    one_file: Inbox, servers: Servers, fault: NewFault, loader: Loader
) -> None:
    with FaultyProxy(servers["idfa"].address, fault) as proxy:
        finished = hurried_load(loader, one_file, servers, idfa=proxy.address)
    assert_all_pending(finished, one_file)
    assert_others_are_served(finished, one_file)
    assert_next_load_mends(one_file, servers)


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
@engines_in_small_blocks
def test_connections_that_break_at_first_are_made_again(
    inbox: Inbox, servers: Servers, fault: NewFault, loader: Loader
) -> None:
    with FaultyProxy(servers["idfa"].address, fault, faulty=2) as proxy:
        finished = hurried_load(loader, inbox, servers, idfa=proxy.address)
    assert_loaded(finished, inbox, servers)
    assert finished.device("idfa")["retries"] == 2
    assert finished.device("idfa")["restarts"] == 0


@in_small_blocks
@pytest.mark.parametrize("fault", [SingleBytes, delay(0.002)], ids=["single-bytes", "slow"])
def test_connections_that_are_only_slow_are_no_trouble(
    one_file: Inbox, servers: Servers, loader: Loader, fault: NewFault
) -> None:
    with FaultyProxy(servers["idfa"].address, fault) as proxy:
        finished = hurried_load(loader, one_file, servers, idfa=proxy.address)
    assert_loaded(finished, one_file, servers)
    assert finished.device("idfa")["retries"] == 0


@engines_in_small_blocks
def test_a_server_that_takes_one_connection_is_enough(inbox: Inbox, servers: Servers, loader: Loader) -> None:
    with FaultyProxy(servers["idfa"].address, most=1) as proxy:
        assert_loaded(hurried_load(loader, inbox, servers, idfa=proxy.address), inbox, servers)


@engines_in_small_blocks
def test_a_server_that_takes_no_second_connection_after_a_break_is_marked_down(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    with FaultyProxy(servers["idfa"].address, cut(MIDDLE), most=1) as proxy:
        finished = hurried_load(loader, inbox, servers, idfa=proxy.address)
    assert_all_pending(finished, inbox)
    assert_others_are_served(finished, inbox)
    assert_next_load_mends(inbox, servers)


# --- servers without meta commands --------------------------------------------------------------


@pytest.mark.parametrize("kind", [KnowsNoMeta, ClosesOnUnknown, TellsNoStats])
@in_small_blocks
def test_other_kinds_of_servers_are_loaded_just_the_same(
    inbox: Inbox, servers: Servers, loader: Loader, kind: NewFault
) -> None:
    with contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(FaultyProxy(servers[name].address, kind)).address for name in TYPES}
        finished = hurried_load(loader, inbox, servers, **proxies)
    assert_loaded(finished, inbox, servers)
    for device in finished.report["devices"].values():
        assert (device["retries"], device["restarts"]) == (0, 0)


@pytest.mark.parametrize("loader", [PARALLEL, DEFAULT], ids=["python", "default"])
def test_a_server_without_meta_commands_whose_connection_breaks_in_a_batch_gets_the_batch_again(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    inbox = make_inbox(tmp_path / "inbox", [numbered(600)])  # one block
    with FaultyProxy(servers["idfa"].address, BreaksInBatch, faulty=2) as proxy:
        finished = hurried_load(loader, inbox, servers, "--block-size", "1000000", idfa=proxy.address)
    assert_loaded(finished, inbox, servers)
    assert finished.device("idfa")["retries"] == 2


@pytest.mark.parametrize("kind", [TellsNoStats, TellsOwnStats])
@engines_in_small_blocks
def test_that_a_server_without_stats_can_restart_unnoticed_is_told_once(
    inbox: Inbox, servers: Servers, loader: Loader, kind: NewFault
) -> None:
    with FaultyProxy(servers["idfa"].address, kind) as proxy:
        finished = hurried_load(loader, inbox, servers, idfa=proxy.address)
    assert_loaded(finished, inbox, servers)
    assert len([text for text in finished.messages("W") if "stats" in text and proxy.address in text]) == 1
    detects = {name: finished.device(name)["servers"][0]["detects_restarts"] for name in TYPES}
    assert detects == {"idfa": False, "gaid": True, "adid": True, "dvid": True}


@engines_in_small_blocks
def test_a_proxy_without_stats_that_closes_connections_is_no_server_that_restarted(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    with FaultyProxy(servers["idfa"].address, TellsNoStatsAndCloses, faulty=2) as proxy:
        finished = hurried_load(loader, inbox, servers, idfa=proxy.address)
    assert_loaded(finished, inbox, servers)
    assert (finished.device("idfa")["retries"], finished.device("idfa")["restarts"]) == (2, 0)


@pytest.mark.parametrize("kind", [Fault, KnowsNoMeta, ClosesOnUnknown])
@in_small_blocks
def test_a_value_that_is_too_large_is_rejected_by_any_kind_of_server(
    tmp_path: Path, servers: Servers, loader: Loader, kind: NewFault
) -> None:
    large = ",".join("7" for _ in range(300_000))
    log = line("idfa", "a") + line("idfa", "b", apps=large) + line("idfa", "a", apps="2") + line("idfa", "c")
    inbox = make_inbox(tmp_path / "inbox", [log])
    with MemcachedServer.start("-I", "512k") as server, FaultyProxy(server.address, kind) as proxy:
        finished = hurried_load(loader, inbox, servers, "--max-error-rate", "1", idfa=proxy.address)
        assert contents({"idfa": server}) == expected(line("idfa", "a", apps="2"), line("idfa", "c")).items
    assert finished.exit_code == 0
    assert finished.report["totals"]["rejected"] == {"too_large": 1}
    assert (inbox.directory / ".0.tsv.gz.rejects.tsv").read_bytes() == b"2\ttoo_large\t" + log.split(b"\n")[1] + b"\n"
