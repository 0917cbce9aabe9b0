"""The benchmark measures what it says, from end to end; how fast anything is, is not for a test to say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import reader, replies, startup
from benchmarks.__main__ import DOCUMENTS, main, write
from benchmarks.data import Logs, LogStore
from benchmarks.farm import Farm, Farms, Setup, hashpower
from benchmarks.goals import goals
from benchmarks.measure import PROJECT, BenchmarkError, Laboratory
from benchmarks.picture import draw
from benchmarks.plan import DECOMPRESSION, DRY, LIMIT, LIVE, QUICK, USUAL_WAY, Plan, Subject
from benchmarks.results import Figures, Results, Row, Spread
from benchmarks.sections import SECTIONS
from benchmarks.tables import blocks, fill, written
from tools.servers import MemcachedServer

SETTING = {"cores": 2, "python": "3.11.7", "memcached": "1.6.18", "seed": 2017, "rounds": 2}

RATES = {
    "whole_records_per_second": 50.0,
    "records_per_second": 100.0,
    "whole_seconds": 0.3,
    "busy": 0.9,
    "cpu_microseconds_per_record": 1.0,
    "memcached_cpu_microseconds_per_record": 1.2,
    "peak_megabytes": 100.0,
}
LATENCIES = {"p50_microseconds": 25.0, "p99_microseconds": 900.0, "reads": 1800}
STEP = {"milliseconds": 20.0, "more_milliseconds": 10.0}
COSTS = {
    "whole_nanoseconds": 5.0,
    "long_nanoseconds": 200.0,
    "short_nanoseconds": 180.0,
    "long_to_short": 1.1,
    "calls_nanoseconds": 70.0,
}


def made_up(plan: Plan) -> Results:
    """Return results of a plan without measuring anything: the same for every subject."""
    rows = [
        Row(section, subject.name, [RATES] * 2, {"records": subject.logs.records, "files": subject.logs.files})
        for section, subjects in plan.loads().items()
        for subject in subjects
    ]
    rows.insert(1, Row("limit", LIMIT, [{"whole_records_per_second": 80.0}] * 2, rows[0].facts))
    others: list[tuple[str, Figures, Sequence[str]]] = [
        ("reader", LATENCIES, (reader.IDLE, reader.FULL_SPEED, reader.THROTTLED)),
        ("startup", STEP, ("Python itself", startup.LOAD, startup.HELP, startup.VERSION)),
        ("replies", COSTS, list(replies.KINDS)),
    ]
    rows += [Row(section, name, [figures] * 2) for section, figures, names in others for name in names]
    return Results(SETTING, rows)


def test_a_quick_run_measures_each_kind_of_thing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba")
    sections = ("limit", "rival", "tls", "reader", "startup", "replies")
    assert main(["--quick", "--data", str(tmp_path), *(word for name in sections for word in ("--only", name))]) == 0
    assert re.findall(r"^### (\w+)$", capsys.readouterr().out, re.MULTILINE) == ["setting", *sections, "goals"]

    results = Results.from_json(json.loads((tmp_path / "benchmark.json").read_text()))
    assert [row.name for row in results.section("limit")] == [LIVE, LIMIT, DRY, DECOMPRESSION]
    assert [row.name for row in results.section("tls")] == ["plain", "TLS"]
    assert results.row("rival", USUAL_WAY).facts == {"records": QUICK.records, "files": 10}
    assert results.row("reader", reader.FULL_SPEED).spread("reads").low > 10
    assert results.row("startup", startup.LOAD).spread("milliseconds").low > 10
    for row in results.rows:
        assert len(row.rounds) == 1
        assert all(value >= 0 for figure, value in row.rounds[0].items() if figure != "more_milliseconds"), row
    assert not list(tmp_path.glob("load-*"))


def test_results_become_numbers_a_picture_and_tables(tmp_path: Path) -> None:
    results = made_up(Plan())
    document = tmp_path / DOCUMENTS[0]
    document.write_text("Before\n<!-- bench:sizes -->\nold\n<!-- /bench -->\nBehind\n")
    write(results, tmp_path)

    numbers = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(numbers["goals"]) == 15
    assert Results.from_json(numbers).rows == results.rows
    one = next(subject for subject in numbers["subjects"] if subject["name"] == LIVE)
    assert one["whole_records_per_second"] == {"median": 50, "low": 50, "high": 50}

    before, *table, behind = document.read_text().splitlines()
    assert (before, behind) == ("Before", "Behind")
    assert "old" not in table
    assert any(line.startswith("| 3,400,000 records ") for line in table)

    picture = ElementTree.parse(tmp_path / "benchmark.svg").getroot()
    texts = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {LIVE, LIMIT, DRY, DECOMPRESSION, USUAL_WAY, "3.4M"} <= texts


def test_every_section_has_its_table() -> None:
    tables = blocks(made_up(Plan()))
    assert set(tables) == {"setting", *SECTIONS, "goals"}
    for subject in (subject for subjects in Plan().loads().values() for subject in subjects):
        assert any(subject.name in text for text in tables.values())


def test_the_documents_have_the_tables_of_the_committed_results() -> None:
    numbers = json.loads((PROJECT / "docs" / "benchmark.json").read_text())
    for name in DOCUMENTS:
        text = (PROJECT / "docs" / name).read_text()
        assert set(re.findall(r"<!-- bench:(\w+) -->", text)) <= {"setting", *SECTIONS, "goals"}
        assert fill(text, Results.from_json(numbers)) == text


def test_what_was_not_measured_has_no_goals_and_no_bars() -> None:
    empty = Results(SETTING, [])
    assert goals(empty) == []
    ElementTree.fromstring(draw(empty))


def test_logs_are_made_once_and_the_kept_ones_are_never_renamed(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.prepare([Logs(20, files=2), Logs(20, files=2)])
    first, second = store.paths(Logs(20, files=2))
    made = first.stat().st_mtime_ns
    with store.linked(Logs(20, files=2)) as directory:
        assert sorted(path.name for path in directory.iterdir()) == [first.name, second.name]
        (directory / first.name).rename(directory / f".{first.name}")
    assert store.paths(Logs(20, files=2)) == [first, second]
    assert first.stat().st_mtime_ns == made
    assert store.paths(Logs(20)) != [first]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no_such_way", "this one: exit code 1"),
        ("decompression", "this one: None records of 10"),
    ],
)
def test_a_subject_that_does_not_do_what_it_should_is_named(
    module: str, message: str, servers: dict[str, MemcachedServer], tmp_path: Path
) -> None:
    laboratory = Laboratory(LogStore(tmp_path), Farms(tmp_path))
    farm = Farm({name: [server] for name, server in servers.items()}, ca=None)
    with pytest.raises(BenchmarkError, match=message):
        laboratory.load(Subject("this one", ("-m", f"benchmarks.{module}"), Logs(10)), farm)


@pytest.mark.parametrize(
    ("setup", "records", "options"),
    [
        (Setup(), 2_000_000, ("-o", "hashpower=19")),
        (Setup(servers=3), 2_000_000, ("-o", "hashpower=17")),
        (Setup(), 3_400_000, ("-o", "hashpower=20")),
        (Setup(), 1_000, ("-o", "hashpower=16")),
        (Setup(tuned=False), 2_000_000, ("-m", "1024")),
    ],
)
def test_servers_are_set_up_for_what_they_will_hold(setup: Setup, records: int, options: tuple[str, str]) -> None:
    assert setup.options(records)[-2:] == options
    if setup.tuned:
        assert 1.5 * 2 ** hashpower(records / 4 / setup.servers) >= records / 4 / setup.servers


def test_ratios_are_taken_within_each_round() -> None:
    slow, fast = (Row("sizes", "", [{"rate": rate} for rate in rates]) for rates in ((10, 2, 3), (20, 8, 9)))
    assert fast.ratio(slow, "rate") == Spread(3, 2, 4)
    assert slow.spread("rate") == Spread(3, 2, 10)


def test_goals_say_if_they_are_reached() -> None:
    found = {goal.text: goal for goal in goals(made_up(Plan()))}
    limit = found[f"{LIVE} / {LIMIT}"]
    assert limit.spread.median == pytest.approx(50 / 80)
    assert not limit.is_reached
    assert not found["1,000 records, the whole process"].is_reached
    assert found["peak memory, for any number of records"].is_reached
    assert found["3 servers a type / 1 server a type"].is_reached
    assert found["--help, the whole process"].is_reached


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((1_234_567.0, 1_200_000.0, 1_999_999.0), "1,230,000 (1,200,000 to 2,000,000)"),
        ((7.0, 6.6, 8.0), "7 (7 to 8)"),
        ((7.0, 7.0, 7.0), "7"),
    ],
)
def test_figures_are_written_with_three_digits_and_their_spread(values: tuple[float, float, float], shown: str) -> None:
    assert written(Spread(*values)) == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--rounds", "0"], "0 rounds measure nothing"), (["--only", "nothing"], "invalid choice: 'nothing'")],
)
def test_wrong_usage_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err
