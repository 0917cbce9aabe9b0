"""--verify: what it finds of what was lost or changed, whatever the engine and the server, and that it only looks."""

from __future__ import annotations

import gzip
import importlib.util
import re
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.outside.faults import KnowsNoMeta
from tests.outside.loading import DEFAULT, PARALLEL, Finished, Loader, Running, load, run
from tests.outside.logs import huge_line, line, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port, contents, everywhere, silent_server
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import TYPES, expected
from tools.make_logs import write_logs
from tools.servers import MemcachedServer

COMPILED = tuple("compiled" if part == "python" else part for part in PARALLEL)
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs Numba")
both_engines = pytest.mark.parametrize(
    "loader", [pytest.param(PARALLEL, id="python"), pytest.param(COMPILED, id="compiled", marks=needs_numba)]
)

_FOUND = re.compile(
    r"(?P<name>\w{4}) \S+: (?P<checked>\d+) checked: (?P<present>\d+) present, (?P<superseded>\d+) superseded by later "
    r"ones, (?P<missing>\d+) missing, (?P<different>\d+) different, (?P<too_large>\d+) too large, "
    r"(?P<unanswered>\d+) unanswered"
)


@dataclass
class Verdict:
    """What a verification found. `found` is by device type."""

    run: Finished
    found: dict[str, dict[str, int]]

    @property
    def exit_code(self) -> int:
        return self.run.exit_code

    def total(self, what: str) -> int:
        return sum(counts[what] for counts in self.found.values())

    def named(self, kind: str) -> list[str]:
        """Return the keys that are named, with the names of their files."""
        found = [re.fullmatch(rf"{kind}: (\S+) of .*/(\S+)", message) for message in self.run.messages("W")]
        return [f"{match[1]} {match[2]}" for match in found if match]


def verify(loader: Loader, pattern: Path, servers: Servers, *options: str, **other: str) -> Verdict:
    finished = run(loader, pattern, *addresses(servers, **other), "--verify", *options)
    found = {}
    for match in filter(None, map(_FOUND.fullmatch, finished.messages())):
        counts = {what: int(count) for what, count in match.groupdict().items() if what != "name"}
        assert counts.pop("checked") == sum(counts.values())
        found[match["name"]] = {"checked": sum(counts.values()), **counts}
    return Verdict(finished, found)


def forget(servers: Servers, *keys: str) -> None:
    for key in keys:
        with servers[key[:4]].client() as client:
            assert client.delete(key, noreply=False)


def change(servers: Servers, key: str, value: bytes = b"something else") -> None:
    with servers[key[:4]].client() as client:
        client.set(key, value, noreply=False)


def loaded(directory: Path, servers: Servers, content: bytes, name: str = "a.gz", *, rate: str = "0.01") -> None:
    """Load one log; it is done and renamed afterwards, unless more than `rate` of it is rejected."""
    write_gz(directory / name, content)
    assert load(PARALLEL, directory / name, servers, "--max-error-rate", rate).exit_code == 0


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


@both_engines
def test_what_is_missing_or_different_is_counted_and_named(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    loaded(tmp_path, servers, numbered(100))
    forget(servers, "idfa:device0", "idfa:device4", "dvid:device99")
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
    assert rest == ["… and 7 more: missing from idfa", "… and 7 more: different in gaid"]


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
        forget(servers, "idfa:device1996")
        change(servers, "dvid:device3")
        verdict = verify(loader, tmp_path / ".a.gz", servers, **old)
    assert verdict.exit_code == 1
    assert verdict.named("missing") == ["idfa:device1996 .a.gz"]
    assert verdict.named("different") == ["dvid:device3 .a.gz"]
    assert verdict.total("present") == 1998


# --- what was too large -------------------------------------------------------------------------


@both_engines
def test_what_was_rejected_as_too_large_is_not_missing(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    """Of two such keys, one had a record before, which the server then dropped; the other got one later."""
    log = numbered(20) + line(dev_id="had") + huge_line(dev_id="had") + huge_line(dev_id="gets") + line(dev_id="gets")
    loaded(tmp_path, servers, log + huge_line("dvid"), rate="1")
    verdict = verify(loader, tmp_path / ".a.gz", servers)
    assert verdict.exit_code == 0
    assert verdict.found["idfa"] == {
        **dict.fromkeys(verdict.found["idfa"], 0),
        "checked": 9,
        "present": 6,
        "superseded": 2,
        "too_large": 1,
    }
    assert verdict.total("too_large") == 2
    assert verdict.named("missing") == []


@both_engines
def test_a_value_that_just_fits_is_missing_when_it_is_not_there(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    def sized(size: int) -> bytes:
        return line(dev_id=f"{size}", apps=",".join(["7"] * ((size - 18) // 2)))  # 2 bytes an id, 18 for coordinates

    sizes = range(2**19 - 78, 2**19 - 60, 2)
    with MemcachedServer.start("-I", "512k") as server:
        here = {**servers, "idfa": server}
        loaded(tmp_path, here, b"".join(map(sized, sizes)), rate="1")
        held = contents(here)
        assert 0 < len(held) < len(sizes)
        forget(here, *(key.decode() for key in held))
        verdict = verify(loader, tmp_path / ".a.gz", here)
    assert verdict.exit_code == 1
    assert verdict.found["idfa"]["missing"] == len(held)
    assert verdict.found["idfa"]["too_large"] == len(sizes) - len(held)


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
    assert f"No file matches {tmp_path}/*.tsv.gz" in unseen.run.messages("I")


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


# --- servers that do not answer -----------------------------------------------------------------

HURRIED = ("--timeout", "0.2", "--connect-timeout", "0.2", "--retries", "1")


@both_engines
def test_a_server_that_is_down_is_told_and_the_others_are_compared(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    loaded(tmp_path, servers, numbered(400))
    with closed_port() as nowhere:
        verdict = verify(loader, tmp_path / ".a.gz", servers, *HURRIED, gaid=nowhere)
    assert verdict.exit_code == 1
    assert any(nowhere in message and "refused" in message for message in verdict.run.messages("E"))
    assert verdict.found["gaid"] == dict.fromkeys(verdict.found["gaid"], 0) | {"checked": 100, "unanswered": 100}
    assert verdict.total("present") == 300
    assert verdict.named("missing") == verdict.named("different") == []


def test_a_server_that_never_answers_is_tried_once_whatever_the_number_of_workers(
    tmp_path: Path, servers: Servers
) -> None:
    loaded(tmp_path, servers, numbered(2000))
    with silent_server() as (address, _):
        options = [*everywhere(address), *HURRIED, "--workers", "16"]
        started = time.monotonic()
        verdict = verify(PARALLEL, tmp_path / ".a.gz", servers, *options)
        assert time.monotonic() - started < 10  # one after the other, 16 workers would take 4 * 16 * 0.5 s
    assert (verdict.exit_code, verdict.total("unanswered")) == (1, 2000)
    (told,) = [message for message in verdict.run.messages("E") if "timed out" in message]
    assert all(name in told for name in TYPES)
