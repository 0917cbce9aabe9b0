"""The command line: what holds where nothing is said, and one clear line for what is wrong."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memc_load
import memc_load_parallel
from memcload import __version__
from memcload.options import NORMAL_ERR_RATE, Options, ParallelOptions, default_workers, parse_options

PROJECT = Path(__file__).resolve().parents[2]
KINDS = [Options, ParallelOptions]
ADDRESSES = {"idfa": "127.0.0.1:33013", "gaid": "127.0.0.1:33014", "adid": "127.0.0.1:33015", "dvid": "127.0.0.1:33016"}


@pytest.fixture(autouse=True)
def _no_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MEMC_LOAD_"):
            monkeypatch.delenv(name)


def parse(*arguments: str) -> ParallelOptions:
    return parse_options(arguments, "Loads.", ParallelOptions)


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str], kind: type[Options] = ParallelOptions) -> str:
    """Return the one line that wrong usage leaves on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        parse_options(arguments, "Loads.", kind)
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert errors.endswith("\n")
    return errors


# --- defaults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_has_to_be_said(kind: type[Options]) -> None:
    options = parse_options([], "Loads.", kind)
    assert options.pattern == "./data/appsinstalled/*.tsv.gz"
    assert options.addresses == ADDRESSES
    assert options.log is None
    assert (options.dry, options.test) == (False, False)
    assert options.max_error_rate == NORMAL_ERR_RATE == 0.01
    assert options.ttl == 0
    assert options.max_rate == 0
    assert options.settle == 60
    assert (options.rejects, options.report, options.metrics) == (None, None, None)
    assert options.log_level == "info"


def test_the_parallel_loader_finds_out_what_suits_the_machine() -> None:
    options = parse()
    assert options.engine == "auto"
    assert options.workers == default_workers() >= 2
    assert options.queue_size >= 1
    assert options.block_size == 1 << 20


@pytest.mark.parametrize("module", [memc_load, memc_load_parallel])
def test_the_acceptable_error_rate_has_its_familiar_name(module: object) -> None:
    assert getattr(module, "NORMAL_ERR_RATE", None) == 0.01


def test_a_dry_run_logs_every_record_unless_told_otherwise() -> None:
    assert parse("--dry").log_level == "debug"
    assert parse("--dry", "--log-level", "info").log_level == "info"


def test_the_progress_is_shown_where_standard_error_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with open(master, "rb"), open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert parse().progress is True
        assert parse("--no-progress").progress is False
    with open(os.devnull, "w") as nowhere:
        monkeypatch.setattr(sys, "stderr", nowhere)
        assert parse().progress is False
        assert parse("--progress").progress is True


# --- what can be said ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--pattern", "/logs/**/*.gz"], "pattern", "/logs/**/*.gz"),
        (["--pattern=-x"], "pattern", "-x"),
        (["-l", "a.log"], "log", "a.log"),
        (["--log", "a.log"], "log", "a.log"),
        (["--dry", "--log-level", "info"], "dry", True),
        (["-t"], "test", True),
        (["--test"], "test", True),
        (["--workers", "1"], "workers", 1),
        (["--queue-size", "1"], "queue_size", 1),
        (["--block-size", "1"], "block_size", 1),
        (["--timeout", "0.5"], "timeout", 0.5),
        (["--connect-timeout", "10"], "connect_timeout", 10.0),
        (["--retries", "0"], "retries", 0),
        (["--max-error-rate", "0"], "max_error_rate", 0.0),
        (["--max-error-rate", "1"], "max_error_rate", 1.0),
        (["--ttl", "2592001"], "ttl", 2592001),
        (["--max-rate", "50000"], "max_rate", 50000),
        (["--rejects", "/"], "rejects", "/"),
        (["--settle", "0"], "settle", 0.0),
        (["--report", "-"], "report", "-"),
        (["--metrics", "m.prom"], "metrics", "m.prom"),
        (["--engine", "auto"], "engine", "auto"),
        (["--engine", "compiled"], "engine", "compiled"),
        (["--engine", "python"], "engine", "python"),
        (["--log-level", "debug"], "log_level", "debug"),
        (["--log-level", "warning"], "log_level", "warning"),
        (["--log-level", "error"], "log_level", "error"),
    ],
)
def test_an_option_sets_its_field_and_no_other(arguments: list[str], field: str, value: object) -> None:
    said, default = dataclasses.asdict(parse(*arguments)), dataclasses.asdict(parse())
    assert said.pop(field) == value
    default.pop(field)
    assert said == default


@pytest.mark.parametrize("address", ["localhost:1", "[::1]:11211", "unix:/run/memcached.sock"])
@pytest.mark.parametrize("name", ADDRESSES)
def test_every_device_type_has_its_address(name: str, address: str) -> None:
    assert parse(f"--{name}", address).addresses == {**ADDRESSES, name: address}


def test_the_log_shows_all_options() -> None:
    shown = parse("--ttl", "5", "--gaid", "localhost:1").shown()
    assert shown["ttl"] == 5
    assert {name: shown[name] for name in ADDRESSES} == {**ADDRESSES, "gaid": "localhost:1"}
    assert shown.keys() >= {"pattern", "dry", "workers", "engine", "max_error_rate", "log_level"}


# --- what is wrong ------------------------------------------------------------------------------

WRONG = {
    "--workers": ["0", "-1", "", "x", "1.5", "257", "1e2", "99999999999999999999", "9" * 5000, "\n5000\n", "nan"],
    "--queue-size": ["0", "-1", "x", "10001"],
    "--block-size": ["0", "-1", "x", "1M", "1073741825"],
    "--retries": ["-1", "x", "0.5", "101"],
    "--ttl": ["-1", "x", "1d", "315360001"],
    "--max-rate": ["-1", "x", "1000000001"],
    "--timeout": ["0", "-1", "x", "nan", "inf", "", "1e9", "1s"],
    "--connect-timeout": ["0", "-1", "x", "nan", "inf"],
    "--settle": ["-1", "x", "nan", "inf", "-inf"],
    "--max-error-rate": ["-0.1", "1.1", "x", "nan", "1%", "inf", ""],
    "--engine": ["", "fast", "AUTO"],
    "--log-level": ["", "loud", "INFO", "critical"],
    "--rejects": ["", "/nowhere/at/all", "/dev/null", "line\nfeed"],
    "--idfa": ["", "localhost", "localhost:0", "::1:11211", "unix:x", "line\nfeed:1", "\udcff", "\x1b[31m"],
    "--gaid": ["localhost:65536"],
    "--adid": ["[::1]"],
    "--dvid": ["http://localhost:11211"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_told_in_one_line_that_names_the_option(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"argument {name}: " in complaint([f"{name}={value}"], capsys)


@pytest.mark.parametrize("name", [*WRONG, "--pattern", "--log", "--report", "--metrics"])
def test_a_missing_value_is_told_in_one_line_that_names_the_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(rf"argument (-\w/)?{name}: expected one argument", complaint([name], capsys))


@pytest.mark.parametrize("argument", ["--nonsense", "-x", "file.tsv.gz", "--work=3", "--dr", "--none\nsense"])
def test_an_unknown_option_is_named(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert argument[:6] in complaint([argument], capsys)


@pytest.mark.parametrize("name", ["--workers", "--queue-size", "--block-size", "--engine"])
def test_the_reference_loader_has_no_options_for_threads(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert name in complaint([name, "1"], capsys, Options)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(sorted(WRONG)), st.text(st.characters(exclude_characters="\0")))
def test_any_value_is_either_taken_or_told_in_one_line(
    capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    try:
        parse(f"{name}={value}")
    except SystemExit:
        assert name in complaint([f"{name}={value}"], capsys)


# --- the environment ----------------------------------------------------------------------------


def test_a_variable_stands_in_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMC_LOAD_IDFA", "localhost:1")
    monkeypatch.setenv("MEMC_LOAD_MAX_ERROR_RATE", "0.5")
    monkeypatch.setenv("MEMC_LOAD_DRY", "yes")
    monkeypatch.setenv("MEMC_LOAD_LOG", "a.log")
    monkeypatch.setenv("MEMC_LOAD_WORKERS", "7")
    options = parse()
    assert options.addresses["idfa"] == "localhost:1"
    assert (options.max_error_rate, options.dry, options.log, options.workers) == (0.5, True, "a.log", 7)


def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMC_LOAD_TTL", "5")
    assert parse("--ttl", "6").ttl == 6
    monkeypatch.setenv("MEMC_LOAD_PROGRESS", "1")
    assert parse().progress is True
    assert parse("--no-progress").progress is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORKERS", "x"), ("DRY", "perhaps"), ("IDFA", "x"), ("ENGINE", "fast"), ("TIMEOUT", "nan"), ("LOG_LEVEL", "x")],
)
def test_a_wrong_variable_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name}", value)
    assert f"MEMC_LOAD_{name}: " in complaint([], capsys)


# --- the commands -------------------------------------------------------------------------------


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / program), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)


@pytest.mark.parametrize(("program", "kind"), [("memc_load.py", Options), ("memc_load_parallel.py", ParallelOptions)])
def test_help_explains_every_option(program: str, kind: type[Options]) -> None:
    process = run(program, "--help")
    assert (process.returncode, process.stderr) == (0, "")
    fields = {field.name for field in dataclasses.fields(kind)} - {"addresses"} | set(ADDRESSES)
    for name in fields:
        assert re.search(rf"--{name.replace('_', '-')}\b", process.stdout)
    assert "127.0.0.1:33016" in process.stdout


@pytest.mark.parametrize("program", ["memc_load.py", "memc_load_parallel.py"])
def test_the_version_is_told(program: str) -> None:
    process = run(program, "--version")
    assert (process.returncode, process.stderr, process.stdout) == (0, "", f"{program} {__version__}\n")


@pytest.mark.parametrize("program", ["memc_load.py", "memc_load_parallel.py"])
def test_wrong_usage_ends_a_command_with_2(program: str) -> None:
    process = run(program, "--timeout", "never")
    assert (process.returncode, process.stdout) == (2, "")
    assert re.fullmatch(rf"{program}: argument --timeout: .*'never'.*\n", process.stderr)


@pytest.mark.parametrize("program", ["memc_load.py", "memc_load_parallel.py"])
def test_the_round_trip_needs_nothing(program: str) -> None:
    assert run(program, "--test", "--pattern", "/nowhere").returncode == 0
