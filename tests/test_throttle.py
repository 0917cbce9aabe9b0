"""--max-rate: no more than so many records a second over all servers, evenly, and no obstacle to stopping.

The rate is observed at the servers. Bounds leave room for a machine that is busy with other things: it can only
make a load slower.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pymemcache.client.base import Client

from memcload.throttle import Throttle
from tests.loading import (
    FASTEST,
    PARALLEL,
    REFERENCE,
    Running,
    Servers,
    addresses,
    both_loaders,
    contents,
    expected,
    line,
    load_quickly,
    names,
    numbered,
    write_gz,
)
from tools.servers import connect

# --- the throttle itself ------------------------------------------------------------------------


class Clock:
    """A time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that a throttle made by the test goes by."""
    clock = Clock()
    monkeypatch.setattr("memcload.throttle.time.monotonic", clock.monotonic)
    monkeypatch.setattr("memcload.throttle.time.sleep", clock.sleep)
    return clock


@pytest.mark.parametrize("rate", [1, 7, 100, 50_000])
@pytest.mark.parametrize("portion", [1, 5])
def test_over_ten_seconds_the_rate_is_exact(clock: Clock, rate: int, portion: int) -> None:
    throttle = Throttle(rate)
    started = clock.now
    passed = 0
    while clock.now < started + 10:
        assert throttle.wait(portion)
        passed += portion
    assert abs(passed - 10 * rate) <= max(0.05 * 10 * rate, 2 * portion)


def test_nothing_is_made_up_for_at_the_start(clock: Clock) -> None:
    throttle = Throttle(100)
    started = clock.now
    for _ in range(11):
        throttle.wait(10)
    assert clock.now == pytest.approx(started + 1)


@pytest.mark.parametrize("pause", [0.5, 30.0, 3600.0])
def test_a_pause_is_not_made_up_for(clock: Clock, pause: float) -> None:
    throttle = Throttle(1000)
    throttle.wait(1)
    clock.now += pause
    resumed = clock.now
    passed = 0
    while clock.now < resumed + 1:
        throttle.wait(10)
        passed += 10
    assert 1000 <= passed <= 1200


@pytest.mark.parametrize(("rate", "size"), [(0, None), (1, 1), (19, 1), (20, 1), (1000, 50), (100_000, 5000)])
def test_pieces_are_small_enough_to_go_out_evenly(rate: int, size: int | None) -> None:
    assert Throttle(rate).piece_size == size


def test_without_a_rate_nobody_waits(clock: Clock) -> None:
    assert Throttle(0).wait(10**9)
    assert clock.now == 1000.0


def test_threads_share_one_rate() -> None:
    throttle = Throttle(2000)
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: [throttle.wait(20) for _ in range(20)]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started > 0.95  # 2000 records; the last 20 are not waited for


def test_stopping_lets_all_go_who_wait() -> None:
    stop = threading.Event()
    throttle = Throttle(1, stop.is_set)
    throttle.wait(1000)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(throttle.wait(1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    stop.set()
    for thread in threads:
        thread.join(10)
    assert answers == [False] * 3
    assert not throttle.wait(1)


# --- a load -------------------------------------------------------------------------------------


class Observer:
    """Samples how many records the servers were sent so far."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._first = self._sets()
        self.samples = [(time.monotonic(), 0)]

    def _sets(self) -> int:
        return sum(int(client.stats()[b"cmd_set"]) for client in self._clients)

    def sample(self) -> None:
        before = time.monotonic()
        count = self._sets() - self._first
        if time.monotonic() - before < 0.05:  # or it says little about when
            self.samples.append((before, count))

    def busiest(self, seconds: float) -> int:
        """Return the most records that came within so many seconds."""
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
        for manager in managers:
            manager.__exit__(None, None, None)


@pytest.mark.parametrize("loader", [REFERENCE, PARALLEL, FASTEST], ids=["reference", "parallel", "default"])
def test_records_come_evenly_and_no_faster_than_asked_for(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    rate, count = 2000, 4000
    log = write_gz(tmp_path / "a.gz", numbered(count))
    with observed(servers) as observer:
        finished = load_quickly(loader, tmp_path / "*", servers, "--max-rate", str(rate))
        observer.sample()
    assert contents(servers) == expected(log).items
    assert 0.95 * count / rate < finished.report["seconds"] < 5 * count / rate
    assert observer.samples[-1][1] == count
    assert observer.busiest(1.0) < 1.3 * rate


@both_loaders
def test_the_rate_holds_over_small_files_and_one_busy_server(
    tmp_path: Path, servers: Servers, loader: Sequence[str]
) -> None:
    for number in range(30):
        write_gz(tmp_path / f"{number:02}.gz", numbered(20, types=["adid"], prefix=f"{number}-"))
    finished = load_quickly(loader, tmp_path / "*", servers, "--max-rate", "600")
    assert finished.report["totals"]["stored"] == 600
    assert 0.85 < finished.report["seconds"] < 10


@both_loaders
def test_rejected_and_blank_lines_do_not_wait(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    write_gz(tmp_path / "a.gz", (b"rejected\n" + b"\n") * 500 + numbered(2))
    assert load_quickly(loader, tmp_path / "*", servers, "--max-rate", "2").report["seconds"] < 5


@pytest.mark.parametrize(
    ("loader", "number", "exit_code"),
    [(REFERENCE, signal.SIGTERM, 143), (FASTEST, signal.SIGINT, 130)],
    ids=["reference", "parallel"],
)
def test_a_signal_does_not_wait_for_the_throttle(
    tmp_path: Path, servers: Servers, loader: Sequence[str], number: signal.Signals, exit_code: int
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


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- --ttl --------------------------------------------------------------------------------------


@both_loaders
def test_records_expire_when_asked_to(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    write_gz(tmp_path / "a.gz", line() + line("gaid"))
    load_quickly(loader, tmp_path / "*", servers, "--ttl", "2")
    write_gz(tmp_path / "b.gz", line("gaid", "stays"))
    load_quickly(loader, tmp_path / "*", servers)
    with servers["idfa"].client() as idfa, servers["gaid"].client() as gaid:
        key = "1rfw452y52g2gq4g"
        assert gaid.get("gaid:stays")
        wait_until(lambda: not idfa.get(f"idfa:{key}") and not gaid.get(f"gaid:{key}"))
        assert gaid.get("gaid:stays")


@both_loaders
def test_a_rate_and_an_expiry_go_together(tmp_path: Path, servers: Servers, loader: Sequence[str]) -> None:
    write_gz(tmp_path / "a.gz", numbered(40))
    load_quickly(loader, tmp_path / "*", servers, "--ttl", "1000", "--max-rate", "400")
    held = contents(servers)
    assert len(held) == 40
    assert all(990 <= item.expires_in <= 1001 for item in held.values())
