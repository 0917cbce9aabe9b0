"""Permits: nobody writes for a window that is closed, and none is opened while somebody may still write."""

from __future__ import annotations

import time

import pytest

from memcload.cluster import leases, permit
from memcload.cluster.leases import COORDINATOR_LEASE, LEASE, Leases, lasting
from memcload.cluster.permit import Permit, Superseded

TIMEOUT = 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "boot_clock", clock)
    return clock


def test_only_the_open_window_gets_permits(clock: Clock) -> None:
    permits = Leases(TIMEOUT, 0)
    assert permits.permit("1", "a", "w") == "closed"
    assert permits.open("1")
    assert permits.permit("1", "a", "w") == "granted"
    assert permits.permit("2", "b", "w") == "closed"
    assert not permits.close()
    assert permits.permit("1", "a", "w") == "closed"


def test_a_window_is_not_opened_before_every_permit_of_the_last_is_given_back(clock: Clock) -> None:
    permits = Leases(TIMEOUT, 0)
    assert permits.open("1")
    permits.permit("1", "a", "w")
    permits.close()
    assert not permits.open("2")
    permits.give_back("a")
    assert permits.close()
    assert permits.open("2")


def test_or_has_run_out_with_the_requests_that_were_begun_with_it(clock: Clock) -> None:
    permits = Leases(TIMEOUT, 0)
    assert permits.open("1")
    permits.permit("1", "a", "first worker")
    clock.now += LEASE + TIMEOUT
    assert permits.lapse() == set()
    assert not permits.close()
    clock.now = 100 + lasting(TIMEOUT) + 0.01
    assert permits.lapse() == {"first worker"}
    assert permits.open("2")


def test_a_renewed_permit_lasts_longer(clock: Clock) -> None:
    permits = Leases(TIMEOUT, 0)
    permits.open("1")
    for _ in range(10):
        assert permits.permit("1", "a", "w") == "granted"
        clock.now += LEASE / 2
        permits.see_coordinator()
    assert permits.lapse() == set()


def test_without_a_sign_of_the_coordinator_nothing_is_granted(clock: Clock) -> None:
    permits = Leases(TIMEOUT, 0)
    permits.open("1")
    clock.now += COORDINATOR_LEASE + 1
    assert permits.permit("1", "a", "w") == "wait"
    permits.see_coordinator()
    assert permits.permit("1", "a", "w") == "granted"


def test_a_run_that_has_ended_opens_nothing(clock: Clock) -> None:
    permits = Leases(TIMEOUT, 0)
    permits.open("1")
    permits.permit("1", "a", "w")
    permits.end()
    assert permits.permit("1", "a", "w") == "closed"
    assert permits.are_out
    permits.give_back("a")
    assert not permits.open("2")


def test_nothing_is_opened_while_permits_of_before_may_be_out(clock: Clock) -> None:
    permits = Leases(TIMEOUT, 0, opens_at=103.0)
    assert not permits.open("1")
    clock.now = 103.0
    assert permits.open("1")


def test_the_rate_is_one_for_all(clock: Clock) -> None:
    permits = Leases(TIMEOUT, 1000)
    waits = [permits.reserve(100) for _ in range(4)]
    assert waits[1:] == pytest.approx([waits[0] + 0.1 * number for number in (1, 2, 3)], abs=0.11)
    assert Leases(TIMEOUT, 0).reserve(1_000_000) == 0


@pytest.mark.parametrize("answer", ["closed", None])  # None: the scheduler knows nothing of the run any more
def test_a_delivery_of_a_run_that_is_over_gives_up_at_once(answer: str | None) -> None:
    with pytest.raises(Superseded), Permit(lambda action, **what: answer, "w").hold("1"):
        pass


def test_a_delivery_waits_for_a_coordinator_that_is_frozen_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permit, "_PATIENCE", 0.1)
    answers = iter(["wait"] * 6 + ["granted"] * 99)
    with Permit(lambda action, **what: next(answers), "w").hold("1") as held:
        assert not held.is_set


def test_a_delivery_gives_up_where_the_scheduler_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permit, "_PATIENCE", 0.1)

    def ask(action: str, **what: object) -> str:
        raise OSError

    with pytest.raises(Superseded, match="has not answered"), Permit(ask, "w").hold("1"):
        pass


def test_a_permit_that_is_not_renewed_runs_out_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does for a process that was frozen, or is cut off from the scheduler alone."""
    monkeypatch.setattr(permit, "LEASE", 0.2)
    answers = iter(["granted"])

    def ask(action: str, **what: object) -> str:
        if (answer := next(answers, None)) is None:
            raise OSError
        return answer

    with Permit(ask, "w").hold("1") as held:
        assert not held.is_set
        assert held.requested_at is None
        time.sleep(0.3)
        assert held.is_set
        assert held.requested_at is not None
