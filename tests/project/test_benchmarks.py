"""The benchmark measures what it says, from end to end; how fast anything is, is not for a test to say."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import main, run
from benchmarks.data import Logs, LogStore
from benchmarks.measure import BenchmarkError, Laboratory, Measurement
from benchmarks.results import Results, Spread, rate
from benchmarks.subjects import Plan, Subject, live
from benchmarks.tables import spread
from tools.servers import MemcachedServer

TINY = Plan(rounds=1, small=100, records=100, largest=100, files=(1, 2), workers=(1,))


def measurement(seconds: float, *, cpu_seconds: float = 1.0, peak_bytes: int = 100_000_000) -> Measurement:
    return Measurement(100, {"load": seconds, "run": seconds, "whole": 2 * seconds}, cpu_seconds, 1.0, peak_bytes)


def test_a_tiny_run_writes_tables_numbers_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    tables = run(TINY, tmp_path / "data", tmp_path / "docs")

    for subject in TINY.side_by_side:
        assert subject.name in tables
    for heading in ("Side by side", "Goals", "Workers", "Number of files", "File size"):
        assert f"### {heading}" in tables

    numbers = json.loads((tmp_path / "docs/benchmark.json").read_text())
    assert len(numbers["subjects"]) == len(TINY.subjects)
    for subject in numbers["subjects"]:
        assert subject["records"] == 100
        assert len(subject["rounds"]) == 1
        assert subject["whole_records_per_second"]["median"] > 0
        assert subject["peak_megabytes"]["low"] > 1
    assert all(goal["low"] <= goal["median"] <= goal["high"] for goal in numbers["goals"])
    assert len(numbers["goals"]) == 12

    picture = ElementTree.parse(tmp_path / "docs/benchmark.svg").getroot()
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {subject.name for subject in TINY.side_by_side} <= set(texts)
    assert not list((tmp_path / "data").glob("inbox-*"))


def test_logs_are_made_once_and_the_kept_ones_are_never_renamed(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    first, second = store.paths(Logs(20, files=2))
    made = first.stat().st_mtime_ns
    with store.inbox(Logs(20, files=2)) as inbox:
        assert sorted(path.name for path in inbox.iterdir()) == [first.name, second.name]
        (inbox / first.name).rename(inbox / f".{first.name}")
    assert store.paths(Logs(20, files=2)) == [first, second]
    assert first.stat().st_mtime_ns == made
    assert store.paths(Logs(20)) != [first]


def test_a_subject_that_fails_is_named(servers: dict[str, MemcachedServer], tmp_path: Path) -> None:
    laboratory = Laboratory(servers, LogStore(tmp_path))
    with pytest.raises(BenchmarkError, match="no such way: exit code 1"):
        laboratory.measure(Subject("no such way", ("-m", "benchmarks.no_such_way"), Logs(10)))


def test_a_subject_that_does_not_store_what_it_says_is_named(
    servers: dict[str, MemcachedServer], tmp_path: Path
) -> None:
    laboratory = Laboratory(servers, LogStore(tmp_path))
    with pytest.raises(BenchmarkError, match="idle: the servers hold 0 records, not 10"):
        laboratory.measure(Subject("idle", ("-m", "benchmarks.decompression"), Logs(10)))


def test_ratios_are_taken_within_each_round() -> None:
    fast, slow = live(Logs(100)), live(Logs(100), "--workers", "1")
    rounds = [
        {fast: measurement(1 * load), slow: measurement(times * load)} for load, times in ((1, 2), (5, 4), (9, 3))
    ]
    results = Results(TINY, rounds)
    assert results.ratio(fast, slow, rate("load")) == pytest.approx((3, 2, 4))
    assert results.of(fast, rate("load")) == pytest.approx((20, 100 / 9, 100))


def test_goals_are_computed_from_the_rounds() -> None:
    measured = {subject: measurement(10, peak_bytes=300_000_000) for subject in TINY.subjects}
    measured[TINY.dry] = measurement(12)
    goals = Results(TINY, [measured]).goals()
    dry_load, dry_whole = (goal for goal in goals if goal.text == "dry against decompression alone")
    assert dry_load.spread.median == pytest.approx(10 / 12)
    assert dry_load.reached
    assert dry_whole.spread.median == pytest.approx(10 / 24)
    assert not dry_whole.reached
    [memory] = [goal for goal in goals if goal.text == "peak memory at any file size"]
    assert memory.spread.median == 300
    assert not memory.reached


@pytest.mark.parametrize(
    ("values", "written"),
    [((1_234_567.0, 1_200_000.0, 1_999_999.0), "1,230,000 (1,200,000-2,000,000)"), ((7.0, 6.6, 8.0), "7 (7-8)")],
)
def test_figures_are_written_with_three_digits_and_their_spread(values: tuple[float, ...], written: str) -> None:
    assert spread(Spread(*values)) == written


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rounds", "0"], "0 rounds measure nothing"),
        (["--largest", "3400100"], "3400100 records can't be spread evenly over 1000 files"),
        (["--largest", "100"], "100 records: each must not be below the last"),
    ],
)
def test_a_plan_that_can_not_be_is_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert complaint in capsys.readouterr().err
