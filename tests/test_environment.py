"""Options from the environment, and environments as bare as cron's or systemd's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from memcload.options import Options, ParallelOptions, parse_options
from tests.loading import (
    FASTEST,
    LOG_LINE,
    PATIENCE,
    PROJECT,
    REFERENCE,
    TYPES,
    Servers,
    addresses,
    contents,
    expected,
    names,
    numbered,
    write_gz,
)

both_commands = pytest.mark.parametrize("loader", [REFERENCE, FASTEST], ids=["reference", "parallel"])

# variable → its value, what that means, and words for the command line with what these mean
VARIABLES: dict[str, tuple[str, object, list[str], object]] = {
    "PATTERN": ("/logs/*.gz", "/logs/*.gz", ["--pattern", "x"], "x"),
    "AGAIN": ("yes", True, ["--again"], True),
    "ONLY": ("gaid,idfa", ("idfa", "gaid"), ["--only", "dvid"], ("dvid",)),
    "SETTLE": ("5", 5.0, ["--settle", "6"], 6.0),
    "DRY": ("1", True, ["--dry"], True),
    "TEST": ("on", True, ["-t"], True),
    "TTL": ("10", 10, ["--ttl", "0"], 0),
    "MAX_RATE": ("1000", 1000, ["--max-rate", "0"], 0),
    "TIMEOUT": ("0.5", 0.5, ["--timeout", "7"], 7.0),
    "CONNECT_TIMEOUT": ("0.25", 0.25, ["--connect-timeout", "7"], 7.0),
    "RETRIES": ("0", 0, ["--retries", "9"], 9),
    "MAX_ERROR_RATE": ("0.5", 0.5, ["--max-error-rate", "0"], 0.0),
    "REJECTS": ("/", "/", ["--rejects", "."], "."),
    "REPORT": ("-", "-", ["--report", "r.json"], "r.json"),
    "METRICS": ("m.prom", "m.prom", ["--metrics", "n.prom"], "n.prom"),
    "LOG": ("a.log", "a.log", ["-l", "b.log"], "b.log"),
    "LOG_LEVEL": ("error", "error", ["--log-level", "warning"], "warning"),
    "PROGRESS": ("true", True, ["--no-progress"], False),
}
PARALLEL_VARIABLES: dict[str, tuple[str, object, list[str], object]] = {
    "VERIFY": ("true", True, ["--verify"], True),
    "SAMPLE": ("0.5", 0.5, ["--sample", "1"], 1.0),
    "WORKERS": ("17", 17, ["--workers", "1"], 1),
    "QUEUE_SIZE": ("9", 9, ["--queue-size", "1"], 1),
    "BLOCK_SIZE": ("4096", 4096, ["--block-size", "1"], 1),
    "ENGINE": ("python", "python", ["--engine", "auto"], "auto"),
}
ALL = {**VARIABLES, **PARALLEL_VARIABLES}


@pytest.fixture(autouse=True)
def _no_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MEMC_LOAD_"):
            monkeypatch.delenv(name)


def parse(*arguments: str) -> ParallelOptions:
    return parse_options(arguments, "Loads.", ParallelOptions)


# --- one variable -------------------------------------------------------------------------------


def test_every_option_has_its_variable() -> None:
    fields = {field.upper() for field in ParallelOptions.__dataclass_fields__}
    assert fields == {*ALL, "ADDRESSES"}
    assert {field.upper() for field in Options.__dataclass_fields__} == {*VARIABLES, "ADDRESSES"}


@pytest.mark.parametrize("name", ALL)
def test_a_variable_stands_in_for_its_option_and_no_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = parse().shown()
    value, meaning, _, _ = ALL[name]
    monkeypatch.setenv(f"MEMC_LOAD_{name}", value)
    changed = {field: shown for field, shown in parse().shown().items() if shown != default[field]}
    changed.pop("log_level" if name == "DRY" else "", None)  # a dry run logs more
    assert changed == {name.lower(): meaning}


@pytest.mark.parametrize("name", ALL)
def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, _, arguments, meaning = ALL[name]
    monkeypatch.setenv(f"MEMC_LOAD_{name}", value)
    assert getattr(parse(*arguments), name.lower()) == meaning


@pytest.mark.parametrize("name", TYPES)
def test_an_address_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name.upper()}", "[::1]:11211")
    expected_addresses = {**parse_options([], "", Options).addresses, name: "[::1]:11211"}
    assert parse().addresses == expected_addresses
    assert parse(f"--{name}", "unix:/run/m").addresses[name] == "unix:/run/m"


@pytest.mark.parametrize("text", ["0", "no", "False", "off", ""])
def test_a_flag_can_be_said_to_be_off(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in ("DRY", "AGAIN", "VERIFY", "PROGRESS"):
        monkeypatch.setenv(f"MEMC_LOAD_{name}", text)
    options = parse()
    assert (options.dry, options.again, options.verify, options.progress) == (False, False, False, False)


# --- wrong values -------------------------------------------------------------------------------

WRONG = {
    "AGAIN": "perhaps",
    "ONLY": "idfa,ifda",
    "SETTLE": "-1",
    "DRY": "2",
    "TEST": "x",
    "TTL": "1.5",
    "MAX_RATE": "fast",
    "TIMEOUT": "0",
    "CONNECT_TIMEOUT": "nan",
    "RETRIES": "-1",
    "MAX_ERROR_RATE": "5%",
    "REJECTS": "/nowhere",
    "LOG_LEVEL": "loud",
    "PROGRESS": "maybe",
    "IDFA": "127.0.0.1",
    "GAID": "localhost",
    "ADID": "unix:relative",
    "DVID": "host:99999",
    "VERIFY": "x",
    "SAMPLE": "2",
    "WORKERS": "0",
    "QUEUE_SIZE": "many",
    "BLOCK_SIZE": "0",
    "ENGINE": "steam",
}


def test_every_variable_that_can_be_wrong_is_tried() -> None:
    assert set(WRONG) == {*ALL, *(name.upper() for name in TYPES)} - {"PATTERN", "REPORT", "METRICS", "LOG"}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_wrong_usage_and_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name}", WRONG[name])
    with pytest.raises(SystemExit) as ended:
        parse()
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert f" MEMC_LOAD_{name}: " in errors


def test_variables_of_the_parallel_loader_do_not_disturb_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    default = parse_options([], "", Options)
    for name in PARALLEL_VARIABLES:
        monkeypatch.setenv(f"MEMC_LOAD_{name}", "nonsense")
    assert parse_options([], "", Options) == default


# --- bare environments --------------------------------------------------------------------------


def run_bare(
    loader: Sequence[str], environ: dict[str, str], *options: str, cwd: str = "/"
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with nothing in its environment but this, away from the project, without a terminal."""
    return subprocess.run(
        [sys.executable, str(PROJECT / loader[0]), *loader[1:], *options],
        env=environ,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def settings(directory: Path, servers: Servers) -> dict[str, str]:
    """Return a load's options as variables."""
    return {
        "MEMC_LOAD_PATTERN": f"{directory}/inbox/*.tsv.gz",
        "MEMC_LOAD_LOG": f"{directory}/memc_load.log",
        "MEMC_LOAD_METRICS": f"{directory}/memc_load.prom",
        "MEMC_LOAD_REPORT": f"{directory}/report.json",
        **{f"MEMC_LOAD_{name.upper()}": server.address for name, server in servers.items()},
    }


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    directory = tmp_path / "inbox"
    directory.mkdir()
    return directory


@both_commands
def test_an_empty_environment_is_enough(inbox: Path, servers: Servers, loader: Sequence[str]) -> None:
    log = write_gz(inbox / "a.tsv.gz", numbered(100))
    finished = run_bare(loader, {}, "--pattern", f"{inbox}/*.tsv.gz", *addresses(servers))
    assert finished.returncode == 0
    assert finished.stdout == b""
    assert all(LOG_LINE.fullmatch(text) for text in finished.stderr.decode().splitlines())
    assert contents(servers) == expected(log).items
    assert names(inbox) == [".a.tsv.gz"]


@both_commands
def test_variables_alone_run_a_load_and_then_cron_has_nothing_to_mail(
    tmp_path: Path, inbox: Path, servers: Servers, loader: Sequence[str]
) -> None:
    log = write_gz(inbox / "a.tsv.gz", numbered(100))
    finished = run_bare(loader, settings(tmp_path, servers))
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"", b"")
    assert contents(servers) == expected(log).items
    assert json.loads((tmp_path / "report.json").read_bytes())["totals"]["stored"] == 100
    assert names(tmp_path) == ["inbox", "memc_load.log", "memc_load.prom", "report.json"]
    assert "exit code 0" in (tmp_path / "memc_load.log").read_text().splitlines()[-1]


@both_commands
def test_a_wrong_variable_ends_a_command_with_one_line(
    tmp_path: Path, inbox: Path, servers: Servers, loader: Sequence[str]
) -> None:
    write_gz(inbox / "a.tsv.gz", numbered(100))
    finished = run_bare(loader, {**settings(tmp_path, servers), "MEMC_LOAD_MAX_RATE": "fast"})
    assert finished.returncode == 2
    assert finished.stderr.count(b"\n") == 1
    assert b"MEMC_LOAD_MAX_RATE" in finished.stderr
    assert names(inbox) == ["a.tsv.gz"]


@pytest.mark.parametrize("encoding", [{}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}])
def test_any_locale_will_do(tmp_path: Path, inbox: Path, servers: Servers, encoding: dict[str, str]) -> None:
    name = os.fsdecode("журнал-".encode() + b"\xff.tsv.gz")
    write_gz(inbox / name, numbered(10) + "idfa\tключ\t1\t1\t1\n".encode())
    environ = {**settings(tmp_path, servers), **encoding, "MEMC_LOAD_MAX_ERROR_RATE": "1"}
    del environ["MEMC_LOAD_LOG"]
    finished = run_bare(FASTEST, environ)
    assert finished.returncode == 0
    assert b"Traceback" not in finished.stderr
    assert f".{name}" in names(inbox)


def test_the_compiled_engine_needs_no_home_where_the_program_can_not_be_written(
    tmp_path: Path, inbox: Path, servers: Servers
) -> None:
    """As under systemd with ProtectSystem: then the cache is where NUMBA_CACHE_DIR says."""
    pytest.importorskip("numba")
    program, cache = tmp_path / "program", tmp_path / "cache"
    shutil.copytree(PROJECT / "memcload", program / "memcload", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("memc_client.py", "memc_load_parallel.py", "appsinstalled_pb2.py"):
        shutil.copy(PROJECT / name, program)
    for directory in (program, program / "memcload"):
        directory.chmod(0o555)
    cache.mkdir()
    write_gz(inbox / "a.tsv.gz", numbered(10))
    environ = {**settings(tmp_path, servers), "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        finished = run_bare((str(program / "memc_load_parallel.py"), "--engine", "compiled"), environ)
    finally:
        for directory in (program, program / "memcload"):
            directory.chmod(0o755)
    assert (finished.returncode, finished.stderr) == (0, b"")
    assert names(inbox) == [".a.tsv.gz"]
    assert any(path.suffix == ".nbc" for path in cache.rglob("*"))
