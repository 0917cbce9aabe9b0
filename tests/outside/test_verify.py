"""--verify: what it finds of what was lost or changed, whatever the engine and the server, and that it only looks."""

from __future__ import annotations

import gzip
import importlib.util
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.outside.faults import KnowsNoMeta
from tests.outside.loading import DEFAULT, PARALLEL, Loader, Running, load
from tests.outside.logs import line, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import TYPES, expected
from tests.outside.verifying import COMPILED, both_engines, change, delete, loaded, verify
from tools.make_logs import write_logs

# --- what it finds ------------------------------------------------------------------------------


@both_engines
def test_what_was_just_loaded_is_all_there(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    paths = write_logs(tmp_path, files=3, lines=500, seed=3, malformed=0.008, repeat_keys=0.5)
    whole = expected(*(gzip.decompress(path.read_bytes()) for path in paths))
    assert load(PARALLEL, tmp_path / "*", servers).exit_code == 0

    verdict = verify(loader, tmp_path / ".*", servers)

    assert verdict.exit_code == 0
    assert {name: verdict.found[name]["checked"] for name in TYPES} == dict(whole.stored)
    assert verdict.total("present") == len(whole.items)
    assert verdict.total("superseded") == whole.stored.total() - len(whole.items) > 0
    assert (verdict.named("missing"), verdict.named("different")) == ([], [])
    assert re.fullmatch(r"Finished in \d+\.\d s with exit code 0", verdict.run.messages()[-1])


@both_engines
def test_what_is_missing_or_different_is_counted_and_named(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    loaded(tmp_path, servers, numbered(100))
    delete(servers, "idfa:device0", "idfa:device4", "dvid:device99")
    change(servers, "gaid:device1")
    change(servers, "dvid:device3", b"")

    verdict = verify(loader, tmp_path / ".a.gz", servers)

    assert verdict.exit_code == 1
    found = {name: (counts["missing"], counts["different"]) for name, counts in verdict.found.items()}
    assert found == {"idfa": (2, 0), "gaid": (0, 1), "adid": (0, 0), "dvid": (1, 1)}
    assert sorted(verdict.named("missing")) == ["dvid:device99 .a.gz", "idfa:device0 .a.gz", "idfa:device4 .a.gz"]
    assert sorted(verdict.named("different")) == ["dvid:device3 .a.gz", "gaid:device1 .a.gz"]
    assert verdict.total("present") == 95


@both_engines
def test_only_the_first_few_are_named(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    loaded(tmp_path, servers, numbered(40))
    servers["idfa"].flush()
    for number in range(1, 40, 4):
        change(servers, f"gaid:device{number}")

    verdict = verify(loader, tmp_path / ".a.gz", servers)

    assert verdict.named("missing") == [f"idfa:device{number} .a.gz" for number in (0, 4, 8)]
    assert verdict.named("different") == [f"gaid:device{number} .a.gz" for number in (1, 5, 9)]
    rest = [message for message in verdict.run.messages("W") if message.startswith("…")]
    assert rest == ["… and 7 more missing from idfa", "… and 7 more different in gaid"]


@both_engines
def test_a_key_is_judged_by_its_last_record_of_all_files(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for name, apps in (("a.gz", "1"), ("b.gz", "2"), ("c.gz", "1")):
        loaded(tmp_path, servers, line(apps=apps) + line("gaid", apps=apps), name)
    assert verify(loader, tmp_path / ".*", servers).exit_code == 0

    verdict = verify(loader, tmp_path / ".[ab]*", servers)  # the last record of these is not what is held

    assert verdict.exit_code == 1
    assert {name: counts["different"] for name, counts in verdict.found.items() if counts["checked"]} == {
        "idfa": 1,
        "gaid": 1,
    }
    assert sorted(verdict.named("different")) == ["gaid:1rfw452y52g2gq4g .b.gz", "idfa:1rfw452y52g2gq4g .b.gz"]


def reordered(value: bytes) -> bytes:
    return value[::-1]


def one_byte_longer(value: bytes) -> bytes:
    return value + b"\0"


def one_bit_changed(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


@both_engines
@pytest.mark.parametrize("harm", [reordered, one_byte_longer, one_bit_changed])
def test_every_byte_of_a_value_counts(
    tmp_path: Path, servers: Servers, loader: Loader, harm: Callable[[bytes], bytes]
) -> None:
    log = numbered(20)
    loaded(tmp_path, servers, log)
    change(servers, "adid:device18", harm(expected(log).items[b"adid:device18"].value))
    verdict = verify(loader, tmp_path / ".a.gz", servers)
    assert (verdict.exit_code, verdict.named("different")) == (1, ["adid:device18 .a.gz"])


@both_engines
def test_values_may_be_big_or_tiny(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    big = b"".join(line(dev_id=f"big{number}", apps=",".join(["7"] * 400_000)) for number in range(3))
    loaded(tmp_path, servers, line(dev_id="tiny", apps="0") + big + line(dev_id="last"))
    assert verify(loader, tmp_path / ".a.gz", servers).found["idfa"]["present"] == 5

    with servers["idfa"].client() as client:
        value = client.get("idfa:big1")
    change(servers, "idfa:big1", value[:-1])
    verdict = verify(loader, tmp_path / ".a.gz", servers)
    assert (verdict.exit_code, verdict.named("different")) == (1, ["idfa:big1 .a.gz"])


@both_engines
def test_a_server_without_meta_commands_is_asked_in_the_classic_way(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    loaded(tmp_path, servers, numbered(2000))
    with ExitStack() as stack:
        old = {name: stack.enter_context(FaultyProxy(servers[name].address, KnowsNoMeta)).address for name in TYPES}
        assert verify(loader, tmp_path / ".a.gz", servers, **old).exit_code == 0
        delete(servers, "idfa:device1996")
        change(servers, "dvid:device3")
        verdict = verify(loader, tmp_path / ".a.gz", servers, **old)
    assert verdict.exit_code == 1
    assert verdict.named("missing") == ["idfa:device1996 .a.gz"]
    assert verdict.named("different") == ["dvid:device3 .a.gz"]
    assert verdict.total("present") == 1998


# --- what it reads ------------------------------------------------------------------------------


@both_engines
def test_done_files_are_read_where_the_pattern_names_them_or_again_says_so(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    loaded(tmp_path, servers, numbered(10), "a.tsv.gz")
    loaded(tmp_path, servers, numbered(10, prefix="more"), "a.tsv.gz")
    assert names(tmp_path) == [".a.tsv.gz", ".a.tsv.gz.1"]

    assert verify(loader, tmp_path / ".*.tsv.gz*", servers).total("present") == 20
    assert verify(loader, tmp_path / "*.tsv.gz", servers, "--again").total("present") == 20
    unseen = verify(loader, tmp_path / "*.tsv.gz", servers)
    assert (unseen.exit_code, unseen.total("checked")) == (0, 0)
    assert any(text.startswith(f"No file matches {tmp_path}/*.tsv.gz: ") for text in unseen.run.messages("I"))


def test_rejects_and_damaged_files_are_not_read(tmp_path: Path, servers: Servers) -> None:
    for name in (".a.gz.damaged", ".a.gz.damaged.1", ".a.gz.rejects.tsv", ".a.gz.x.part"):
        write_gz(tmp_path / name, numbered(10))
    for options in ((), ("--again",)):
        assert verify(PARALLEL, tmp_path / ".*", servers, *options).total("checked") == 0


@both_engines
def test_a_file_that_can_not_be_read_whole_fails_the_verification(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    loaded(tmp_path, servers, numbered(100))
    whole = (tmp_path / ".a.gz").read_bytes()
    (tmp_path / ".a.gz").write_bytes(whole[: len(whole) // 2])
    verdict = verify(loader, tmp_path / ".a.gz", servers)
    assert verdict.exit_code == 1
    assert verdict.total("missing") == verdict.total("different") == 0
    assert any(".a.gz is truncated" in message for message in verdict.run.messages("E"))


def test_a_link_that_leads_nowhere_fails_the_verification_and_the_others_are_compared(
    tmp_path: Path, servers: Servers
) -> None:
    loaded(tmp_path, servers, numbered(8))
    (tmp_path / ".0.gz").symlink_to("nowhere")
    verdict = verify(PARALLEL, tmp_path / ".*", servers)
    assert (verdict.exit_code, verdict.total("present")) == (1, 8)


@both_engines
def test_some_device_types_can_be_verified_alone(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    loaded(tmp_path, servers, numbered(100))
    servers["dvid"].flush()
    assert verify(loader, tmp_path / ".a.gz", servers).exit_code == 1
    verdict = verify(loader, tmp_path / ".a.gz", servers, "--only", "gaid,idfa")
    assert (verdict.exit_code, sorted(verdict.found)) == (0, ["gaid", "idfa"])


@both_engines
def test_when_records_expire_makes_no_difference(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    loaded(tmp_path, servers, numbered(100))
    assert verify(loader, tmp_path / ".a.gz", servers, "--ttl", "1000").total("present") == 100


# --- a sample -----------------------------------------------------------------------------------


def test_a_sample_is_chosen_by_key_the_same_by_every_engine(tmp_path: Path, servers: Servers) -> None:
    loaded(tmp_path, servers, numbered(2000) * 2)
    engines = [PARALLEL, COMPILED] if importlib.util.find_spec("numba") else [PARALLEL]
    verdicts = [verify(loader, tmp_path / ".a.gz", servers, "--sample", "0.25") for loader in [*engines, PARALLEL]]
    for verdict in verdicts:
        assert verdict.exit_code == 0
        assert verdict.found == verdicts[0].found
        assert all(counts["checked"] % 2 == 0 for counts in verdict.found.values())  # both records of a key or none
        assert 800 < verdict.total("checked") < 1200


def test_a_larger_sample_holds_the_smaller(tmp_path: Path, servers: Servers) -> None:
    loaded(tmp_path, servers, numbered(400))
    for server in servers.values():
        server.flush()
    previous: set[str] = set()
    for fraction in ("0.004", "0.008", "0.012"):  # so few that all are named
        named = set(verify(PARALLEL, tmp_path / ".a.gz", servers, "--sample", fraction).named("missing"))
        assert previous <= named
        previous = named
    assert previous


def test_a_sample_finds_in_it_what_a_whole_verification_would(tmp_path: Path, servers: Servers) -> None:
    loaded(tmp_path, servers, numbered(1000))
    servers["adid"].flush()
    verdict = verify(PARALLEL, tmp_path / ".a.gz", servers, "--sample", "0.2")
    assert verdict.exit_code == 1
    assert verdict.total("missing") == verdict.found["adid"]["missing"] == verdict.found["adid"]["checked"] > 0


# --- what it leaves alone -----------------------------------------------------------------------


@both_engines
@pytest.mark.parametrize("options", [(), ("--again",), ("--sample", "0.5")], ids=lambda options: " ".join(options))
def test_nothing_is_written_anywhere(tmp_path: Path, servers: Servers, loader: Loader, options: Sequence[str]) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    loaded(inbox, servers, numbered(100) + b"rejected\n")
    write_gz(inbox / "b.gz", numbered(100, prefix="unloaded"))
    before = state(inbox, servers)
    assert verify(loader, inbox / "*", servers, *options).exit_code == 1
    assert state(inbox, servers) == before


def state(directory: Path, servers: Servers) -> object:
    """Return what a write would change, on the disk and in the servers."""
    counters = []
    for server in servers.values():
        with server.client() as client:
            stats = client.stats()
            counters.append([stats[name] for name in (b"cmd_set", b"cmd_touch", b"cmd_flush", b"total_items")])
    files = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}
    return files, directory.stat().st_mtime_ns, counters, contents(servers)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it(tmp_path: Path, servers: Servers, number: signal.Signals, exit_code: int) -> None:
    write_gz(tmp_path / "a.gz", numbered(300_000))
    with Running(DEFAULT, tmp_path / "*.gz", *addresses(servers), "--verify") as running:
        running.wait_for("Verifying")
        running.send(number)
        running.process.wait(10)
        assert running.finish().exit_code == exit_code
    assert names(tmp_path) == ["a.gz"]
