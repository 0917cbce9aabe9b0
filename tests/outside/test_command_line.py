"""What the command line of both loaders promises: the log, exit codes, dry runs, the report, signals."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.outside.loading import (
    LOG_LINE,
    PARALLEL,
    REFERENCE,
    Loader,
    Running,
    both_loaders,
    check_sums,
    load,
    run,
)
from tests.outside.logs import line, make_old, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port, everywhere
from tests.outside.spec import TYPES, expected

# --- the log --------------------------------------------------------------------------------------


@both_loaders
def test_the_log_tells_the_load_file_by_file(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(100))
    write_gz(tmp_path / "b.gz", numbered(98) + b"bad\n" * 2)
    write_gz(tmp_path / "c.gz", numbered(100, prefix="c"))
    finished = run(loader, tmp_path / "*", *addresses(servers))  # which looks at the format of every line

    assert re.match(r"Memc loader started with options: \{.*\}$", finished.messages()[0])
    assert all(address in finished.messages()[0] for address in addresses(servers)[1::2])
    story = [text for text in finished.messages() if text.startswith("Processing") or "error rate" in text]
    assert story == [
        f"Processing {tmp_path}/a.gz",
        "Acceptable error rate (0.0). Successful load",
        f"Processing {tmp_path}/b.gz",
        "High error rate (0.02 > 0.01). Failed load",
        f"Processing {tmp_path}/c.gz",
        "Acceptable error rate (0.0). Successful load",
    ]
    assert finished.output == ""


@both_loaders
def test_repeated_warnings_are_cut_to_the_first_few_of_a_file_and_a_count(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    for name in ("a.gz", "b.gz"):
        write_gz(tmp_path / name, b"bad\n" * 100 + line(lat="nan") + numbered(10))
    messages = run(loader, tmp_path / "*", *addresses(servers)).messages("W")
    for name in ("a.gz", "b.gz"):
        shown = [text for text in messages if text.startswith(f"{tmp_path}/{name}:") and "columns" in text]
        assert len(shown) <= 3
        assert f"{100 - len(shown)} more: rejected for columns" in "\n".join(messages)
    assert len([text for text in messages if ":1: rejected for columns" in text]) >= 1
    assert len([text for text in messages if ":101: rejected for coordinates" in text]) >= 1


@both_loaders
@pytest.mark.parametrize("options", [(), ("--dry",)], ids=["live", "dry"])
def test_what_the_log_tells_about_a_file_stands_between_its_beginning_and_its_verdict(
    tmp_path: Path, servers: Servers, loader: Loader, options: Sequence[str]
) -> None:
    files = ["a", "b", "c", "d"]
    for name in files:
        write_gz(tmp_path / name, line(dev_id=f"in-{name}") * 30 + b"bad\n" * 10)
    told = run(loader, tmp_path / "*", *addresses(servers), *options).messages("DIWE")
    current = ""
    for text in told:
        if text.startswith("Processing"):
            current = text[-1]
        for name in files:
            if f"{tmp_path}/{name}:" in text or f"idfa:in-{name}" in text:
                assert name == current
        if "error rate" in text:
            current = ""


@both_loaders
def test_nothing_in_a_file_or_its_name_can_forge_the_log(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    forged = "[2017.09.29 12:39:52] I Acceptable error rate (0.0). Successful load"
    write_gz(tmp_path / f"a\n{forged}", f"\r{forged}\x1b[2J\x85\u2028\r\n".encode() + b"\xff\xfe\x00")
    finished = run(loader, tmp_path / "*", *addresses(servers))
    assert [text for text in finished.log if text.startswith(forged)] == []
    assert [text for text in finished.log if not text.isprintable()] == []


@both_loaders
def test_the_log_may_go_to_a_file_and_is_appended(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    log = tmp_path / "log"
    for name in ("a.gz", "b.gz"):
        write_gz(tmp_path / name, numbered(10))
        finished = run(loader, tmp_path / "*.gz", *addresses(servers), "--log", str(log))
        assert (finished.exit_code, finished.log) == (0, [])
    lines = log.read_text().splitlines()
    assert all(map(LOG_LINE.fullmatch, lines))
    assert len([text for text in lines if " I Memc loader started with options: " in text]) == 2
    assert [text.rpartition("/")[2] for text in lines if " I Processing " in text] == ["a.gz", "b.gz"]


@both_loaders
@pytest.mark.parametrize(("level", "letters"), [("debug", "DIWE"), ("info", "IWE"), ("warning", "WE"), ("error", "E")])
def test_the_log_level_says_what_is_left_out(
    tmp_path: Path, servers: Servers, loader: Loader, level: str, letters: str
) -> None:
    write_gz(tmp_path / "a.gz", numbered(10) + b"bad\n")  # information, a warning and, for the error rate, an error
    finished = run(loader, tmp_path / "*", *addresses(servers), "--log-level", level)
    assert finished.exit_code == 1
    assert {text[22] for text in finished.log} == set(letters) - {"D"}


# --- dry runs -------------------------------------------------------------------------------------


@both_loaders
def test_a_dry_run_shows_each_record_and_touches_nothing(tmp_path: Path, loader: Loader) -> None:
    sample = line("idfa", "e7e1a50c0ec2747ca56cd9e1558c0d7c", "67.7835424444", "-22.8044005471", "7942,8519,x,4232")
    write_gz(tmp_path / "a.gz", sample)
    write_gz(tmp_path / "b.gz", b"bad\n\n" + line("gaid", "a~b", "1e3", "-0", "0") + line("dvid", apps="1,1"))
    before = {name: (tmp_path / name).stat() for name in names(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as listening, closed_port() as nowhere:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        options = [*everywhere(nowhere), "--idfa", address, "--max-error-rate", "1", "--dry"]
        finished = run(loader, tmp_path / "*", *options)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert finished.exit_code == 0
    assert finished.messages("D") == [
        f"{address} - idfa:e7e1a50c0ec2747ca56cd9e1558c0d7c -> "
        "apps: 7942 apps: 8519 apps: 4232 lat: 67.7835424444 lon: -22.8044005471",
        f"{nowhere} - gaid:a~b -> apps: 0 lat: 1000 lon: -0",
        f"{nowhere} - dvid:1rfw452y52g2gq4g -> apps: 1 apps: 1 lat: 55.55 lon: 42.42",
    ]
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)} == {
        name: stat.st_mtime_ns for name, stat in before.items()
    }


@both_loaders
def test_a_dry_run_without_the_records_validates(tmp_path: Path, loader: Loader) -> None:
    log = write_gz(tmp_path / "a.gz", numbered(1000) + line(apps="1,x") + b"bad\n\n")
    finished = run(loader, tmp_path / "*", "--dry", "--log-level", "info", "--report", "-")
    assert (finished.exit_code, finished.messages("D")) == (0, [])
    report = json.loads(finished.output)
    check_sums(report)
    assert (report["dry"], report["files"][0]["status"]) == (True, "dry")
    assert report["totals"] == expected(log).counts()
    assert {name: report["devices"][name]["stored"] for name in TYPES} == dict(expected(log).stored)
    assert names(tmp_path) == ["a.gz"]


@both_loaders
def test_a_dry_run_fails_where_a_load_would(tmp_path: Path, loader: Loader) -> None:
    write_gz(tmp_path / "rate.gz", numbered(98) + b"bad\n" * 2)
    cut = (tmp_path / "rate.gz").read_bytes()[:-10]
    (tmp_path / "cut.gz").write_bytes(cut)
    make_old(tmp_path / "cut.gz")
    for name in ("rate.gz", "cut.gz"):
        assert run(loader, tmp_path / name, "--dry", "--log-level", "info").exit_code == 1
    assert names(tmp_path) == ["cut.gz", "rate.gz"]


# --- the report -----------------------------------------------------------------------------------

COUNTS = {"records", "stored", "rejected", "partial", "failed", "blank", "error_rate"}


@both_loaders
def test_the_report_tells_everything_in_numbers(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    logs = [
        write_gz(tmp_path / "a.gz", numbered(300) + b"bad\n" + line(apps="1,x")),
        write_gz(tmp_path / "b.gz", b"\n\n" + numbered(50)),
    ]
    path = tmp_path / "report.json"
    path.write_text("an older report")
    with closed_port() as nowhere:
        options = [*addresses(servers, dvid=nowhere), "--retries", "1", "--report", str(path)]
        finished = run(loader, tmp_path / "*.gz", *options)
    report = finished.report = json.loads(path.read_bytes())
    check_sums(report)
    assert report.keys() == {"exit_code", "dry", "seconds", "totals", "files", "devices"}
    assert (report["exit_code"], report["dry"]) == (finished.exit_code, False) == (1, False)
    assert report["totals"].keys() == COUNTS
    assert all(entry.keys() >= {"path", "status", "seconds"} | COUNTS for entry in report["files"])
    device_counts = {"stored", "failed", "retries", "evictions", "restarts"}
    assert list(report["devices"]) == list(TYPES)
    assert all(device.keys() >= device_counts for device in report["devices"].values())

    for entry, log, name in zip(report["files"], logs, ("a.gz", "b.gz"), strict=True):
        result = expected(log)
        failed = result.stored["dvid"]
        counts = {**result.counts(), "stored": result.stored.total() - failed, "failed": failed}
        assert {count: entry[count] for count in COUNTS} == counts
        assert (entry["path"], entry["status"]) == (str(tmp_path / name), "pending")
    devices = report["devices"]
    assert [finished.address(name) for name in TYPES] == addresses(servers, dvid=nowhere)[1::2]
    assert [devices[name]["failed"] for name in TYPES] == [0, 0, 0, expected(*logs).stored["dvid"]]
    assert [devices[name]["retries"] for name in TYPES[:3]] == [0, 0, 0]
    assert devices["dvid"]["retries"] >= 1
    assert {device[count] for device in devices.values() for count in ("evictions", "restarts")} == {0}
    assert report["seconds"] >= 0
    assert all(entry["seconds"] >= 0 for entry in report["files"])


@both_loaders
def test_the_report_tells_why_a_file_is_pending_and_what_another_was_renamed_to(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(tmp_path / "a.gz", numbered(8, types=["gaid"]))
    (tmp_path / ".a.gz").write_bytes(b"of an earlier run")
    write_gz(tmp_path / "b.gz", numbered(8))
    with closed_port() as nowhere:
        finished = load(loader, tmp_path / "*.gz", servers, "--retries", "0", idfa=nowhere)
    done, pending = finished.file("a.gz"), finished.file("b.gz")
    assert (done["status"], done["renamed_to"]) == ("done", str(tmp_path / ".a.gz.1"))
    assert finished.says(str(tmp_path / ".a.gz.1"), "I")
    assert (pending["status"], pending["renamed_to"]) == ("pending", None)
    assert nowhere in pending["detail"]
    assert "refused" in pending["detail"].lower()
    assert pending["reason"]
    (server,) = finished.device("gaid")["servers"]
    assert (server["address"], server["stored"], server["detects_restarts"]) == (servers["gaid"].address, 10, True)


@both_loaders
def test_the_report_may_go_to_standard_output_alone(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(10))
    finished = run(loader, tmp_path / "*", *addresses(servers), "--report", "-")
    assert json.loads(finished.output)["totals"]["stored"] == 10
    assert len(finished.messages()) > 3


@both_loaders
def test_a_report_that_can_not_be_written_fails_the_run(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(10))
    report = tmp_path / "no-such-directory/report.json"
    finished = run(loader, tmp_path / "*", *addresses(servers), "--report", str(report))
    assert finished.exit_code == 1
    assert names(tmp_path) == [".a.gz"]  # it is loaded all the same
    assert [text for text in finished.messages("E") if str(report) in text] != []


# --- exit codes -----------------------------------------------------------------------------------


@both_loaders
@pytest.mark.parametrize("option", ["-t", "--test"])
def test_the_round_trip_through_protobuf_needs_no_server(loader: Loader, option: str) -> None:
    assert run(loader, "no/such/file", option).exit_code == 0


WRONG = [
    ["--no-such-option"],
    ["a-file-without-an-option"],
    ["--idfa", "nowhere"],
    ["--gaid", "127.0.0.1"],
    ["--adid", "127.0.0.1:0"],
    ["--dvid", "127.0.0.1:65536"],
    ["--idfa", "unix:relative"],
    ["--gaid", "::1:33014"],
    ["--timeout", "0"],
    ["--connect-timeout", "nan"],
    ["--retries", "-1"],
    ["--ttl", "-1"],
    ["--max-error-rate", "1.1"],
    ["--settle", "-1"],
    ["--log-level", "loud"],
    ["--rejects", "no/such/directory"],
    ["--log", "no/such/directory/log"],
    ["--pattern"],
]
WRONG_OF_PARALLEL = [
    ["--workers", "0"],
    ["--workers", "many"],
    ["--queue-size", "0"],
    ["--block-size", "0"],
    ["--engine", "fast"],
]


@pytest.mark.parametrize(
    ("loader", "wrong"),
    [(REFERENCE, wrong) for wrong in WRONG[:4]] + [(PARALLEL[:1], wrong) for wrong in WRONG + WRONG_OF_PARALLEL],
    ids=lambda words: " ".join(words),
)
def test_wrong_usage_is_told_in_one_line(tmp_path: Path, loader: Loader, wrong: Sequence[str]) -> None:
    write_gz(tmp_path / "a.gz", numbered(10))
    with Running(loader, tmp_path / "*", *wrong) as running:
        finished = running.finish()
    assert (finished.exit_code, len(finished.log), finished.output) == (2, 1, "")
    assert wrong[-1].split("/")[0] in finished.log[0]
    assert names(tmp_path) == ["a.gz"]
