"""docs/reference.md says what the program does: options, reasons, fields, metrics, messages, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from memcload import session
from memcload.memcached.routing_rules import ROUTING_NAMES
from memcload.outcome import STATUSES, VerdictReason
from memcload.output.verification import FileStatus
from memcload.records import REASONS
from tools.make_logs import write_logs
from tools.servers import MemcachedServer

PROJECT = Path(__file__).resolve().parents[2]
REFERENCE = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
DEPENDS_ON_THE_MACHINE = {"--workers": "cores + 1, at most 8", "--progress": "if standard error is a terminal"}


def section(title: str) -> str:
    """Return the text below a heading."""
    return re.split(r"^##+ ", REFERENCE.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables in a text, with their headers and rulers."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def words(text: str, column: int = 0) -> list[str]:
    """Return what stands in code style in a column of the tables of a text."""
    return [word for row in rows(text) for word in re.findall(r"`([^`]+)`", row[column])]


def help_of(loader: str) -> dict[str, str]:
    """Return each long option of a loader with what its help says, on one line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMC_LOAD_")}
    command = [sys.executable, str(PROJECT / loader), "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    options = re.findall(r"^  (?:-\w(?: [A-Z]+)?, )?(--[a-z-]+)(.*?)(?=^  -|^\S|\Z)", printed, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in options}


OPTIONS = {
    re.findall(r"--[a-z-]+", row[0])[0]: row for row in rows(section("Options")) if row[0].startswith("`-") and row[1]
}


# --- options ------------------------------------------------------------------------------------


def test_every_option_is_there_and_no_other() -> None:
    assert list(OPTIONS) == [name for name in help_of("memc_load_parallel.py") if name not in ("--help", "--version")]


def test_which_options_the_reference_loader_lacks() -> None:
    lacking = help_of("memc_load_parallel.py").keys() - help_of("memc_load.py").keys()
    assert {name for name, row in OPTIONS.items() if "¹" in row[0]} == lacking


def test_the_variables() -> None:
    for name, row in OPTIONS.items():
        assert row[1] == f"`MEMC_LOAD_{name.removeprefix('--').replace('-', '_').upper()}`"


def test_the_values_and_defaults() -> None:
    for name, text in help_of("memc_load_parallel.py").items():
        if name in OPTIONS:
            row = OPTIONS[name]
            metavar = re.match(r"([A-Z]+\S*)?", text)
            assert metavar
            assert row[0].removesuffix(" ¹").endswith(f"{name} {metavar[0]}`" if metavar[0] else f"{name}`")
            found = re.search(r"\(default: (.*)\)$", text)
            told = DEPENDS_ON_THE_MACHINE.get(name, found[1] if found else "")
            assert re.sub("[`,]", "", row[3]) in (told.replace(",", ""), f"the {told}"), name


# --- words --------------------------------------------------------------------------------------


def test_the_reasons_of_rejects() -> None:
    assert words(section("Lines")) == list(REASONS)


def test_the_statuses_and_their_reasons() -> None:
    statuses, reasons = section("Files").split("The report has the reason")
    assert set(words(statuses)) == set(STATUSES)
    assert set(words(reasons)) <= set(STATUSES)
    assert words(reasons, 1) == [reason for reason in get_args(VerdictReason) if reason]


def test_the_routings() -> None:
    assert [row[0] for row in rows(section("Routing")) if row[0].strip("`") in ROUTING_NAMES] == [
        f"`{name}`" for name in ROUTING_NAMES
    ]


def test_the_exit_codes() -> None:
    codes = [int(row[0]) for row in rows(section("Exit codes")) if row[0].isdigit()]
    assert codes == [session.EXIT_OK, session.EXIT_FAILED, session.EXIT_USAGE, session.EXIT_HELD, 130, 143]


# --- what real runs say -------------------------------------------------------------------------


class Finished:
    """A run of the loader: its log, its report and the names of its metrics with their labels."""

    def __init__(self, directory: Path, servers: Mapping[str, MemcachedServer], *options: str) -> None:
        addresses = [word for name, server in servers.items() for word in (f"--{name}", server.address)]
        outputs = ["--report", str(directory / "run.json"), "--metrics", str(directory / "run.prom")]
        pattern = str(directory / "logs" / "*.gz")
        command = [sys.executable, str(PROJECT / "memc_load_parallel.py"), "--pattern", pattern, *addresses, *outputs]
        finished = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        self.exit_code = finished.returncode
        self.messages = [line.partition("] ")[2][2:] for line in finished.stderr.splitlines()]
        assert self.exit_code in (0, 1), finished.stderr
        assert "Internal error" not in finished.stderr, finished.stderr
        self.report: dict[str, Any] = {}
        self.metrics: dict[str, set[str]] = {}
        name = "run.verify" if "--verify" in options else "run"
        if "--check" not in options:
            self.report = json.loads((directory / f"{name}.json").read_text())
            families = text_string_to_metric_families((directory / f"{name}.prom").read_text())
            self.metrics = {family.name: set(family.samples[0].labels) for family in families}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    directory = tmp_path / "logs"
    directory.mkdir()
    write_logs(directory, files=2, lines=300, seed=1, malformed=0.2)
    return tmp_path


def test_the_fields_of_the_report(servers: dict[str, MemcachedServer], logs: Path) -> None:
    report = Finished(logs, servers, "--max-error-rate", "1").report
    of_run, of_file, of_device = re.split(r"^A file:$|^A device type has", section("The report"), flags=re.MULTILINE)
    assert words(of_run) == list(report)
    assert words(of_file) == list(report["files"][0])
    assert set(words(of_file)[5:-1]) == set(report["totals"])
    (server,) = report["devices"]["idfa"]["servers"]
    assert words(of_device) == list(server)
    assert set(report["devices"]["idfa"]) == {*server, "servers"} - {"detects_restarts"}


def metrics_in(text: str) -> dict[str, set[str]]:
    """Return the metrics in the tables of a text, with their labels."""
    found = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows(text)}
    return {name: labels for name, labels in found.items() if name.startswith("memc_load_")}


def test_the_metrics(servers: dict[str, MemcachedServer], logs: Path) -> None:
    assert metrics_in(section("The metrics")) == Finished(logs, servers, "--max-error-rate", "1").metrics


def test_the_report_and_the_metrics_of_a_verification(servers: dict[str, MemcachedServer], logs: Path) -> None:
    Finished(logs, servers, "--max-error-rate", "1")
    verified = Finished(logs, servers, "--verify", "--again")
    text = section("The verification")
    assert verified.exit_code == 0
    assert metrics_in(text) == verified.metrics
    outcomes = [word for word in words(text) if not word.startswith("memc_load_")]
    assert {"checked", *outcomes} == set(verified.report["totals"])
    fields = [verified.report, verified.report["files"][0], *verified.report["devices"]["idfa"]["servers"]]
    assert {field for each in fields for field in each} <= set(re.findall(r"`(\w+)`", text))
    assert set(get_args(FileStatus)) <= set(re.findall(r"`(\w+)`", text))


# --- the log ------------------------------------------------------------------------------------


def messages_of(title: str) -> list[re.Pattern[str]]:
    """Return the messages that a section lists; three dots stand for any text."""
    blocks = re.findall(r"^```\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    return [re.compile(".+".join(map(re.escape, line.split("…")))) for line in lines]


def test_every_message_of_the_log_is_there(servers: dict[str, MemcachedServer], logs: Path) -> None:
    checking = Finished(logs, servers, "--check", "--gaid", "127.0.0.1:1")
    servers["gaid"].kill()
    failing = Finished(logs, servers, "--retries", "1")
    servers["gaid"].restart()
    loading = Finished(logs, servers)
    verifying = Finished(logs, servers, "--verify", "--again", "--gaid", servers["adid"].address)
    assert {finished.exit_code for finished in (checking, failing, loading, verifying)} == {1}
    used = set()
    for finished, title in ((failing, ""), (loading, ""), (verifying, "The verification"), (checking, "The check")):
        known = messages_of("The log") + (messages_of(title) if title else [])
        advice = advice_in(finished.messages)
        unknown = [message for message in finished.messages if not any(line.fullmatch(message) for line in known)]
        assert [message for message in unknown if message not in advice] == []
        used |= {line for line in known if any(line.fullmatch(message) for message in finished.messages)}
    assert len(used) >= 18


def advice_in(messages: list[str]) -> list[str]:
    """Return the messages between the summary and the last line: they say what there is to do."""
    last = max((number for number, message in enumerate(messages) if message.startswith("Summary: ")), default=-2)
    return messages[last + 1 : -1] if last >= 0 else []
