"""The throttle: an exact rate over time, and nobody waits once the run is stopped."""

from __future__ import annotations

import threading
import time

import pytest

from memcload.cancel import Cancel
from memcload.throttle import Throttle


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
    monkeypatch.setattr("memcload.cancel.time.monotonic", clock.monotonic)
    monkeypatch.setattr("memcload.cancel.time.sleep", clock.sleep)
    return clock


@pytest.mark.parametrize("rate", [1, 7, 100, 50_000])
@pytest.mark.parametrize("portion", [1, 5])
def test_over_ten_seconds_the_rate_is_exact(clock: Clock, rate: int, portion: int) -> None:
    throttle = Throttle(rate, Cancel())
    started = clock.now
    passed = 0
    while clock.now < started + 10:
        assert throttle.wait(portion)
        passed += portion
    assert abs(passed - 10 * rate) <= max(0.05 * 10 * rate, 2 * portion)


def test_nothing_is_made_up_for_at_the_start(clock: Clock) -> None:
    throttle = Throttle(100, Cancel())
    started = clock.now
    for _ in range(11):
        throttle.wait(10)
    assert clock.now == pytest.approx(started + 1)


@pytest.mark.parametrize("pause", [0.5, 30.0, 3600.0])
def test_a_pause_is_not_made_up_for(clock: Clock, pause: float) -> None:
    throttle = Throttle(1000, Cancel())
    throttle.wait(1)
    clock.now += pause
    resumed = clock.now
    passed = 0
    while clock.now < resumed + 1:
        throttle.wait(10)
        passed += 10
    assert 1000 <= passed <= 1200


@pytest.mark.parametrize(("rate", "size"), [(0, None), (1, 1), (19, 1), (20, 1), (1000, 50), (100_000, 5000)])
def test_slices_are_small_enough_to_go_out_evenly(rate: int, size: int | None) -> None:
    assert Throttle(rate, Cancel()).slice_size == size


def test_without_a_rate_nobody_waits(clock: Clock) -> None:
    assert Throttle(0, Cancel()).wait(10**9)
    assert clock.now == 1000.0


def test_threads_share_one_rate() -> None:
    throttle = Throttle(2000, Cancel())
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: [throttle.wait(20) for _ in range(20)]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started > 0.95  # 2000 records; the last 20 are not waited for


def test_stopping_lets_all_go_who_wait() -> None:
    cancel = Cancel()
    throttle = Throttle(1, cancel)
    throttle.wait(1000)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(throttle.wait(1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    cancel.set()
    for thread in threads:
        thread.join(10)
    assert answers == [False] * 3
    assert not throttle.wait(1)
