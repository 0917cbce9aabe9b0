"""A load on a cluster leaves what a load on one host leaves, whatever dies or freezes."""

from __future__ import annotations

import importlib.util
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.outside.clusters import PROJECT, DaskCluster
from tests.outside.faults import trigger
from tests.outside.loading import PARALLEL, Finished, Loader, Running, load, own_environ, run, with_report
from tests.outside.logs import Inbox, huge_line, line, log_of_few_devices, make_inbox, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import expected
from tests.outside.trials import assert_loaded, assert_next_load_mends, assert_renamed_files_are_there

if importlib.util.find_spec("distributed") is None:
    pytest.skip("Dask is not installed: pip install -r requirements-cluster.txt", allow_module_level=True)

CLUSTER: Loader = ("memc_load_parallel.py", "--engine", "python")
HALF = 60_000  # bytes of requests for one device type, when half of big_inbox is loaded
HURRIED = ("--window-size", "60000", "--timeout", "2")
SMALL_WINDOWS = ("--window-size", "30000")  # a file of the inbox fills some


@pytest.fixture(scope="module")
def cluster_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dask")


@pytest.fixture(scope="module")
def running_cluster(cluster_directory: Path) -> Iterator[DaskCluster]:
    """Two workers that no test harms."""
    with DaskCluster(cluster_directory) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers to do harm to."""
    with DaskCluster(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


@pytest.fixture
def big_inbox(tmp_path: Path) -> Inbox:
    """Six logs of records for devices of which most are in several."""
    rng = random.Random(2017)
    logs = [log_of_few_devices(rng, file, lines=2000, devices=1500) for file in range(6)]
    return make_inbox(tmp_path / "inbox", logs)


def on(cluster: DaskCluster, *options: str) -> tuple[str, ...]:
    return ("--cluster", cluster.address, *options)


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without what differs from load to load."""
    kept = {name: report[name] for name in ("exit_code", "dry", "totals")}
    kept["files"] = [{name: value for name, value in file.items() if name != "seconds"} for file in report["files"]]
    kept["devices"] = {name: (device["stored"], device["failed"]) for name, device in report["devices"].items()}
    return kept


# --- the same as on one host --------------------------------------------------------------------


def test_the_first_look_needs_no_cluster(inbox: Inbox, servers: Servers) -> None:
    assert_loaded(load(CLUSTER, inbox.pattern, servers, "--cluster", "local:2"), inbox, servers)


def test_state_names_report_and_rejects_are_those_of_one_host(
    tmp_path: Path, servers: Servers, running_cluster: DaskCluster
) -> None:
    rng = random.Random(5)
    logs = [
        log_of_few_devices(rng, file)
        + huge_line("idfa", f"device{file}")
        + line("idfa", f"device{file}")  # which supersedes it
        + b"\n \nnonsense\n"
        + huge_line("gaid", f"huge{file}")
        + line("dvid", "partial", apps="1,x")
        for file in range(4)
    ]
    left = []
    for options in ((), on(running_cluster, *SMALL_WINDOWS), on(running_cluster)):
        for server in servers.values():
            server.flush()
        inbox = make_inbox(tmp_path / "inbox", logs)
        (inbox.directory / "3.tsv.gz").write_bytes((inbox.directory / "3.tsv.gz").read_bytes()[:-9])  # truncated
        finished = load(CLUSTER, inbox.pattern, servers, "--settle", "0", *options)
        rejects = {path.name: path.read_bytes() for path in inbox.directory.glob(".*.rejects.tsv")}
        left.append((without_times(finished.report), names(inbox.directory), rejects, contents(servers)))
        shutil.rmtree(inbox.directory)
    assert left[1] == left[0]
    assert left[2] == left[0]
    assert left[0][0]["totals"]["rejected"]["too_large"] == 8
    assert [file["status"] for file in left[0][0]["files"]] == ["done", "done", "done", "damaged"]


def test_again_only_and_ttl(inbox: Inbox, servers: Servers, running_cluster: DaskCluster) -> None:
    options = on(running_cluster, "--only", "gaid,dvid", "--ttl", "1000")
    assert load(CLUSTER, inbox.pattern, servers, *options).exit_code == 0
    assert {key[:4] for key in contents(servers)} == {b"gaid", b"dvid"}
    assert all(990 <= item.expires_in <= 1000 for item in contents(servers).values())
    assert inbox.renamed() == []
    assert load(CLUSTER, inbox.pattern, servers, *on(running_cluster)).exit_code == 0
    assert inbox.waiting() == []
    servers["idfa"].flush()
    assert load(CLUSTER, inbox.pattern, servers, *on(running_cluster, "--again")).exit_code == 0
    assert contents(servers) == expected(*inbox.logs).items


def test_a_dry_run_shows_the_records_and_sends_nothing(
    inbox: Inbox, servers: Servers, running_cluster: DaskCluster
) -> None:
    one_host, cluster = (
        load(CLUSTER, inbox.pattern, servers, "--dry", *options) for options in ((), on(running_cluster))
    )
    assert cluster.messages("D") == one_host.messages("D") != []
    assert without_times(cluster.report) == without_times(one_host.report)
    assert contents(servers) == {}
    assert inbox.renamed() == []


def test_the_rate_holds_over_all_workers(tmp_path: Path, servers: Servers, running_cluster: DaskCluster) -> None:
    inbox = make_inbox(tmp_path / "inbox", [numbered(1000, prefix=f"{file}-") for file in range(3)])
    finished = load(CLUSTER, inbox.pattern, servers, *on(running_cluster, "--max-rate", "1500"))
    assert_loaded(finished, inbox, servers)
    assert finished.report["seconds"] > 3000 / 1500 - 0.5


def test_a_server_that_is_down_fails_its_own_records_only(
    inbox: Inbox, servers: Servers, running_cluster: DaskCluster
) -> None:
    servers["idfa"].kill()
    options = ("--retries", "0", "--connect-timeout", "0.5")
    one_host, cluster = (
        load(CLUSTER, inbox.pattern, servers, *options, *more) for more in ((), on(running_cluster, *SMALL_WINDOWS))
    )
    assert without_times(cluster.report) == without_times(one_host.report)
    servers["idfa"].restart()
    assert_next_load_mends(inbox, servers)


def test_a_server_that_restarts_is_loaded_again(
    big_inbox: Inbox, servers: Servers, running_cluster: DaskCluster
) -> None:
    restart = trigger(60_000, lambda: servers["idfa"].restart())
    with FaultyProxy(servers["gaid"].address, restart) as watch:
        options = on(running_cluster, "--window-size", "150000")
        finished = load(CLUSTER, big_inbox.pattern, servers, *options, gaid=watch.address)
    assert_loaded_but_for_what_was_renamed_before(finished, big_inbox, servers)


def assert_loaded_but_for_what_was_renamed_before(finished: Finished, inbox: Inbox, servers: Servers) -> None:
    assert finished.exit_code == 0
    assert inbox.waiting() == []
    held = contents(servers)
    # The records of the last file are there in any case, and all but those of idfa.
    last = expected(inbox.logs[-1]).items
    assert {key: held.get(key) for key in last} == last
    others = {key: item for key, item in expected(*inbox.logs).items.items() if not key.startswith(b"idfa")}
    assert {key: item for key, item in held.items() if not key.startswith(b"idfa")} == others


# --- what dies or freezes -----------------------------------------------------------------------


def harmed_load(cluster: DaskCluster, inbox: Inbox, servers: Servers, harm: Any) -> Finished:
    """Load, and do harm when some files are done."""
    happened = threading.Event()

    def do() -> None:
        happened.set()
        harm()

    with FaultyProxy(servers["gaid"].address, trigger(HALF, do)) as watch:
        finished = load(CLUSTER, inbox.pattern, servers, *on(cluster, *HURRIED), gaid=watch.address)
    assert happened.is_set()
    return finished


def test_a_worker_that_is_killed(big_inbox: Inbox, servers: Servers, own_cluster: DaskCluster) -> None:
    assert_loaded(harmed_load(own_cluster, big_inbox, servers, lambda: own_cluster.kill(0)), big_inbox, servers)


def test_a_worker_that_is_frozen_and_thawed_long_after(
    big_inbox: Inbox, servers: Servers, own_cluster: DaskCluster
) -> None:
    finished = harmed_load(own_cluster, big_inbox, servers, lambda: own_cluster.freeze(1))
    assert_loaded(finished, big_inbox, servers)
    own_cluster.thaw(1)
    time.sleep(1)
    assert contents(servers) == expected(*big_inbox.logs).items


def test_the_scheduler_is_killed(big_inbox: Inbox, servers: Servers, own_cluster: DaskCluster) -> None:
    finished = harmed_load(own_cluster, big_inbox, servers, own_cluster.scheduler.kill)
    assert finished.exit_code == 1
    assert finished.says("scheduler", "E")
    assert set(finished.statuses().values()) <= {"done", "pending"}
    assert big_inbox.waiting() != []
    assert_renamed_files_are_there(big_inbox, servers)
    assert_next_load_mends(big_inbox, servers)


def test_a_killed_coordinator_is_run_again_at_once(
    big_inbox: Inbox, servers: Servers, own_cluster: DaskCluster
) -> None:
    kill = trigger(HALF, lambda: running.process.kill())
    options = on(own_cluster, *HURRIED)
    with (
        FaultyProxy(servers["gaid"].address, kill) as watch,
        Running(CLUSTER, big_inbox.pattern, *addresses(servers, gaid=watch.address), *options) as running,
    ):
        running.process.wait(60)
        again = load(CLUSTER, big_inbox.pattern, servers, *options)
        assert running.finish().exit_code == -signal.SIGKILL
    assert again.exit_code == 0
    assert contents(servers) == expected(*big_inbox.logs).items
    assert big_inbox.waiting() == []


@pytest.mark.parametrize("place", ["local:2", "cluster"])
def test_a_signal_ends_a_load_while_a_server_is_frozen(
    inbox: Inbox, servers: Servers, running_cluster: DaskCluster, place: str
) -> None:
    address = running_cluster.address if place == "cluster" else place
    options = ("--cluster", address, "--timeout", "3", "--report", "-")
    freeze = trigger(0, servers["idfa"].freeze)
    with (
        FaultyProxy(servers["gaid"].address, freeze) as watch,
        Running(CLUSTER, inbox.pattern, *addresses(servers, gaid=watch.address), *options) as running,
    ):
        running.wait_for("Processing")
        time.sleep(2)
        started = time.monotonic()
        running.send(signal.SIGTERM)
        finished = with_report(running.finish())
        seconds = time.monotonic() - started
    servers["idfa"].thaw()
    assert finished.exit_code == 143
    assert seconds < 3 + 2
    assert set(finished.statuses().values()) == {"pending"}
    assert_next_load_mends(inbox, servers)


# --- what can't be ------------------------------------------------------------------------------


def test_a_worker_of_another_version_is_named(
    tmp_path: Path, inbox: Inbox, servers: Servers, own_cluster: DaskCluster
) -> None:
    other = tmp_path / "other"
    shutil.copytree(PROJECT / "memcload", other / "memcload", ignore=shutil.ignore_patterns("__pycache__"))
    for path in PROJECT.glob("*.py"):
        shutil.copy(path, other)
    package = other / "memcload" / "__init__.py"
    package.write_text(package.read_text().replace('__version__ = "', '__version__ = "0.'))
    own_cluster.start_worker(other)
    time.sleep(3)
    finished = load(CLUSTER, inbox.pattern, servers, *on(own_cluster))
    assert finished.exit_code == 1
    (message,) = [text for text in finished.messages("E") if "has version 0." in text and "stays pending" not in text]
    assert "the worker tcp://127.0.0.1:" in message
    assert inbox.renamed() == []
    assert contents(servers) == {}


def test_a_cluster_that_is_not_there(inbox: Inbox, servers: Servers) -> None:
    finished = load(CLUSTER, inbox.pattern, servers, "--cluster", "tcp://127.0.0.1:1")
    assert finished.exit_code == 1
    assert finished.says("can't connect to the cluster tcp://127.0.0.1:1", "E")
    assert set(finished.statuses().values()) == {"pending"}


def test_dask_that_is_not_installed(tmp_path: Path, inbox: Inbox, servers: Servers) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError('there is no distributed')\n")
    environ = {**own_environ(), "PYTHONPATH": str(tmp_path)}
    options = (*addresses(servers), "--cluster", "local:2")
    finished = run(CLUSTER, inbox.pattern, *options, environ=environ)
    assert finished.exit_code == 2
    assert finished.says("pip install -r requirements-cluster.txt", "E")
    assert inbox.renamed() == []


def test_wrong_usage(tmp_path: Path) -> None:
    write_gz(tmp_path / "a.gz", line())
    for options in (
        ("--cluster", "local:0"),
        ("--cluster", "scheduler:8786"),
        ("--window-size", "10"),
        ("--cluster", "local:2", "--verify"),
    ):
        assert run(PARALLEL, tmp_path / "*.gz", *options).exit_code == 2
