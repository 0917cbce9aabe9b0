"""--check: what it finds of servers, each of them asked at the same time, and what it says to do about it."""

from __future__ import annotations

import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.outside.faults import KnowsNoMeta, TellsNoStats
from tests.outside.loading import DEFAULT, PARALLEL, Loader, Running, both_loaders, run
from tests.outside.logs import line, numbered, write_gz
from tests.outside.memcached import Servers, closed_port, everywhere, silent_server
from tests.outside.proxy import FaultyProxy
from tests.outside.secure import make_certificate, memcached
from tests.outside.spec import TYPES
from tests.outside.test_check import about, check
from tools.make_logs import write_logs
from tools.servers import MemcachedServer

SECONDS = 20.0  # until a server has to have started


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    directory = tmp_path / "inbox"
    directory.mkdir()
    return directory


@both_loaders
def test_a_dead_server_is_named_and_the_others_are_told_of(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(10))
    with closed_port() as nowhere:
        checked = check(loader, inbox / "*", servers, gaid=nowhere)
    assert checked.messages("E") == [
        f"gaid {nowhere}: connection refused; start memcached there, or give another address with --gaid",
        "1 problem found: fix it before the load",
    ]
    assert [len(about(checked, servers[name].address, "I")) for name in TYPES] == [1, 0, 1, 1]


def test_servers_that_do_not_answer_are_all_asked_at_the_same_time(inbox: Path) -> None:
    with ExitStack() as stack:
        places = [stack.enter_context(silent_server())[0] for _ in range(8)]
        options = [f"--{name}={places[2 * n]},{places[2 * n + 1]}" for n, name in enumerate(TYPES)]
        started = time.monotonic()
        checked = run(PARALLEL, inbox / "*", *options, "--check", "--timeout", "2")
        assert time.monotonic() - started < 10  # one after the other it would be 16
    assert checked.exit_code == 1
    assert len([message for message in checked.messages("E") if "timed out after 2 s" in message]) == 8


def test_a_signal_ends_it(inbox: Path) -> None:
    write_gz(inbox / "a.gz", numbered(10))
    with (
        silent_server() as (address, listening),
        Running(PARALLEL, inbox / "*", *everywhere(address), "--check", "--timeout", "60") as running,
        listening.accept()[0],
    ):
        started = time.monotonic()
        running.send(signal.SIGTERM)
        assert running.finish().exit_code == 143
        assert time.monotonic() - started < 5


def test_tls_that_is_missing_unwanted_or_not_trusted_is_told(inbox: Path, tmp_path: Path, servers: Servers) -> None:
    cert, key = make_certificate(tmp_path)
    with memcached("-Z", "-o", f"ssl_chain_cert={cert}", "-o", f"ssl_key={key}") as address:
        asked = [*everywhere(address), "--check"]
        plain = run(PARALLEL, inbox / "*", *asked)
        stranger = run(PARALLEL, inbox / "*", *asked, "--tls")
        fine = run(PARALLEL, inbox / "*", *asked, "--tls", "--tls-ca", str(cert))
    assert (plain.exit_code, stranger.exit_code, fine.exit_code) == (1, 1, 0)
    assert "--tls" in about(plain, address, "E")[0]
    assert "--tls-ca" in about(stranger, address, "E")[0]
    assert "meta commands, TLS, 0 items" in about(fine, address, "I")[0]
    unwanted = check(PARALLEL, inbox / "*", servers, "--tls", "--tls-ca", str(cert))
    assert "leave out --tls" in about(unwanted, servers["idfa"].address, "E")[0]


def test_a_password_that_is_missing_or_wrong_is_told(inbox: Path, tmp_path: Path) -> None:
    for name, content in (("server", "loader:secret\n"), ("right", "loader:secret"), ("wrong", "loader:sesame")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    with memcached("-Y", str(tmp_path / "server")) as address:
        asked = [*everywhere(address), "--check"]
        none = run(PARALLEL, inbox / "*", *asked)
        wrong = run(PARALLEL, inbox / "*", *asked, "--auth-file", str(tmp_path / "wrong"))
        right = run(PARALLEL, inbox / "*", *asked, "--auth-file", str(tmp_path / "right"))
    assert (none.exit_code, wrong.exit_code, right.exit_code) == (1, 1, 0)
    assert "wants a password: use --auth-file" in about(none, address, "E")[0]
    assert "does not accept the user or password" in about(wrong, address, "E")[0]
    for finished in (none, wrong, right):
        assert "sesame" not in "\n".join(finished.log)
        assert "secret" not in "\n".join(finished.log)


@pytest.mark.parametrize(("option", "happens"), [((), "it would evict items"), (("-M",), "it would refuse records")])
def test_a_server_that_is_nearly_full_is_a_problem(
    inbox: Path, servers: Servers, option: tuple[str, ...], happens: str
) -> None:
    write_gz(inbox / "a.gz", b"".join(line(dev_id=f"{n}", apps=",".join(["4294967295"] * 40)) for n in range(3000)))
    with MemcachedServer.start("-m", "8", *option) as small:
        assert check(PARALLEL, inbox / "*", servers, idfa=small.address).exit_code == 0
        with small.client() as client:
            for number in range(5500):
                client.set(f"{number}", bytes(1100), noreply=True)
            used = int(client.stats()[b"bytes"])
        assert 6e6 < used < 8e6
        checked = check(PARALLEL, inbox / "*", servers, idfa=small.address)
    (found,) = about(checked, small.address, "E")
    assert happens in found
    (advised,) = re.findall(r"memcached -m (\d+)", found)
    assert 8 < int(advised) < 10


def test_what_fits_its_memory_is_loaded_without_evictions_and_what_does_not_is_told(inbox: Path) -> None:
    write_logs(inbox, files=2, lines=40_000, seed=3)  # 24 MiB
    outcomes = []
    for megabytes in ("20", "32"):
        with MemcachedServer.start("-m", megabytes) as server:
            checked = run(DEFAULT, inbox / "*", *everywhere(server.address), "--check")
            loaded = run(DEFAULT, inbox / "*", *everywhere(server.address), "--again")
            outcomes.append((checked.exit_code, loaded.says("evicted")))
    assert outcomes == [(1, True), (0, False)]


def test_a_small_hash_table_is_told_with_the_option_that_spares_it(inbox: Path, servers: Servers) -> None:
    write_gz(inbox / "a.gz", numbered(13_000, types=["dvid"]))
    with MemcachedServer.start("-o", "hashpower=13") as small:
        checked = check(PARALLEL, inbox / "*", servers, dvid=small.address)
        (found,) = about(checked, small.address, "W")
    assert checked.exit_code == 0  # it is only slower
    assert "too small for 13,000 items" in found
    assert "-o hashpower=14" in found
    with MemcachedServer.start("-o", "hashpower=14") as enough:
        assert check(PARALLEL, inbox / "*", servers, dvid=enough.address).messages("W") == []


def test_what_is_no_memcached_as_it_should_be_is_told(inbox: Path, servers: Servers) -> None:
    write_gz(inbox / "a.gz", numbered(10))
    with (
        FaultyProxy(servers["idfa"].address, TellsNoStats) as silent,
        FaultyProxy(servers["gaid"].address, KnowsNoMeta) as old,
    ):
        checked = check(PARALLEL, inbox / "*", servers, idfa=silent.address, gaid=old.address)
    assert checked.exit_code == 0
    assert "does not report its stats" in about(checked, silent.address, "W")[0]
    assert "has no meta commands" in about(checked, old.address, "W")[0]
