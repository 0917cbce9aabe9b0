"""Whatever servers, networks, disks and people do to a load: it ends in time, loses nothing and says what was wrong.

What goes wrong goes wrong at a place, not at a time: a proxy in front of the server of one device type sees how
far the load has come, and does the harm then.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import memc_load
import memc_load_parallel
from tests.faults import (
    Blackhole,
    ClosesOnUnknown,
    Endless,
    Fault,
    FaultyProxy,
    Garble,
    HalfReply,
    KnowsNoMeta,
    NewFault,
    SingleBytes,
    TellsNoStats,
    cut,
    delay,
    dribble,
    late,
    reset,
    trigger,
)
from tests.loading import (
    PARALLEL,
    PROJECT,
    REFERENCE,
    TYPES,
    Finished,
    Running,
    Servers,
    addresses,
    both_loaders,
    closed_port,
    contents,
    expected,
    line,
    load,
    load_here,
    names,
    run,
    write_gz,
)
from tools.servers import MemcachedServer

RETRIES = 2
HURRIED = ("--timeout", "0.3", "--connect-timeout", "0.3", "--retries", str(RETRIES))
PERSISTENT = ("--timeout", "0.3", "--connect-timeout", "0.3", "--retries", "10")
BOUND = 15.0  # seconds, several times what a load with HURRIED takes at worst
MIDDLE = 3000  # bytes of requests for one device type, in the middle of the first file
MIDDLE_OF_SECOND = 12_000
OTHERS = ("gaid", "adid", "dvid")  # than the one that is harmed


@dataclass
class Inbox:
    """A directory with logs, and what they hold."""

    directory: Path
    logs: list[bytes]

    @property
    def pattern(self) -> Path:
        return self.directory / "*.tsv.gz"

    def renamed(self) -> list[str]:
        """Return the names of the logs that are done, without their dots."""
        return [name[1:] for name in names(self.directory) if name.startswith(".") and name.endswith(".tsv.gz")]

    def waiting(self) -> list[str]:
        """Return the names of the logs that are not done."""
        return [name for name in names(self.directory) if not name.startswith(".")]


def log_of_few_devices(rng: random.Random, file: int, *, lines: int = 600, devices: int = 10) -> bytes:
    """Return a log of records that differ all, for so few devices that each has many; one line is rejected."""
    types, ids = rng.choices(TYPES, k=lines), rng.choices(range(devices), k=lines)
    records = [
        line(types[number], f"device{ids[number]}", apps=f"{file},{number},{number * 1000}") for number in range(lines)
    ]
    records[rng.randrange(lines)] = b"idfa\tdevice0\tnowhere\t0\t1\n"
    return b"".join(records)


def make_inbox(directory: Path, logs: Sequence[bytes]) -> Inbox:
    directory.mkdir(exist_ok=True)
    return Inbox(directory, [write_gz(directory / f"{number}.tsv.gz", log) for number, log in enumerate(logs)])


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    rng = random.Random(2017)
    return make_inbox(tmp_path / "inbox", [log_of_few_devices(rng, file) for file in range(3)])


@pytest.fixture
def one_file(tmp_path: Path) -> Inbox:
    return make_inbox(tmp_path / "inbox", [log_of_few_devices(random.Random(1), 0)])


def hurried_load(loader: Sequence[str], inbox: Inbox, servers: Servers, *options: str, **other: str) -> Finished:
    """Load with little patience, and see that it has an end."""
    started = time.monotonic()
    finished = load(loader, inbox.pattern, servers, *HURRIED, *options, **other)
    assert time.monotonic() - started < BOUND
    return finished


def load_quickly(loader: Sequence[str], inbox: Inbox, servers: Servers, *options: str, **other: str) -> Finished:
    """Load with little patience in this very process, for faults that can't keep the loader from its end."""
    module = {REFERENCE[0]: memc_load, PARALLEL[0]: memc_load_parallel}[loader[0]]
    where = addresses(servers, **other)
    return load_here(module, inbox.pattern, inbox.directory.parent, *loader[1:], *where, *HURRIED, *options)


def assert_others_are_served(finished: Finished, inbox: Inbox, victim: str = "idfa") -> None:
    stored = expected(*inbox.logs).stored
    devices = finished.report["devices"]
    for name in TYPES:
        if name != victim:
            assert (devices[name]["stored"], devices[name]["failed"]) == (stored[name], 0)
    assert devices[victim]["stored"] + devices[victim]["failed"] == stored[victim]


def assert_all_pending(finished: Finished, inbox: Inbox) -> None:
    assert finished.exit_code == 1
    assert set(finished.statuses().values()) == {"pending"}
    assert inbox.renamed() == []


def assert_loaded(finished: Finished, inbox: Inbox, servers: Servers) -> None:
    """Check that a load came to its end, and left what the specification says."""
    assert finished.exit_code == 0
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items
    assert {name: finished.report["totals"][name] for name in expected().counts()} == expected(*inbox.logs).counts()


def assert_next_load_mends(inbox: Inbox, servers: Servers) -> None:
    """Check that a load without a fault, after one with it, leaves what one load would have left."""
    assert load_quickly(PARALLEL, inbox, servers).exit_code == 0
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items


# --- servers that come and go -------------------------------------------------------------------

gone = pytest.mark.parametrize(
    ("loader", "harm"),
    [(REFERENCE, MemcachedServer.kill), (PARALLEL, MemcachedServer.kill), (PARALLEL, MemcachedServer.freeze)],
    ids=["reference-killed", "parallel-killed", "parallel-frozen"],
)


@gone
def test_a_server_gone_in_the_middle_leaves_the_files_pending_and_the_others_served(
    inbox: Inbox, servers: Servers, loader: Sequence[str], harm: Callable[[MemcachedServer], None]
) -> None:
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, lambda: harm(servers["idfa"]))) as watch:
        finished = hurried_load(loader, inbox, servers, gaid=watch.address)
    assert_all_pending(finished, inbox)
    assert_others_are_served(finished, inbox)
    assert 0 < finished.report["devices"]["idfa"]["stored"] < expected(*inbox.logs).stored["idfa"]
    if servers["idfa"].running:
        servers["idfa"].thaw()
    else:
        servers["idfa"].restart()
    assert_next_load_mends(inbox, servers)


@gone
def test_a_server_gone_in_the_middle_costs_its_retries_once(
    one_file: Inbox, servers: Servers, loader: Sequence[str], harm: Callable[[MemcachedServer], None]
) -> None:
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, lambda: harm(servers["idfa"]))) as watch:
        finished = hurried_load(loader, one_file, servers, gaid=watch.address)
    assert finished.report["devices"]["idfa"]["retries"] == RETRIES


@both_loaders
def test_a_server_that_is_not_there_costs_its_retries_once_a_file(
    inbox: Inbox, servers: Servers, loader: Sequence[str]
) -> None:
    with closed_port() as nowhere:
        finished = hurried_load(loader, inbox, servers, idfa=nowhere)
    assert_all_pending(finished, inbox)
    assert_others_are_served(finished, inbox)
    assert finished.report["devices"]["idfa"]["stored"] == 0
    assert RETRIES <= finished.report["devices"]["idfa"]["retries"] <= RETRIES * len(inbox.logs)
    assert_next_load_mends(inbox, servers)


@both_loaders
def test_a_server_that_was_given_up_is_left_alone_until_the_next_file(
    inbox: Inbox, servers: Servers, loader: Sequence[str]
) -> None:
    with FaultyProxy(servers["idfa"].address, cut(0)) as proxy:
        finished = load_quickly(loader, inbox, servers, idfa=proxy.address)
        assert 1 + RETRIES < proxy.connections <= (1 + RETRIES) * len(inbox.logs)  # there are many more blocks
    assert_all_pending(finished, inbox)


def test_a_server_that_was_given_up_is_tried_again_at_the_next_file(inbox: Inbox, servers: Servers) -> None:
    servers["idfa"].kill()
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE_OF_SECOND, servers["idfa"].restart)) as watch:
        finished = load_quickly(PARALLEL, inbox, servers, gaid=watch.address)
    assert_all_pending(finished, inbox)
    assert finished.file("2.tsv.gz")["failed"] == 0
    assert_next_load_mends(inbox, servers)


@both_loaders
def test_a_server_that_comes_back_within_the_retries_is_waited_for(
    inbox: Inbox, servers: Servers, loader: Sequence[str]
) -> None:
    servers["idfa"].kill()
    with Running(loader, inbox.pattern, *addresses(servers), *PERSISTENT) as running:
        running.wait_for("trying again")
        servers["idfa"].restart()
        finished = running.finish()
    assert finished.exit_code == 0
    assert contents(servers) == expected(*inbox.logs).items


@pytest.mark.parametrize("through", [Fault, KnowsNoMeta, ClosesOnUnknown, TellsNoStats])
def test_a_server_that_restarts_in_the_middle_gets_the_records_of_that_file_again(
    one_file: Inbox, servers: Servers, through: NewFault
) -> None:
    restart = trigger(MIDDLE, servers["idfa"].restart)
    with (
        FaultyProxy(servers["idfa"].address, through) as proxy,
        FaultyProxy(servers["gaid"].address, restart) as watch,
    ):
        finished = load_quickly(PARALLEL, one_file, servers, *PERSISTENT, idfa=proxy.address, gaid=watch.address)
    assert_loaded(finished, one_file, servers)
    assert finished.report["devices"]["idfa"]["restarts"] == 1
    assert [text for text in finished.messages("W") if "restarted" in text] != []


@pytest.mark.parametrize("through", [Fault, KnowsNoMeta, ClosesOnUnknown, TellsNoStats])
def test_a_server_that_restarts_after_its_last_record_of_the_file_is_noticed(
    tmp_path: Path, servers: Servers, through: NewFault
) -> None:
    first = b"".join(line("idfa", f"device{number}") for number in range(100))
    then = b"".join(line("gaid", f"device{number}") for number in range(600))
    inbox = make_inbox(tmp_path / "inbox", [first + then])
    restart = trigger(20_000, servers["idfa"].restart)  # several queues full of blocks later
    with (
        FaultyProxy(servers["idfa"].address, through) as proxy,
        FaultyProxy(servers["gaid"].address, restart) as watch,
    ):
        finished = load_quickly(PARALLEL, inbox, servers, *PERSISTENT, idfa=proxy.address, gaid=watch.address)
    assert_loaded(finished, inbox, servers)
    assert finished.report["devices"]["idfa"]["restarts"] == 1


def test_a_server_that_thaws_within_the_retries_gets_no_older_record_after_a_newer(
    tmp_path: Path, servers: Servers
) -> None:
    for moment in range(3):
        rng = random.Random(moment)
        inbox = make_inbox(tmp_path / str(moment), [log_of_few_devices(rng, moment, devices=2) for _ in range(2)])
        freeze = trigger(rng.randrange(MIDDLE), servers["idfa"].freeze)
        with FaultyProxy(servers["gaid"].address, freeze) as watch:
            options = [*addresses(servers, gaid=watch.address), *PERSISTENT]
            with Running(PARALLEL, inbox.pattern, *options) as running:
                running.wait_for("idfa.*trying again")
                servers["idfa"].thaw()
                finished = running.finish()
        assert finished.exit_code == 0
        held = contents(servers)
        assert {key: held[key] for key in expected(*inbox.logs).items} == expected(*inbox.logs).items


@both_loaders
def test_what_a_server_reads_late_does_not_overwrite_what_came_after_it(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    between = b"".join(line("gaid", f"device{number}") for number in range(100))  # several blocks
    inbox = make_inbox(tmp_path / "inbox", [line("idfa", apps="1") + between + line("idfa", apps="2")])
    with FaultyProxy(servers["idfa"].address, late(delay(1.0), 30), faulty=1) as proxy:
        finished = load_quickly(loader, inbox, servers, *PERSISTENT, idfa=proxy.address)
        proxy.drain()
    assert finished.report["devices"]["idfa"]["retries"] > 0
    assert_loaded(finished, inbox, servers)


# --- servers at their limits --------------------------------------------------------------------


def fat_log(records: int) -> bytes:
    """Return records of 1,500 bytes of value each, all of the first device type."""
    apps = ",".join(["9999"] * 500)
    return b"".join(line("idfa", f"fat{number}", apps=apps) for number in range(records))


def test_a_server_out_of_memory_fails_records_and_holds_the_file(tmp_path: Path, servers: Servers) -> None:
    inbox = make_inbox(tmp_path / "inbox", [fat_log(2000) + log_of_few_devices(random.Random(1), 0)])
    with MemcachedServer.start("-M", "-m", "2") as small:
        finished = hurried_load(PARALLEL, inbox, servers, "--block-size", "100000", idfa=small.address)
        with small.client() as client:
            held = client.stats()[b"curr_items"]
    assert_all_pending(finished, inbox)
    assert_others_are_served(finished, inbox)
    assert finished.report["devices"]["idfa"]["failed"] > 100
    assert 0 < held <= finished.report["devices"]["idfa"]["stored"]
    assert [text for text in finished.messages("W") if "out of memory" in text] != []
    assert_next_load_mends(inbox, servers)


def test_evicted_items_are_counted_and_warned_about_once(tmp_path: Path, servers: Servers) -> None:
    inbox = make_inbox(tmp_path / "inbox", [fat_log(1500), fat_log(1500)])
    with MemcachedServer.start("-m", "2") as small:
        finished = load_quickly(PARALLEL, inbox, servers, "--block-size", "100000", idfa=small.address)
        with small.client() as client:
            evictions = client.stats()[b"evictions"]
    assert finished.exit_code == 0
    assert evictions > 100
    assert {name: finished.report["devices"][name]["evictions"] for name in TYPES} == {
        "idfa": evictions,
        **dict.fromkeys(OTHERS, 0),
    }
    assert [text for text in finished.messages("W") if "evicted" in text] == [
        f"idfa {small.address} evicted {evictions} items during this run: "
        "the data does not fit its memory (memcached -m)"
    ]


def test_a_server_with_too_many_connections_is_one_that_does_not_answer(inbox: Inbox, servers: Servers) -> None:
    with MemcachedServer.start("-t", "1", "-c", "20", "-o", "maxconns_fast") as busy, contextlib.ExitStack() as held:
        host, port = busy.address.split(":")
        reply = b"VERSION"
        while reply.startswith(b"VERSION"):
            connection = held.enter_context(socket.create_connection((host, int(port)), timeout=5))
            connection.sendall(b"version\r\n")
            reply = connection.recv(100)
        finished = hurried_load(PARALLEL, inbox, servers, idfa=busy.address)
        assert_all_pending(finished, inbox)
        assert_others_are_served(finished, inbox)
        assert [text for text in finished.messages("WE") if "too many connections" in text] != []
    assert_next_load_mends(inbox, servers)


# --- connections that break ---------------------------------------------------------------------

LASTING: dict[str, NewFault] = {
    "cut": cut(100),  # a connection is made, but gets no batch through
    "cut-at-once": cut(0),
    "reset": reset(100),
    "blackhole": Blackhole,
    "blackhole-late": late(Blackhole, MIDDLE),
    "garble-batches": late(Garble, 100),
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
    "half-reply": HalfReply,
    "endless": Endless,
    "dribble": dribble(0.05),
}


@pytest.mark.parametrize("fault", LASTING.values(), ids=LASTING.keys())
def test_connections_that_always_break_leave_the_files_pending_and_the_others_served(
    one_file: Inbox, servers: Servers, fault: NewFault
) -> None:
    with FaultyProxy(servers["idfa"].address, fault) as proxy:
        finished = hurried_load(PARALLEL, one_file, servers, idfa=proxy.address)
    assert_all_pending(finished, one_file)
    assert_others_are_served(finished, one_file)
    assert_next_load_mends(one_file, servers)


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_connections_that_break_at_first_are_made_again(inbox: Inbox, servers: Servers, fault: NewFault) -> None:
    with FaultyProxy(servers["idfa"].address, fault, faulty=2) as proxy:
        finished = load_quickly(PARALLEL, inbox, servers, idfa=proxy.address)
    assert_loaded(finished, inbox, servers)
    assert finished.report["devices"]["idfa"]["retries"] == 2
    assert finished.report["devices"]["idfa"]["restarts"] == 0


@both_loaders
@pytest.mark.parametrize("fault", [SingleBytes, delay(0.002)], ids=["single-bytes", "slow"])
def test_connections_that_are_only_slow_are_no_trouble(
    one_file: Inbox, servers: Servers, loader: Sequence[str], fault: NewFault
) -> None:
    with FaultyProxy(servers["idfa"].address, fault) as proxy:
        finished = load_quickly(loader, one_file, servers, idfa=proxy.address)
    assert_loaded(finished, one_file, servers)
    assert finished.report["devices"]["idfa"]["retries"] == 0


def test_a_server_that_takes_one_connection_is_enough(inbox: Inbox, servers: Servers) -> None:
    with FaultyProxy(servers["idfa"].address, most=1) as proxy:
        assert_loaded(load_quickly(PARALLEL, inbox, servers, idfa=proxy.address), inbox, servers)


def test_a_server_that_takes_no_second_connection_after_a_break_is_given_up(inbox: Inbox, servers: Servers) -> None:
    with FaultyProxy(servers["idfa"].address, cut(MIDDLE), most=1) as proxy:
        finished = load_quickly(PARALLEL, inbox, servers, idfa=proxy.address)
    assert_all_pending(finished, inbox)
    assert_others_are_served(finished, inbox)
    assert_next_load_mends(inbox, servers)


# --- servers without meta commands --------------------------------------------------------------


@pytest.mark.parametrize("kind", [KnowsNoMeta, ClosesOnUnknown, TellsNoStats])
@both_loaders
def test_other_kinds_of_servers_are_loaded_just_the_same(
    inbox: Inbox, servers: Servers, loader: Sequence[str], kind: NewFault
) -> None:
    with contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(FaultyProxy(servers[name].address, kind)).address for name in TYPES}
        finished = load_quickly(loader, inbox, servers, **proxies)
    assert_loaded(finished, inbox, servers)
    for device in finished.report["devices"].values():
        assert (device["retries"], device["restarts"]) == (0, 0)


@pytest.mark.parametrize("kind", [Fault, KnowsNoMeta, ClosesOnUnknown])
@both_loaders
def test_a_value_that_is_too_large_is_rejected_by_any_kind_of_server(
    tmp_path: Path, servers: Servers, loader: Sequence[str], kind: NewFault
) -> None:
    large = ",".join("7" for _ in range(300_000))
    log = line("idfa", "a") + line("idfa", "b", apps=large) + line("idfa", "a", apps="2") + line("idfa", "c")
    inbox = make_inbox(tmp_path / "inbox", [log])
    with MemcachedServer.start("-I", "512k") as server, FaultyProxy(server.address, kind) as proxy:
        finished = load_quickly(loader, inbox, servers, "--max-error-rate", "1", idfa=proxy.address)
        assert contents({"idfa": server}) == expected(line("idfa", "a", apps="2"), line("idfa", "c")).items
    assert finished.exit_code == 0
    assert finished.report["totals"]["rejected"] == {"too_large": 1}
    assert (inbox.directory / ".0.tsv.gz.rejects.tsv").read_bytes() == b"2\ttoo_large\t" + log.split(b"\n")[1] + b"\n"


# --- the loader itself --------------------------------------------------------------------------


def assert_renamed_files_are_there(inbox: Inbox, servers: Servers) -> None:
    """Check that each key of a renamed file holds its last record there, or one that came later."""
    done, later = inbox.logs[: len(inbox.renamed())], inbox.logs[len(inbox.renamed()) :]
    held = contents(servers)
    newer = {item for part in b"".join(later).splitlines() for item in expected(part).items.items()}
    assert [
        key
        for key, item in expected(*done).items.items()
        if held.get(key) != item and (key, held.get(key)) not in newer
    ] == []


@both_loaders
@pytest.mark.parametrize("moment", [0, MIDDLE, 5 * MIDDLE])
def test_a_loader_killed_at_any_moment_leaves_nothing_renamed_that_is_not_there(
    inbox: Inbox, servers: Servers, loader: Sequence[str], moment: int
) -> None:
    kill = trigger(moment, lambda: running.process.kill())
    with (
        FaultyProxy(servers["gaid"].address, kill) as watch,
        Running(loader, inbox.pattern, *addresses(servers, gaid=watch.address)) as running,
    ):
        assert running.finish().exit_code == -signal.SIGKILL
    assert inbox.waiting() != []
    assert_renamed_files_are_there(inbox, servers)
    assert_next_load_mends(inbox, servers)


@both_loaders
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_load_in_good_order(
    inbox: Inbox, servers: Servers, loader: Sequence[str], number: signal.Signals, tmp_path: Path
) -> None:
    stop = trigger(2 * MIDDLE, lambda: running.send(number))
    with (
        FaultyProxy(servers["gaid"].address, stop) as watch,
        Running(loader, inbox.pattern, *addresses(servers, gaid=watch.address)) as running,
    ):
        finished = running.finish()
    assert finished.exit_code == 128 + number
    assert [text for text in finished.messages("E") if f"stopped by {number.name}" in text] != []
    assert "2.tsv.gz" in inbox.waiting()
    assert_renamed_files_are_there(inbox, servers)
    assert_next_load_mends(inbox, servers)


@both_loaders
def test_a_second_signal_ends_a_load_at_once(inbox: Inbox, servers: Servers, loader: Sequence[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        nowhere = f"127.0.0.1:{silent.getsockname()[1]}"
        with Running(loader, inbox.pattern, *addresses(servers, idfa=nowhere), "--timeout", "1000") as running:
            connection, _ = silent.accept()  # so a request is in flight, to which there is no answer
            with connection:
                running.send_until_it_ends(signal.SIGTERM)
                finished = running.finish()
    assert finished.exit_code == 128 + signal.SIGTERM
    assert not [text for text in finished.log if "Finished in" in text]
    assert inbox.renamed() == []


def test_a_second_run_leaves_the_directory_to_the_first(inbox: Inbox, servers: Servers) -> None:
    servers["idfa"].freeze()
    with Running(PARALLEL, inbox.pattern, *addresses(servers), "--timeout", "60") as first:
        first.wait_for("Processing")
        second = run(PARALLEL, inbox.pattern, *addresses(servers))
        servers["idfa"].thaw()
        assert first.finish().exit_code == 0
    assert second.exit_code == 75
    assert [text for text in second.messages("E") if str(first.process.pid) in text] != []
    assert contents(servers) == expected(*inbox.logs).items


# --- disks and permissions ----------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """Mount a disk of 64 KB, where that is possible."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a small disk can only be mounted as root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def full(path: Path) -> Path:
    """Make a file under which the device is that is always full."""
    path.symlink_to("/dev/full")
    return path


def test_a_log_on_a_full_disk_does_not_stop_the_load(inbox: Inbox, servers: Servers, tmp_path: Path) -> None:
    with Running(PARALLEL, inbox.pattern, *addresses(servers), "--log", str(full(tmp_path / "log"))) as running:
        finished = running.finish()
    assert finished.exit_code == 1
    assert [text for text in finished.log if "No space left on device" in text] == finished.log != []
    assert contents(servers) == expected(*inbox.logs).items
    assert inbox.waiting() == []


@pytest.mark.parametrize("option", ["--report", "--metrics"])
def test_a_report_to_a_full_device_does_not_stop_the_load(
    inbox: Inbox, servers: Servers, tmp_path: Path, option: str
) -> None:
    device = full(tmp_path / "report")
    finished = run(PARALLEL, inbox.pattern, *addresses(servers), option, str(device))
    assert device.is_symlink()  # and not replaced by a file
    assert finished.exit_code == 1
    assert [text for text in finished.messages("E") if "No space left on device" in text] != []
    assert contents(servers) == expected(*inbox.logs).items
    assert inbox.waiting() == []


def test_a_report_on_a_full_disk_leaves_the_old_one(inbox: Inbox, servers: Servers, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        report = disk / "report.json"
        report.write_bytes(b"old")
        with contextlib.suppress(OSError):
            (disk / "rest").write_bytes(bytes(1 << 16))
        finished = run(PARALLEL, inbox.pattern, *addresses(servers), "--report", str(report))
        assert report.read_bytes() == b"old"
        assert names(disk) == ["report.json", "rest"]
    assert finished.exit_code == 1
    assert [text for text in finished.messages("E") if "No space left on device" in text] != []
    assert inbox.waiting() == []


@both_loaders
@pytest.mark.parametrize("rejects", [1_000, 4_000], ids=["at-the-end", "on-the-way"])
def test_rejects_on_a_full_disk_do_not_stop_the_load(
    tmp_path: Path, servers: Servers, loader: Sequence[str], rejects: int
) -> None:
    rejected = b"x" * 100 + b"\n"
    inbox = make_inbox(tmp_path / "inbox", [rejected * rejects + line("idfa", "a"), line("idfa", "b")])
    with small_disk(tmp_path / "disk") as disk:
        options = ("--rejects", str(disk), "--max-error-rate", "1")
        finished = load(loader, inbox.pattern, servers, *options)
        assert names(disk) == []
    assert finished.exit_code == 1
    assert [text for text in finished.messages("E") if "No space left on device" in text] != []
    assert finished.statuses() == {"0.tsv.gz": "done", "1.tsv.gz": "done"}
    assert contents(servers) == expected(*inbox.logs).items


@contextlib.contextmanager
def as_nobody(directory: Path) -> Iterator[list[str]]:
    """Give what runs a command without the rights of root; everything in the directory belongs to its user."""
    if os.geteuid() != 0:
        yield []
        return
    if not shutil.which("setpriv"):
        pytest.skip("as root without setpriv every directory can be written")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, 65534, 65534)
    yield ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everyone can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def run_as(prefix: Sequence[str], loader: Sequence[str], *options: str) -> tuple[int, list[str]]:
    """Run a loader behind another command; return its exit code and its log."""
    command = [*prefix, sys.executable, str(PROJECT / loader[0]), *loader[1:], *options]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=PROJECT)
    if "ermission denied" in ended.stderr and "Error" in ended.stderr:
        pytest.skip("another user can't run this Python")
    return ended.returncode, ended.stderr.splitlines()


def test_a_directory_that_cannot_be_written_is_found_before_its_files_are_loaded(
    open_path: Path, servers: Servers
) -> None:
    closed = make_inbox(open_path / "closed", [line("idfa", "a")])
    opened = make_inbox(open_path / "open", [line("idfa", "b")])
    with as_nobody(open_path) as prefix:
        closed.directory.chmod(0o555)
        code, log = run_as(prefix, PARALLEL, "--pattern", f"{open_path}/*/*.tsv.gz", *addresses(servers))
        closed.directory.chmod(0o755)
    assert code == 1
    assert [text for text in log if f"{closed.directory}/0.tsv.gz: its directory can't be written" in text] != []
    assert closed.waiting() == ["0.tsv.gz"]
    assert opened.waiting() == []
    assert contents(servers) == expected(line("idfa", "b")).items


@pytest.mark.parametrize("option", ["--rejects", "--report"])
def test_a_place_for_rejects_or_report_that_cannot_be_written_does_not_stop_the_load(
    open_path: Path, servers: Servers, option: str
) -> None:
    inbox = make_inbox(open_path / "inbox", [line("idfa", "a") + b"rejected\n", line("idfa", "b")])
    closed = open_path / "closed"
    closed.mkdir()
    target = str(closed / "report.json" if option == "--report" else closed)
    with as_nobody(open_path) as prefix:
        closed.chmod(0o555)
        options = ("--max-error-rate", "1", option, target)
        code, log = run_as(prefix, PARALLEL, "--pattern", str(inbox.pattern), *addresses(servers), *options)
        closed.chmod(0o755)
    assert code == 1
    assert [text for text in log if "Permission denied" in text] != []
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items


# --- files that do not keep still ---------------------------------------------------------------


@both_loaders
def test_a_file_that_vanishes_while_it_is_read_is_an_error_and_the_others_go_on(
    inbox: Inbox, servers: Servers, loader: Sequence[str]
) -> None:
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, (inbox.directory / "0.tsv.gz").unlink)) as watch:
        finished = load_quickly(loader, inbox, servers, gaid=watch.address)
    assert finished.exit_code == 1
    assert finished.statuses() == {"0.tsv.gz": "error", "1.tsv.gz": "done", "2.tsv.gz": "done"}
    assert contents(servers) == expected(*inbox.logs).items


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(write_gz_bytes(line("dvid", "late")))


def replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(write_gz_bytes(line("dvid", "other")))
    path.with_suffix(".new").rename(path)


def write_gz_bytes(content: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        write_gz(Path(name) / "a", content)
        return (Path(name) / "a").read_bytes()


@both_loaders
@pytest.mark.parametrize("change", [grow, replace])
def test_a_file_that_changes_while_it_is_read_stays_pending(
    inbox: Inbox, servers: Servers, loader: Sequence[str], change: Callable[[Path], None]
) -> None:
    path = inbox.directory / "0.tsv.gz"
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, lambda: change(path))) as watch:
        finished = load_quickly(loader, inbox, servers, gaid=watch.address)
    assert finished.exit_code == 1
    assert set(finished.statuses().values()) == {"pending"}
    late_key = b"dvid:late" if change is grow else b"dvid:other"
    assert load_quickly(loader, inbox, servers).exit_code == 0
    assert late_key in contents(servers)
    assert inbox.waiting() == []
