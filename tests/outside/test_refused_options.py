"""Options and variables that mean nothing are refused before anything happens, with what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, REFERENCE, Loader, own_environ, run
from tests.outside.logs import make_old, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.spec import expected

both_commands = pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])


@both_commands
def test_a_variable_that_means_no_option_is_refused_with_the_nearest(tmp_path: Path, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(10))
    finished = run(loader, tmp_path / "*", environ={**own_environ(), "MEMC_LOAD_IFDA": "h:1"})
    assert (finished.exit_code, len(finished.log)) == (2, 1)
    assert "MEMC_LOAD_IFDA" in finished.log[0]
    assert "MEMC_LOAD_IDFA" in finished.log[0].replace("MEMC_LOAD_IFDA", "")
    assert names(tmp_path) == ["a.gz"]


@both_commands
def test_what_kubernetes_sets_for_a_service_of_that_name_is_let_pass(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(tmp_path / "a.gz", numbered(10))
    service = {
        "MEMC_LOAD_PORT": "tcp://10.0.0.11:6379",
        "MEMC_LOAD_PORT_6379_TCP_ADDR": "10.0.0.11",
        "MEMC_LOAD_SERVICE_HOST": "10.0.0.11",
        "MEMC_LOAD_SERVICE_PORT": "6379",
        "MEMC_LOAD_SERVICE_PORT_HTTP": "80",
    }
    finished = run(loader, tmp_path / "*", *addresses(servers), environ={**own_environ(), **service})
    assert finished.exit_code == 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--sample", "0.5"], ["--sample", "--verify"]),
        (["b.gz", "c.gz"], ["--pattern", "quote"]),
        (["--idfa", "h:1,h:1"], ["--idfa", "h:1"]),
        (["--tls", "--gaid", "unix:/socket"], ["--tls", "unix:/socket"]),
        (["--routing", "random"], ["--routing", "rendezvous"]),
        (["--tls-ca", "/dev/null"], ["--tls-ca", "--tls"]),
        (["--log", "-"], ["--log", "/dev/stdout"]),
        (["--metrics", "-"], ["--metrics", "/dev/stdout"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_what_can_not_be_meant_is_refused(tmp_path: Path, wrong: Sequence[str], named: Sequence[str]) -> None:
    write_gz(tmp_path / "a.gz", numbered(10))
    finished = run(DEFAULT, tmp_path / "a.gz", *wrong)
    assert (finished.exit_code, len(finished.log)) == (2, 1)
    assert [words for words in named if words not in finished.log[0]] == []
    assert names(tmp_path) == ["a.gz"]


@both_commands
def test_younger_files_are_left_for_the_next_run(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for name in ("a.gz", "b.gz"):
        write_gz(tmp_path / name, numbered(10, prefix=name))
    make_old(tmp_path / "b.gz")
    assert run(loader, tmp_path / "*", *addresses(servers), "--min-age", "600").exit_code == 0
    assert names(tmp_path) == [".b.gz", "a.gz"]
    assert contents(servers) == expected(numbered(10, prefix="b.gz")).items


@pytest.mark.parametrize("option", ["--log", "--report", "--metrics"])
@pytest.mark.parametrize("pattern", ["{}/in/*", "{}/**/*", "{}/./i?/[!.]*", "file://{}/in/a*"])
def test_what_a_run_writes_is_not_what_it_loads(tmp_path: Path, option: str, pattern: str) -> None:
    """It would be loaded, and renamed, as if it were a log: now or by the next run."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    write_gz(inbox / "a.gz", numbered(10))
    data = (inbox / "a.gz").read_bytes()
    pattern = pattern.format(tmp_path)
    for name in ("a.gz", "a.json"):
        finished = run(DEFAULT, pattern, option, f"{tmp_path}/in/../in/{name}")
        assert (finished.exit_code, len(finished.log)) == (2, 1)
        assert [words for words in (option, f"--pattern {pattern}") if words not in finished.log[0]] == []
    assert [(path.name, path.read_bytes()) for path in inbox.iterdir()] == [("a.gz", data)]


@both_commands
def test_what_a_run_writes_may_lie_beside_what_it_loads(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(10))
    outputs = [f"--{name}={tmp_path}/{name}" for name in ("log", "report", "metrics")]
    assert run(loader, tmp_path / "*.gz", *addresses(servers), *outputs).exit_code == 0
    assert names(tmp_path) == [".a.gz", "log", "metrics", "report"]
