"""What --verify shows and leaves behind: progress, and a report and metrics of its own beside those of a load."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.outside.loading import PARALLEL, Finished, Running, load, run
from tests.outside.logs import huge_line, line, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port, everywhere, silent_server
from tests.outside.spec import TYPES
from tests.outside.terminal import Session

FIGURES = ("checked", "present", "superseded", "too_large", "missing", "different", "unanswered")
HURRIED = ("--timeout", "0.2", "--connect-timeout", "0.2", "--retries", "0")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    directory = tmp_path / "inbox"
    directory.mkdir()
    return directory


def loaded(directory: Path, servers: Servers, content: bytes, name: str = "a.gz") -> None:
    write_gz(directory / name, content)
    assert load(PARALLEL, directory / name, servers, "--max-error-rate", "1").exit_code == 0


def verify(inbox: Path, servers: Servers, *options: str, **other: str) -> tuple[Finished, dict[str, Any]]:
    """Verify the files that are done; return the report, whose figures have to add up."""
    finished = run(PARALLEL, inbox / ".*", *addresses(servers, **other), "--verify", "--report", "-", *options)
    report = json.loads(finished.output)
    assert report["verify"] is True
    assert report["exit_code"] == finished.exit_code
    for figures in (report["totals"], *report["devices"].values()):
        assert figures["checked"] == sum(figures[name] for name in FIGURES[1:])
    for name in FIGURES:
        assert report["totals"][name] == sum(device[name] for device in report["devices"].values())
        for device in report["devices"].values():
            assert device[name] == sum(server[name] for server in device["servers"])
    return finished, report


def metrics_in(path: Path) -> Mapping[str, float]:
    """Return each value by its name and the values of its labels."""
    return {
        "/".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


# --- the report ---------------------------------------------------------------------------------


def test_the_report_has_every_figure(inbox: Path, servers: Servers) -> None:
    log = numbered(40) + line(dev_id="device0", apps="9") + huge_line("dvid")
    loaded(inbox, servers, log)
    with servers["gaid"].client() as client:
        client.delete("gaid:device1", noreply=False)
        client.set("gaid:device5", b"other", noreply=False)
    with closed_port() as nowhere:
        finished, report = verify(inbox, servers, *HURRIED, adid=nowhere)
    assert finished.exit_code == 1
    assert report["totals"] == {
        "checked": 42,
        "present": 28,
        "superseded": 1,
        "too_large": 1,
        "missing": 1,
        "different": 1,
        "unanswered": 10,
    }
    assert report["files"] == [{"path": f"{inbox}/.a.gz", "status": "readable", "detail": None}]
    assert [
        (name, [server["address"] for server in device["servers"]]) for name, device in report["devices"].items()
    ] == [(name, [nowhere if name == "adid" else servers[name].address]) for name in TYPES]
    assert report["devices"]["adid"]["unanswered"] == 10


def test_what_became_of_each_file_is_told(inbox: Path, servers: Servers) -> None:
    for name in ("a.gz", "b.gz", "c.gz"):
        loaded(inbox, servers, numbered(200, prefix=name), name)
    whole = (inbox / ".b.gz").read_bytes()
    (inbox / ".b.gz").write_bytes(whole[: len(whole) // 2])
    (inbox / ".c.gz").unlink()
    (inbox / ".c.gz").symlink_to("nowhere")
    finished, report = verify(inbox, servers)
    assert finished.exit_code == 1
    assert [(Path(file["path"]).name, file["status"]) for file in report["files"]] == [
        (".a.gz", "readable"),
        (".b.gz", "damaged"),
        (".c.gz", "error"),
    ]
    assert report["files"][1]["detail"].startswith("truncated: ")
    assert report["files"][2]["detail"]


def test_several_servers_of_a_type_are_told_apart(inbox: Path, servers: Servers) -> None:
    two = [servers["idfa"].address, servers["gaid"].address]
    options = ["--idfa", ",".join(two), "--only", "idfa", "--pattern"]
    write_gz(inbox / "a.gz", numbered(100, types=["idfa"]))
    assert run(PARALLEL, None, *options, f"{inbox}/*").exit_code == 0
    servers["gaid"].flush()
    finished = run(PARALLEL, None, *options, f"{inbox}/*", "--verify", "--report", "-")
    device = json.loads(finished.output)["devices"]["idfa"]
    assert [server["address"] for server in device["servers"]] == two
    assert device["servers"][0]["missing"] == 0 < device["servers"][1]["missing"] == device["missing"]
    assert device["servers"][1]["present"] == 0
    assert json.loads(finished.output)["devices"]["gaid"] == {**dict.fromkeys(FIGURES, 0), "servers": []}


def test_a_pattern_that_can_mean_no_file_is_reported(inbox: Path, servers: Servers) -> None:
    finished = run(PARALLEL, inbox / "nowhere/*", *addresses(servers), "--verify", "--report", "-")
    assert finished.exit_code == 1
    assert json.loads(finished.output)["files"] == []


def test_what_a_stopped_run_did_not_read_is_unread(inbox: Path) -> None:
    for number in range(8):
        write_gz(inbox / f"{number}.gz", numbered(10))
    options = ("--verify", "--report", "-", "--timeout", "1", "--block-size", "1", "--queue-size", "1")
    with (
        silent_server() as (address, listening),
        Running(PARALLEL, inbox / "*", *everywhere(address), *options) as running,
        listening.accept()[0],
    ):
        running.send(signal.SIGTERM)
        finished = running.finish()
    assert finished.exit_code == 143
    report = json.loads(finished.output)
    assert report["exit_code"] == 143
    assert report["files"][-1]["status"] == "unread"


# --- beside those of a load ---------------------------------------------------------------------


def test_report_and_metrics_lie_beside_those_of_a_load(inbox: Path, tmp_path: Path, servers: Servers) -> None:
    outputs = ["--report", f"{tmp_path}/report.json", "--metrics", f"{tmp_path}/memc.load.prom"]
    write_gz(inbox / "a.gz", numbered(100))
    assert run(PARALLEL, inbox / "*", *addresses(servers), *outputs).exit_code == 0
    written = {name: (tmp_path / name).read_bytes() for name in ("report.json", "memc.load.prom")}

    assert run(PARALLEL, inbox / ".*", *addresses(servers), "--verify", *outputs).exit_code == 0

    assert names(tmp_path) == ["inbox", "memc.load.prom", "memc.load.verify.prom", "report.json", "report.verify.json"]
    assert {name: (tmp_path / name).read_bytes() for name in written} == written
    assert json.loads((tmp_path / "report.verify.json").read_text())["totals"]["present"] == 100
    of_load, of_verification = (metrics_in(tmp_path / f"memc.load{part}.prom") for part in ("", ".verify"))
    assert not {name.partition("/")[0] for name in of_load} & {name.partition("/")[0] for name in of_verification}
    assert all(name.startswith("memc_load_verify_") for name in of_verification)


def test_the_metrics_have_every_figure_and_keep_the_last_success(inbox: Path, tmp_path: Path, servers: Servers) -> None:
    loaded(inbox, servers, numbered(100))
    options = ["--metrics", f"{tmp_path}/verify.prom"]
    success, run_time = (f"memc_load_verify_last_{what}_timestamp_seconds" for what in ("success", "run"))
    assert verify(inbox, servers, *options)[0].exit_code == 0
    first = metrics_in(tmp_path / "verify.verify.prom")
    assert first["memc_load_verify_exit_code"] == 0
    assert first[success] == first[run_time] == pytest.approx(time.time(), abs=60)
    assert first["memc_load_verify_files/readable"] == 1
    servers["idfa"].flush()
    assert verify(inbox, servers, *options)[0].exit_code == 1
    second = metrics_in(tmp_path / "verify.verify.prom")
    assert second["memc_load_verify_exit_code"] == 1
    assert second[success] == first[success] < second[run_time]
    assert second[f"memc_load_verify_records/idfa/missing/{servers['idfa'].address}"] == 25
    assert second[f"memc_load_verify_records/gaid/present/{servers['gaid'].address}"] == 25
    assert second["memc_load_verify_duration_seconds"] > 0


def test_a_device_gets_them_as_it_is(inbox: Path, tmp_path: Path, servers: Servers) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    assert verify(inbox, servers, "--metrics", str(tmp_path / "null"))[0].exit_code == 0
    assert names(tmp_path) == ["inbox", "null"]


@pytest.mark.parametrize("option", ["--report", "--metrics"])
def test_what_can_not_be_written_makes_the_exit_code_1(
    inbox: Path, tmp_path: Path, servers: Servers, option: str
) -> None:
    place = str(tmp_path / "nowhere" / "file")
    finished = run(PARALLEL, inbox / "*", *addresses(servers), "--verify", option, place)
    assert finished.exit_code == 1
    assert finished.says(f"can't write the {option[2:]} {place}.verify: No such file or directory", "E")


# --- on a terminal ------------------------------------------------------------------------------


def on_terminal(inbox: Path, servers: Servers, *options: str) -> Sequence[str]:
    return ["--pattern", f"{inbox}/.*", *addresses(servers), "--verify", *options]


def test_a_terminal_shows_how_far_it_is(inbox: Path, servers: Servers) -> None:
    loaded(inbox, servers, numbered(3000) + b"rejected\n")
    servers["dvid"].freeze()
    with Session(PARALLEL, *on_terminal(inbox, servers, "--timeout", "60"), width=120) as session:
        session.wait_for(lambda text: "%" in text and " records · " in text and "servers" in text)
        servers["dvid"].thaw()
        assert session.finish() == 0
    assert "records verified in" in session.screen.text
    assert " records · " not in session.screen.text  # it is gone in the end


def test_it_can_be_left_out(inbox: Path, servers: Servers) -> None:
    loaded(inbox, servers, numbered(100))
    with Session(PARALLEL, *on_terminal(inbox, servers, "--no-progress"), width=120) as session:
        assert session.finish() == 0
    assert all(" records · " not in text for text in session.seen)
