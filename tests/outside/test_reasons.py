"""Every status of a file, and every reason for it, is reached from a real file."""

from __future__ import annotations

import gzip
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.faults import every, trigger
from tests.outside.loading import Finished, Loader, Running, in_small_blocks, load, with_report
from tests.outside.logs import line, make_old, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port
from tests.outside.proxy import FaultyProxy
from tests.outside.trials import HURRIED, MIDDLE

Outcomes = dict[str, tuple[str, str]]  # by the name of the file
AFTER_THE_LAST = 20_000  # bytes of requests for gaid: by then idfa has acknowledged all that it gets


def outcomes(finished: Finished) -> Outcomes:
    """Return what became of each file, and check that whatever needs somebody's attention is explained."""
    for name in finished.statuses():
        entry = finished.file(name)
        assert bool(entry["reason"]) == bool(entry["detail"]), entry
        if entry["reason"] not in (None, "partly_loaded"):
            assert finished.exit_code != 0
            assert finished.says(entry["detail"], "E")
    return {name: (finished.file(name)["status"], finished.file(name)["reason"] or "") for name in finished.statuses()}


def cut_off(log: bytes) -> bytes:
    return gzip.compress(log)[:-20]


def corrupt(log: bytes) -> bytes:
    return gzip.compress(log) + b"no other member"


def of_the_file_itself(directory: Path, servers: Servers, loader: Loader) -> Outcomes:
    for name, content in {
        "a": gzip.compress(line()),
        "b": cut_off(numbered(100)),
        "c": corrupt(numbered(100)),
        "d": b"PK\x03\x04" + bytes(100),
        "z" * 255: gzip.compress(line()),
    }.items():
        (directory / name).write_bytes(content)
        make_old(directory / name)
    (directory / "e").symlink_to("a")
    (directory / "f").write_bytes(cut_off(numbered(100)))
    write_gz(directory / "g", line())
    found = outcomes(load(loader, directory / "*", servers))
    return {name[:1]: outcome for name, outcome in found.items()}


def of_a_server_that_is_down(directory: Path, servers: Servers, loader: Loader) -> Outcomes:
    write_gz(directory / "a", numbered(50))
    with closed_port() as nowhere:
        finished = load(loader, directory / "*", servers, *HURRIED, idfa=nowhere)
    assert nowhere in finished.file("a")["detail"]
    assert "idfa" in finished.file("a")["detail"]
    return outcomes(finished)


def of_a_server(directory: Path, servers: Servers, loader: Loader, action: Callable[[], None]) -> Outcomes:
    """Load a file whose records for idfa come first, and do something once they are acknowledged."""
    write_gz(directory / "a", numbered(100, types=["idfa"]) + numbered(600, types=["gaid"]))
    with FaultyProxy(servers["gaid"].address, every(AFTER_THE_LAST, action)) as watch:
        finished = load(loader, directory / "*", servers, *HURRIED, gaid=watch.address)
    assert servers["idfa"].address in finished.file("a")["detail"]
    return outcomes(finished)


def of_a_signal(directory: Path, servers: Servers, loader: Loader) -> Outcomes:
    for name in ("a", "b"):
        write_gz(directory / name, numbered(400))
    options = ("--report", "-", "--max-rate", "400")
    stop = trigger(MIDDLE, lambda: running.send(signal.SIGTERM))
    with (
        FaultyProxy(servers["gaid"].address, stop) as watch,
        Running(loader, directory / "*", *addresses(servers, gaid=watch.address), *options) as running,
    ):
        finished = with_report(running.finish())
    assert finished.exit_code == 143
    return outcomes(finished)


def of_a_change(directory: Path, servers: Servers, loader: Loader, change: Callable[[Path], None]) -> Outcomes:
    for name in ("a", "b"):
        write_gz(directory / name, numbered(600))
    happens = trigger(MIDDLE, lambda: change(directory / "a"))
    with FaultyProxy(servers["gaid"].address, happens) as watch:
        return outcomes(load(loader, directory / "*", servers, gaid=watch.address))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(gzip.compress(line(dev_id="late")))


def of_some_types(directory: Path, servers: Servers, loader: Loader) -> Outcomes:
    write_gz(directory / "a", numbered(20))
    return outcomes(load(loader, directory / "*", servers, "--only", "idfa"))


def of_a_dry_run(directory: Path, servers: Servers, loader: Loader) -> Outcomes:
    write_gz(directory / "a", numbered(20))
    return outcomes(load(loader, directory / "*", servers, "--dry", "--log-level", "info"))


WAYS: dict[str, tuple[Callable[[Path, Servers, Loader], Outcomes], Outcomes]] = {
    "file": (
        of_the_file_itself,
        {
            "a": ("done", ""),
            "b": ("damaged", "truncated"),
            "c": ("damaged", "corrupt"),
            "d": ("damaged", "unsupported"),
            "e": ("error", "not_readable"),
            "f": ("pending", "still_being_written"),
            "g": ("pending", "earlier_file_pending"),
            "z": ("error", "not_renamable"),
        },
    ),
    "down": (of_a_server_that_is_down, {"a": ("pending", "records_failed")}),
    "gone": (
        lambda inbox, servers, loader: of_a_server(inbox, servers, loader, servers["idfa"].kill),
        {"a": ("pending", "server_unreachable")},
    ),
    "cold": (
        lambda inbox, servers, loader: of_a_server(inbox, servers, loader, servers["idfa"].restart),
        {"a": ("pending", "server_lost_records")},
    ),
    "empty": (
        lambda inbox, servers, loader: of_a_server(inbox, servers, loader, servers["idfa"].flush),
        {"a": ("pending", "server_lost_records")},
    ),
    "stopped": (of_a_signal, {"a": ("pending", "stopped"), "b": ("pending", "stopped")}),
    "changed": (
        lambda inbox, servers, loader: of_a_change(inbox, servers, loader, append),
        {"a": ("pending", "changed"), "b": ("pending", "earlier_file_pending")},
    ),
    "vanished": (
        lambda inbox, servers, loader: of_a_change(inbox, servers, loader, Path.unlink),
        {"a": ("error", "rename_failed"), "b": ("done", "")},
    ),
    "only": (of_some_types, {"a": ("pending", "partly_loaded")}),
    "dry": (of_a_dry_run, {"a": ("dry", "")}),
}


@in_small_blocks
@pytest.mark.parametrize("way", WAYS)
def test_every_status_and_reason_is_reached_from_a_real_file(
    tmp_path: Path, servers: Servers, loader: Loader, way: str
) -> None:
    reach, wanted = WAYS[way]
    directory = tmp_path / "inbox"
    directory.mkdir()
    assert reach(directory, servers, loader) == wanted


def test_none_is_left_out() -> None:
    reached = {outcome for _, wanted in WAYS.values() for outcome in wanted.values()}
    assert {status for status, _ in reached} == {"done", "pending", "damaged", "dry", "error"}
    assert {reason for _, reason in reached} == {
        "",
        "stopped",
        "records_failed",
        "server_unreachable",
        "server_lost_records",
        "still_being_written",
        "changed",
        "earlier_file_pending",
        "partly_loaded",
        "truncated",
        "corrupt",
        "unsupported",
        "not_readable",
        "not_renamable",
        "rename_failed",
    }
