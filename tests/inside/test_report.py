"""The report of a run: one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memcload.outcome import Verdict
from memcload.output.report import build_report, write_report
from tests.inside.results import make_file, make_results

COUNTS = {"records", "stored", "rejected", "partial", "failed", "blank", "error_rate"}


def test_it_has_what_became_of_the_run() -> None:
    report = build_report(make_results(1, [make_file(stored=3, rejected=1, blank=2)], exit_code=143, dry=True))
    assert list(report) == ["exit_code", "dry", "seconds", "totals", "files", "devices"]
    assert (report["exit_code"], report["dry"], report["seconds"]) == (143, True, 12.346)
    assert report["totals"] == {
        "records": 4,
        "stored": 3,
        "rejected": {"apps": 1},
        "partial": 0,
        "failed": 0,
        "blank": 2,
        "error_rate": 0.25,
    }


def test_a_file_has_its_new_name_or_the_reason_why_it_has_none() -> None:
    done, pending = make_file("/a", stored=1), make_file("/b", Verdict("pending", "records_failed", "b: refused"))
    done.renamed_to = "/.a"
    entries = build_report(make_results(1, [done, pending]))["files"]
    for entry in entries:
        assert entry.keys() == {"path", "status", "renamed_to", "reason", "detail", "seconds"} | COUNTS
    keys = ("path", "status", "renamed_to", "reason", "detail")
    assert [[entry[key] for key in keys] for entry in entries] == [
        ["/a", "done", "/.a", None, None],
        ["/b", "pending", None, "records_failed", "b: refused"],
    ]


def test_a_device_type_has_the_sum_of_its_servers() -> None:
    results = make_results(2, [make_file(stored=3, failed=1)])
    results.totals.stored[1] = 5
    first, second = (results.servers[address] for address in ("host1:1", "host2:1"))
    first.retries, first.evictions, first.restarts = 1, 2, 3
    second.retries, second.detects_restarts = 10, False
    devices = build_report(results)["devices"]
    assert list(devices) == ["idfa", "gaid", "adid", "dvid"]
    figures = ["address", "stored", "failed", "retries", "evictions", "restarts"]
    servers = devices["idfa"].pop("servers")
    assert devices["idfa"] == dict(zip(figures, ("host1:1,host2:1", 8, 1, 11, 2, 3), strict=True))
    figures.append("detects_restarts")
    assert servers == [
        dict(zip(figures, ("host1:1", 3, 1, 1, 2, 3, True), strict=True)),
        dict(zip(figures, ("host2:1", 5, 0, 10, 0, 0, False), strict=True)),
    ]


def test_a_device_type_that_was_not_loaded_has_no_servers() -> None:
    devices = build_report(make_results(device_types=["gaid"]))["devices"]
    assert [len(device["servers"]) for device in devices.values()] == [0, 1, 0, 0]
    assert devices["dvid"]["stored"] == 0


def test_any_path_can_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = make_results(1, [make_file("/\udcff\n\u2028é")])
    write_report(results, str(tmp_path / "report"))
    write_report(results, "-")
    text = (tmp_path / "report").read_text("ascii")
    assert text == capsys.readouterr().out
    assert json.loads(text)["files"][0]["path"] == "/\udcff\n\u2028é"
