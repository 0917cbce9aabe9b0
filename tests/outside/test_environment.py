"""Options from the environment, and environments as bare as cron's or systemd's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, PROJECT, REFERENCE, Finished, Loader, run
from tests.outside.logs import names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.spec import expected

both_commands = pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "parallel"])

# --- bare environments --------------------------------------------------------------------------


def run_bare(loader: Loader, environ: dict[str, str], *options: str) -> Finished:
    """Run a loader with nothing in its environment but this, away from the project."""
    return run(loader, None, *options, environ=environ, directory="/")


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
def test_an_empty_environment_is_enough(inbox: Path, servers: Servers, loader: Loader) -> None:
    log = write_gz(inbox / "a.tsv.gz", numbered(100))
    finished = run_bare(loader, {}, "--pattern", f"{inbox}/*.tsv.gz", *addresses(servers))
    assert (finished.exit_code, finished.output) == (0, "")
    assert contents(servers) == expected(log).items
    assert names(inbox) == [".a.tsv.gz"]


@both_commands
def test_variables_alone_run_a_load_and_then_cron_has_nothing_to_mail(
    tmp_path: Path, inbox: Path, servers: Servers, loader: Loader
) -> None:
    log = write_gz(inbox / "a.tsv.gz", numbered(100))
    finished = run_bare(loader, settings(tmp_path, servers))
    assert (finished.exit_code, finished.output, finished.log) == (0, "", [])
    assert contents(servers) == expected(log).items
    assert json.loads((tmp_path / "report.json").read_bytes())["totals"]["stored"] == 100
    assert names(tmp_path) == ["inbox", "memc_load.log", "memc_load.prom", "report.json"]
    assert "exit code 0" in (tmp_path / "memc_load.log").read_text().splitlines()[-1]


@both_commands
def test_an_empty_variable_of_an_option_that_takes_a_value_counts_as_none(
    tmp_path: Path, inbox: Path, servers: Servers, loader: Loader
) -> None:
    log = write_gz(inbox / "a.tsv.gz", numbered(100))
    empty = ("TTL", "REPORT", "METRICS", "LOG", "REJECTS", "MAX_RATE", "ONLY", "ENGINE", "LOG_LEVEL", "WORKERS")
    environ = {**settings(tmp_path, servers), **{f"MEMC_LOAD_{name}": "" for name in empty}}
    finished = run_bare(loader, environ)
    assert (finished.exit_code, finished.output) == (0, "")
    assert contents(servers) == expected(log).items
    assert names(tmp_path) == ["inbox"]


@both_commands
def test_a_wrong_variable_ends_a_command_with_one_line(
    tmp_path: Path, inbox: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(inbox / "a.tsv.gz", numbered(100))
    finished = run_bare(loader, {**settings(tmp_path, servers), "MEMC_LOAD_MAX_RATE": "fast"})
    assert (finished.exit_code, len(finished.log)) == (2, 1)
    assert "MEMC_LOAD_MAX_RATE" in finished.log[0]
    assert names(inbox) == ["a.tsv.gz"]


@pytest.mark.parametrize("encoding", [{}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}])
def test_any_locale_will_do(tmp_path: Path, inbox: Path, servers: Servers, encoding: dict[str, str]) -> None:
    name = os.fsdecode("журнал-".encode() + b"\xff.tsv.gz")
    write_gz(inbox / name, numbered(10) + "idfa\tключ\t1\t1\t1\n".encode())
    environ = {**settings(tmp_path, servers), **encoding, "MEMC_LOAD_MAX_ERROR_RATE": "1"}
    del environ["MEMC_LOAD_LOG"]
    finished = run_bare(DEFAULT, environ)
    assert finished.exit_code == 0
    assert f".{name}" in names(inbox)


def test_the_compiled_engine_needs_no_home_where_the_program_can_not_be_written(
    tmp_path: Path, inbox: Path, servers: Servers
) -> None:
    """As under systemd with ProtectSystem: then the cache is where NUMBA_CACHE_DIR says, and it is used."""
    pytest.importorskip("numba")
    program, cache = tmp_path / "program", tmp_path / "cache"
    shutil.copytree(PROJECT / "memcload", program / "memcload", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*PROJECT.glob("memc_*.py"), PROJECT / "appsinstalled_pb2.py"):
        shutil.copy(path, program)
    directories = [program, *(path for path in program.rglob("*") if path.is_dir())]
    for directory in directories:
        directory.chmod(0o555)
    cache.mkdir()
    elsewhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(tmp_path / "nowhere"))
    environ = {
        **settings(tmp_path, servers),
        **elsewhere,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        for name in ("a", "b"):
            write_gz(inbox / f"{name}.tsv.gz", numbered(10))
            finished = run_bare((str(program / "memc_load_parallel.py"), "--engine", "compiled"), environ)
            assert (finished.exit_code, finished.log) == (0, [])
    finally:
        for directory in directories:
            directory.chmod(0o755)
    assert names(inbox) == [".a.tsv.gz", ".b.tsv.gz"]
    assert names(cache) != []
    assert Path(environ["MEMC_LOAD_LOG"]).read_text().count("Compiled the encoder") == 1
