"""A load on a cluster leaves what a load on one host leaves, whatever dies or freezes."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.clusters import DaskCluster
from tests.outside.faults import trigger
from tests.outside.loading import LOG_LINE, Finished, Loader, Running, load, with_report
from tests.outside.logs import Inbox, log_of_few_devices, make_inbox
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import expected
from tests.outside.trials import assert_loaded, assert_next_load_mends, assert_renamed_files_are_there

ON_CLUSTER: Loader = ("memc_load_parallel.py", "--engine", "python")
SHARE = 25_000  # bytes of requests for one device type, when half of the inbox is loaded
HURRIED = ("--window-size", "30000", "--timeout", "1")


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    """Four logs of records for devices of which most are in several."""
    rng = random.Random(2017)
    return make_inbox(
        tmp_path / "inbox", [log_of_few_devices(rng, file, lines=1500, devices=1000) for file in range(4)]
    )


def on(cluster: DaskCluster) -> tuple[str, ...]:
    return ("--cluster", cluster.address, *HURRIED)


def harmed_load(cluster: DaskCluster, inbox: Inbox, servers: Servers, harm: Callable[[], None]) -> Finished:
    """Load, and do harm when some files are done."""
    happened = threading.Event()

    def do() -> None:
        happened.set()
        harm()

    with FaultyProxy(servers["gaid"].address, trigger(SHARE, do)) as watch:
        finished = load(ON_CLUSTER, inbox.pattern, servers, *on(cluster), gaid=watch.address)
    assert happened.is_set()
    return finished


def test_a_worker_that_is_killed(inbox: Inbox, servers: Servers, cluster: DaskCluster) -> None:
    assert_loaded(harmed_load(cluster, inbox, servers, lambda: cluster.kill(0)), inbox, servers)


def test_a_worker_that_is_frozen_and_thawed_long_after(inbox: Inbox, servers: Servers, cluster: DaskCluster) -> None:
    assert_loaded(harmed_load(cluster, inbox, servers, lambda: cluster.freeze(1)), inbox, servers)
    cluster.thaw(1)
    time.sleep(1)
    assert contents(servers) == expected(*inbox.logs).items


def test_a_worker_that_is_cut_off_from_the_scheduler_only(inbox: Inbox, servers: Servers, cluster: DaskCluster) -> None:
    assert_loaded(harmed_load(cluster, inbox, servers, cluster.cut_off), inbox, servers)
    cluster.is_cut_off.clear()
    time.sleep(1)
    assert contents(servers) == expected(*inbox.logs).items


def test_the_scheduler_is_killed(inbox: Inbox, servers: Servers, cluster: DaskCluster) -> None:
    finished = harmed_load(cluster, inbox, servers, cluster.scheduler.kill)
    assert finished.exit_code == 1
    assert finished.says("scheduler", "E")
    assert set(finished.statuses().values()) <= {"done", "pending"}
    assert inbox.waiting() != []
    assert_renamed_files_are_there(inbox, servers)
    assert_next_load_mends(inbox, servers)


def test_a_killed_coordinator_is_run_again_at_once(inbox: Inbox, servers: Servers, cluster: DaskCluster) -> None:
    kill = trigger(SHARE, lambda: running.process.kill())
    with (
        FaultyProxy(servers["gaid"].address, kill) as watch,
        Running(ON_CLUSTER, inbox.pattern, *addresses(servers, gaid=watch.address), *on(cluster)) as running,
    ):
        running.process.wait(60)
        again = load(ON_CLUSTER, inbox.pattern, servers, *on(cluster))
        assert running.finish().exit_code == -signal.SIGKILL
    assert again.exit_code == 0
    assert contents(servers) == expected(*inbox.logs).items
    assert inbox.waiting() == []


@pytest.mark.parametrize(
    ("is_connected", "says"),
    [(False, "the connection to the scheduler of WAY is lost"), (True, "the scheduler of WAY took this run for dead")],
)
def test_a_run_that_the_scheduler_takes_for_dead_is_run_again_at_once(
    inbox: Inbox, servers: Servers, cluster: DaskCluster, is_connected: bool, says: str
) -> None:
    with FaultyProxy(cluster.address.removeprefix("tcp://")) as way:
        end = trigger(SHARE // 5, cluster.end_runs if is_connected else way.break_connections)
        with FaultyProxy(servers["gaid"].address, end) as watch:
            options = ("--cluster", f"tcp://{way.address}", *HURRIED)
            finished = load(ON_CLUSTER, inbox.pattern, servers, *options, gaid=watch.address)
    assert finished.exit_code == 1
    assert finished.says(says.replace("WAY", f"tcp://{way.address}"), "E")
    assert inbox.waiting() == [f"{number}.tsv.gz" for number in range(4)]
    again = load(ON_CLUSTER, inbox.pattern, servers, "--cluster", cluster.address, "--timeout", "1")
    assert_loaded(again, inbox, servers)


def test_an_interrupt_from_a_terminal_is_answered_by_the_run_alone(inbox: Inbox) -> None:
    """A terminal sends it to the local workers, too, which may just be starting."""
    with Running(ON_CLUSTER, inbox.pattern, "--cluster", "local:2", "--dry", "--log-level", "info") as running:
        running.wait_for("Memc loader started")
        time.sleep(0.6)
        os.killpg(running.process.pid, signal.SIGINT)
        finished = running.finish()
    assert finished.exit_code in (0, 128 + signal.SIGINT)
    assert [text for text in finished.log if not LOG_LINE.fullmatch(text)] == []


@pytest.mark.parametrize(("place", "frozen_one"), [("local:2", "idfa"), ("cluster", "idfa"), ("cluster", "scheduler")])
def test_a_signal_ends_a_load_while_a_server_or_the_scheduler_is_frozen(
    inbox: Inbox, servers: Servers, cluster: DaskCluster, place: str, frozen_one: str
) -> None:
    address = cluster.address if place == "cluster" else place
    options = ("--cluster", address, "--timeout", "0.5", "--report", "-")
    frozen = threading.Event()

    def freeze() -> None:
        if frozen_one == "scheduler":
            cluster.scheduler.send_signal(signal.SIGSTOP)
        else:
            servers[frozen_one].freeze()
        frozen.set()

    with (
        FaultyProxy(servers["gaid"].address, trigger(0, freeze)) as watch,
        Running(ON_CLUSTER, inbox.pattern, *addresses(servers, gaid=watch.address), *options) as running,
    ):
        running.wait_for("Processing")
        assert frozen.wait(60)
        time.sleep(0.5)
        started = time.monotonic()
        running.send(signal.SIGTERM)
        finished = with_report(running.finish())
        seconds = time.monotonic() - started
    servers["idfa"].thaw()
    cluster.scheduler.send_signal(signal.SIGCONT)
    assert finished.exit_code == 143
    assert seconds < 0.5 + 2 + 3  # and three more for a busy machine
    assert set(finished.statuses().values()) == {"pending"}
    assert_next_load_mends(inbox, servers)
