"""The summary of a run: its numbers, and a sentence for each thing that somebody has to know or do."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from memcload.log import LOG, start_logging
from memcload.memcached.server import ServerState
from memcload.outcome import Verdict
from memcload.output.advice import next_steps
from memcload.output.results import Results
from memcload.output.summary import summarize
from tests.inside.results import make_file, make_results

FAILED = Verdict("pending", "records_failed", "69 of its records failed: idfa host1:1: refused", holds_back=True)
LATER = Verdict("pending", "earlier_file_pending", "an earlier file, /a, is pending", holds_back=True)


@pytest.fixture(autouse=True)
def _log_is_put_back() -> Iterator[None]:
    before = LOG.handlers[:], LOG.level, LOG.propagate
    yield
    for handler in LOG.handlers:
        handler.close()
    LOG.handlers[:], LOG.level, LOG.propagate = before


def summary(
    results: Results, log: Path | None = None, *, as_table: bool = True, width: int = 80, encoding: str = "utf-8"
) -> list[str]:
    """Return what the summary of a run looks like on standard error, without times."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.TextIOWrapper(io.BytesIO(), encoding)) as error:
        patch.setenv("COLUMNS", str(width))
        start_logging(None if log is None else str(log), "info")
        summarize(results, as_table=as_table)
        assert isinstance(error, io.TextIOWrapper)
        error.seek(0)
        rows = [row.rstrip() for row in error.read().splitlines()]
    return [row[22:] if row.startswith("[") else row for row in rows if row]


def busy(servers_of_a_type: int = 1) -> Results:
    """Return the results of a large load with a bit of everything."""
    files = [make_file(stored=3_380_492, failed=69, rejected=1237, partial=7), make_file("/b", FAILED)]
    return make_results(servers_of_a_type, files, exit_code=1)


# --- the tables ---------------------------------------------------------------------------------


def test_the_tables_have_all_numbers() -> None:
    rows = [row.split("  ") for row in summary(busy())[:13]]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["files", "1 done, 1 pending"],
        ["records", "3,381,798"],
        ["stored", "3,380,492"],
        ["rejected", "1,237 (1,237 apps)"],
        ["partial", "7"],
        ["failed", "69"],
        ["duration", "12.3 s"],
        ["rate", "273,927 records/s"],
        ["device type", "address", "stored", "failed", "retries", "evictions", "restarts"],
        ["idfa", "host1:1", "3,380,492", "69", "0", "0", "0"],
        ["gaid", "host2:1", "0", "0", "0", "0", "0"],
        ["adid", "host3:1", "0", "0", "0", "0", "0"],
        ["dvid", "host4:1", "0", "0", "0", "0", "0"],
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("width", [20, 40, 71, 72, 80, 200])
def test_the_summary_fits_the_terminal(width: int, encoding: str) -> None:
    rows = summary(busy(), width=width, encoding=encoding)
    assert max(map(len, rows)) <= width
    assert "3,380,492" in "\n".join(rows)
    assert "\\" not in "\n".join(rows)


def test_of_very_many_servers_those_with_trouble_have_a_row() -> None:
    results = busy(64)
    results.servers["host70:1"].evictions = 5
    rows = summary(results)[9:-2]
    assert [row.split()[:3] for row in rows[:6]] == [
        ["idfa", "host1:1", "3,380,492"],
        ["idfa", "63", "servers"],
        ["gaid", "host70:1", "0"],
        ["gaid", "63", "servers"],
        ["adid", "64", "servers"],
        ["dvid", "64", "servers"],
    ]


def test_an_address_is_shown_as_it_is() -> None:
    results = make_results(1, [make_file()])
    partition = results.partitions[0]._replace(server="unix:/run/[bold]:bomb:")
    results.partitions[0] = partition  # type: ignore[index]
    results.servers[partition.server] = results.servers["host1:1"]  # type: ignore[index]
    assert any("unix:/run/[bold]:bomb:" in row for row in summary(results, width=100))


# --- where it goes ------------------------------------------------------------------------------


def test_without_a_table_it_is_logged() -> None:
    total, *devices, reason, step = summary(busy(), as_table=False)
    assert total.startswith("I Summary: files 1 done, 1 pending; records 3,381,798; stored 3,380,492; rejected 1,237")
    assert devices[0] == (
        "I Summary: device type idfa, address host1:1, stored 3,380,492, failed 69, retries 0, evictions 0, restarts 0"
    )
    assert len(devices) == 4
    assert reason == f"W /b is pending: {FAILED.detail}"
    assert step == "W 1 file is pending: run again"


def test_with_a_log_file_both_get_it(tmp_path: Path) -> None:
    rows = summary(busy(), tmp_path / "log")
    logged = [line[22:] for line in (tmp_path / "log").read_text().splitlines()]
    assert rows[-1] == "1 file is pending: run again"
    assert logged[-1] == f"W {rows[-1]}"
    assert logged[0].startswith("I Summary: files 1 done, 1 pending;")


def test_with_a_log_file_alone_the_console_gets_nothing(tmp_path: Path) -> None:
    assert summary(busy(), tmp_path / "log", as_table=False) == []


# --- what to do next ----------------------------------------------------------------------------


def test_after_a_good_run_there_is_nothing_to_do() -> None:
    assert next_steps(make_results(3, [make_file(stored=1000)])) == []
    only = Verdict("pending", "partly_loaded", "only idfa records were loaded (--only)")
    assert next_steps(make_results(1, [make_file("/a", only), make_file("/b", Verdict("dry"))])) == []


@pytest.mark.parametrize(
    ("states", "answer"),
    [
        ({"host2:1": "down"}, "host2:1 answers"),
        ({"host2:1": "down", "host4:1": "down", "host1:1": "retrying"}, "host2:1 and host4:1 answer"),
        ({f"host{n}:1": "down" for n in range(1, 13)}, "host1:1, host2:1, host3:1, host4:1 and 8 more answer"),
    ],
)
def test_pending_files_wait_for_the_servers_that_are_down(states: dict[str, ServerState], answer: str) -> None:
    results = make_results(3, [make_file("/a", FAILED), make_file("/b", LATER)])
    for address, state in states.items():
        results.servers[address].report(None, state)
    assert next_steps(results) == [
        f"/a is pending: {FAILED.detail}",
        f"2 files are pending: run again once {answer}",
    ]


def test_a_done_file_that_is_pending_again_needs_again() -> None:
    assert next_steps(make_results(1, [make_file("/.a", FAILED)]))[-1].endswith("pending: run again with --again")


def test_the_first_reasons_are_enough() -> None:
    steps = next_steps(make_results(1, [make_file(f"/{number}", FAILED) for number in range(100)]))
    assert len(steps) == 4
    assert steps[-1].startswith("100 files are pending: ")


def test_damaged_files_errors_and_rejects_are_told_apart() -> None:
    files = [make_file(verdict=Verdict("damaged")), make_file(verdict=Verdict("error"))]
    files += [make_file(verdict=Verdict("error", "rename_failed")), make_file(rejected=1)]
    assert [step.split(":")[0] for step in next_steps(make_results(1, files))] == [
        "1 file is damaged",
        "1 file could not be loaded",
        "1 file could not be renamed after the load",
        "1 file has too many rejected lines",
    ]


def test_a_young_file_waits_for_the_next_run() -> None:
    young = Verdict("pending", "still_being_written", "it is probably still being written", holds_back=True)
    assert next_steps(make_results(1, [make_file("/a", young), make_file("/b", LATER)])) == [
        "/a is pending: it is probably still being written",
        "2 files are pending: the next run will try again",
    ]
    mixed = [make_file("/a", young), make_file("/b", FAILED)]
    assert next_steps(make_results(1, mixed))[-1] == "2 files are pending: run again"
    assert next_steps(make_results(1, [make_file("/.a", young)]))[-1] == "1 file is pending: run again with --again"


def test_only_rejected_lines_that_were_saved_are_to_be_looked_at() -> None:
    files = [make_file(rejected=1) for _ in range(3)]
    files[0].rejects_saved_as = "/logs/.a.gz.rejects.tsv"
    assert next_steps(make_results(1, files)) == [
        "1 file has too many rejected lines: look at its .rejects.tsv file",
        "2 files have too many rejected lines: the log shows the first few; --max-error-rate allows more",
    ]


def test_without_files_there_are_no_zeros() -> None:
    assert summary(make_results()) == ["files  none"]
    assert summary(make_results(), as_table=False) == ["I Summary: files none"]


def test_evictions_are_told_server_by_server_with_what_to_do() -> None:
    results = make_results(2)
    results.servers["host1:1"].evictions = 70_910
    results.servers["host2:1"].evictions = 1
    one, other = next_steps(results)
    assert "host1:1 evicted 70910 items during this run: the data does not fit its memory (memcached -m)" in one
    assert "host2:1 evicted 1 items" in other


def test_hash_tables_that_grew_are_told_with_the_option_that_spares_it() -> None:
    results = make_results(1)
    for address, grown in (("host1:1", b"20"), ("host2:1", b"21"), ("host3:1", b"20"), ("host4:1", b"16")):
        for power in (b"16", grown):
            stats = {
                b"pid": b"1",
                b"time": b"2",
                b"uptime": b"1",
                b"curr_items": b"1000000",
                b"hash_power_level": power,
            }
            results.servers[address].learn(stats, 0)
    (step,) = next_steps(results)
    assert step.startswith(
        "the hash tables of host1:1, host2:1 and host3:1 grew during the load from 65,536 to 2,097,152 b"
    )
    assert step.endswith("-o hashpower=20")


def test_the_log_is_quiet_below_its_level(tmp_path: Path) -> None:
    start_logging(str(tmp_path / "log"), "error")
    summarize(busy(), as_table=False)
    assert (tmp_path / "log").read_text() == ""
    assert LOG.level == logging.ERROR
