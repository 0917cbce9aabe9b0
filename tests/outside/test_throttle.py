"""--max-rate: no more than that many records a second over all servers, evenly, and no obstacle to stopping.

The rate is observed at the servers. Bounds leave room for a machine that is busy with other things: it can only
make a load slower.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pymemcache.client.base import Client

from tests.outside.loading import (
    DEFAULT,
    PARALLEL,
    REFERENCE,
    Loader,
    Running,
    all_loaders,
    both_loaders,
    load,
    with_report,
)
from tests.outside.logs import line, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.spec import expected
from tests.outside.trials import wait_until
from tools.servers import connect


class Observer:
    """Samples how many records the servers were sent so far."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._first = self._sets()
        self.samples = [(time.monotonic(), 0)]

    def _sets(self) -> int:
        return sum(int(client.stats()[b"cmd_set"]) for client in self._clients)

    def sample(self, *, always: bool = False) -> None:
        before = time.monotonic()
        count = self._sets() - self._first
        if always or time.monotonic() - before < 0.05:  # or it says little about when
            self.samples.append((before, count))

    def busiest(self, seconds: float) -> int:
        """Return the most records that came within that many seconds."""
        return max(
            later - earlier
            for start, earlier in self.samples
            for end, later in self.samples
            if start <= end <= start + seconds
        )


@contextmanager
def observed(servers: Servers) -> Iterator[Observer]:
    """Sample at the servers for as long as the context lasts."""
    clients = []
    managers = [connect(server.address) for server in servers.values()]
    for manager in managers:
        clients.append(manager.__enter__())
    observer = Observer(clients)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            observer.sample()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield observer
    finally:
        ended.set()
        thread.join()
        observer.sample(always=True)
        for manager in managers:
            manager.__exit__(None, None, None)


@pytest.mark.parametrize("loader", [REFERENCE, PARALLEL, DEFAULT], ids=["reference", "parallel", "default"])
def test_records_come_evenly_and_no_faster_than_asked_for(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    rate, count = 2000, 4000
    log = write_gz(tmp_path / "a.gz", numbered(count))
    with observed(servers) as observer:
        finished = load(loader, tmp_path / "*", servers, "--max-rate", str(rate))
    assert contents(servers) == expected(log).items
    assert 0.95 * count / rate < finished.report["seconds"] < 5 * count / rate
    assert observer.samples[-1][1] == count
    assert observer.busiest(1.0) < 1.3 * rate


@both_loaders
def test_the_rate_holds_over_small_files_and_one_busy_server(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for number in range(30):
        write_gz(tmp_path / f"{number:02}.gz", numbered(20, types=["adid"], prefix=f"{number}-"))
    finished = load(loader, tmp_path / "*", servers, "--max-rate", "600")
    assert finished.report["totals"]["stored"] == 600
    assert 0.85 < finished.report["seconds"] < 10


@all_loaders
def test_what_was_not_sent_while_a_server_paused_is_not_made_up_for(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    rate, count = 1000, 3000
    write_gz(tmp_path / "a.gz", numbered(count, types=["idfa"]))
    options = [*addresses(servers), "--max-rate", str(rate), "--timeout", "20", "--report", "-"]
    with observed(servers) as observer, Running(loader, tmp_path / "*", *options) as running:
        wait_until(lambda: observer.samples[-1][1] > 500)
        servers["idfa"].freeze()
        time.sleep(1.5)
        servers["idfa"].thaw()
        finished = with_report(running.finish())
    assert finished.exit_code == 0
    assert finished.report["seconds"] > 0.95 * (count / rate + 1.4)  # some may have been on their way


@both_loaders
def test_rejected_and_blank_lines_do_not_wait(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", (b"rejected\n" + b"\n") * 500 + numbered(2))
    assert load(loader, tmp_path / "*", servers, "--max-rate", "2").report["seconds"] < 5


@pytest.mark.parametrize(
    ("loader", "number", "exit_code"),
    [(REFERENCE, signal.SIGTERM, 143), (DEFAULT, signal.SIGINT, 130)],
    ids=["reference", "parallel"],
)
def test_a_signal_does_not_wait_for_the_throttle(
    tmp_path: Path, servers: Servers, loader: Loader, number: signal.Signals, exit_code: int
) -> None:
    inbox, report = tmp_path / "inbox", tmp_path / "report.json"
    inbox.mkdir()
    write_gz(inbox / "a.gz", numbered(4000))
    options = [*addresses(servers), "--max-rate", "4", "--report", str(report)]
    with Running(loader, inbox / "*", *options) as running:
        wait_until(lambda: contents(servers))
        running.send(number)
        running.process.wait(4)  # a block would take many minutes
        finished = running.finish()
    assert finished.exit_code == exit_code
    assert names(inbox) == ["a.gz"]
    assert json.loads(report.read_bytes())["totals"]["stored"] <= len(contents(servers)) < 100


# --- --ttl --------------------------------------------------------------------------------------


@both_loaders
def test_records_expire_when_asked_to(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", line() + line("gaid"))
    load(loader, tmp_path / "*", servers, "--ttl", "2")
    write_gz(tmp_path / "b.gz", line("gaid", "stays"))
    load(loader, tmp_path / "*", servers)
    with servers["idfa"].client() as idfa, servers["gaid"].client() as gaid:
        key = "1rfw452y52g2gq4g"
        assert gaid.get("gaid:stays")
        wait_until(lambda: not idfa.get(f"idfa:{key}") and not gaid.get(f"gaid:{key}"))
        assert gaid.get("gaid:stays")


@both_loaders
def test_a_rate_and_an_expiry_go_together(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(40))
    load(loader, tmp_path / "*", servers, "--ttl", "1000", "--max-rate", "400")
    held = contents(servers)
    assert len(held) == 40
    assert all(990 <= item.expires_in <= 1001 for item in held.values())
