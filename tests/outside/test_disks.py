"""Disks that are full and directories that cannot be written: they do not stop a load."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.outside.loading import PARALLEL, PROJECT, Finished, Loader, Running, both_loaders, load, run
from tests.outside.logs import Inbox, line, make_inbox, names
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.spec import expected


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """Mount a disk of 64 KB, where that is possible."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a small disk can only be mounted as root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def full(path: Path) -> Path:
    """Make a file under which the device is that is always full."""
    path.symlink_to("/dev/full")
    return path


def test_a_log_on_a_full_disk_does_not_stop_the_load(inbox: Inbox, servers: Servers, tmp_path: Path) -> None:
    with Running(PARALLEL, inbox.pattern, *addresses(servers), "--log", str(full(tmp_path / "log"))) as running:
        finished = running.finish()
    assert finished.exit_code == 1
    assert [text for text in finished.log if "No space left on device" in text] == finished.log != []
    assert contents(servers) == expected(*inbox.logs).items
    assert inbox.waiting() == []


@pytest.mark.parametrize("option", ["--report", "--metrics"])
def test_a_report_to_a_full_device_does_not_stop_the_load(
    inbox: Inbox, servers: Servers, tmp_path: Path, option: str
) -> None:
    device = full(tmp_path / "report")
    finished = run(PARALLEL, inbox.pattern, *addresses(servers), option, str(device))
    assert device.is_symlink()  # and not replaced by a file
    assert finished.exit_code == 1
    assert [text for text in finished.messages("E") if "No space left on device" in text] != []
    assert contents(servers) == expected(*inbox.logs).items
    assert inbox.waiting() == []


def test_a_report_on_a_full_disk_leaves_the_old_one(inbox: Inbox, servers: Servers, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        report = disk / "report.json"
        report.write_bytes(b"old")
        with contextlib.suppress(OSError):
            (disk / "rest").write_bytes(bytes(1 << 16))
        finished = run(PARALLEL, inbox.pattern, *addresses(servers), "--report", str(report))
        assert report.read_bytes() == b"old"
        assert names(disk) == ["report.json", "rest"]
    assert finished.exit_code == 1
    assert [text for text in finished.messages("E") if "No space left on device" in text] != []
    assert inbox.waiting() == []


@both_loaders
@pytest.mark.parametrize("rejects", [1_000, 4_000], ids=["at-the-end", "on-the-way"])
def test_rejects_on_a_full_disk_do_not_stop_the_load(
    tmp_path: Path, servers: Servers, loader: Loader, rejects: int
) -> None:
    rejected = b"x" * 100 + b"\n"
    inbox = make_inbox(tmp_path / "inbox", [rejected * rejects + line("idfa", "a"), line("idfa", "b")])
    with small_disk(tmp_path / "disk") as disk:
        options = ("--rejects", str(disk), "--max-error-rate", "1")
        finished = load(loader, inbox.pattern, servers, *options)
        assert names(disk) == []
    assert finished.exit_code == 1
    assert [text for text in finished.messages("E") if "No space left on device" in text] != []
    assert finished.statuses() == {"0.tsv.gz": "done", "1.tsv.gz": "done"}
    assert contents(servers) == expected(*inbox.logs).items


@contextlib.contextmanager
def as_nobody(directory: Path) -> Iterator[list[str]]:
    """Give what runs a command without the rights of root; everything in the directory belongs to its user."""
    if os.geteuid() != 0:
        yield []
        return
    if not shutil.which("setpriv"):
        pytest.skip("as root without setpriv every directory can be written")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, 65534, 65534)
    yield ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everyone can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def run_as(prefix: Sequence[str], loader: Loader, pattern: str | Path, *options: str) -> Finished:
    """Run a loader behind another command."""
    probe = subprocess.run([*prefix, sys.executable, "-c", ""], cwd=PROJECT, capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("another user can't run this Python")
    return run(loader, pattern, *options, prefix=prefix)


def test_a_directory_that_cannot_be_written_is_found_before_its_files_are_loaded(
    open_path: Path, servers: Servers
) -> None:
    closed = make_inbox(open_path / "closed", [line("idfa", "a")])
    opened = make_inbox(open_path / "open", [line("idfa", "b")])
    with as_nobody(open_path) as prefix:
        closed.directory.chmod(0o555)
        finished = run_as(prefix, PARALLEL, f"{open_path}/*/*.tsv.gz", *addresses(servers))
        closed.directory.chmod(0o755)
    assert finished.exit_code == 1
    assert finished.says(f"directory {closed.directory} is not writable", "E")
    assert closed.waiting() == ["0.tsv.gz"]
    assert opened.waiting() == []
    assert contents(servers) == expected(line("idfa", "b")).items


@pytest.mark.parametrize("option", ["--rejects", "--report"])
def test_a_place_for_rejects_or_report_that_cannot_be_written_does_not_stop_the_load(
    open_path: Path, servers: Servers, option: str
) -> None:
    inbox = make_inbox(open_path / "inbox", [line("idfa", "a") + b"rejected\n", line("idfa", "b")])
    closed = open_path / "closed"
    closed.mkdir()
    target = str(closed / "report.json" if option == "--report" else closed)
    with as_nobody(open_path) as prefix:
        closed.chmod(0o555)
        options = ("--max-error-rate", "1", option, target)
        finished = run_as(prefix, PARALLEL, inbox.pattern, *addresses(servers), *options)
        closed.chmod(0o755)
    assert finished.exit_code == 1
    assert finished.says("Permission denied", "E")
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items
