"""Memory stays bounded, whatever is in a file and however slow a server is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, PARALLEL, REFERENCE, Loader, all_loaders
from tests.outside.logs import line, write_repeated
from tests.outside.memcached import Servers, addresses
from tests.outside.memory import run_measured
from tests.outside.spec import TYPES

MOST = {REFERENCE: 65.0, PARALLEL: 100.0, DEFAULT: 250.0}  # megabytes; most of them for what is imported
SIZE = {REFERENCE: 45, DEFAULT: 150}  # megabytes of lines

reference_and_default = pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])


def write_large(path: Path, loader: Loader) -> None:
    """Write a log that does not fit into the memory that the loader may take.

    The reference gets few lines of 20 kB, for it is slow; the others get lines of the length that is encoded fast.
    """
    apps = ",".join(["9999"] * (4000 if loader is REFERENCE else 180))
    one = b"".join(line(TYPES[number % 4], f"{number % 500}", apps=apps) for number in range(1_000_000 // len(apps)))
    write_repeated(path, one, times=SIZE[loader])


@reference_and_default
def test_a_large_file_takes_little_memory(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_large(tmp_path / "a.gz", loader)
    finished, peak = run_measured(loader, tmp_path / "*.gz", *addresses(servers))
    assert finished.exit_code == 0
    assert peak < MOST[loader]


@all_loaders
def test_a_line_without_an_end_takes_little_memory(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_repeated(tmp_path / "a.gz", b"x" * (1 << 24), times=20)  # 320 MiB
    finished, peak = run_measured(loader, tmp_path / "*.gz", *addresses(servers), "--max-error-rate", "1")
    assert finished.exit_code == 0
    assert peak < MOST[loader]
    assert (tmp_path / ".a.gz.rejects.tsv").stat().st_size < 2 << 20


@all_loaders
def test_a_bomb_takes_little_memory(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    blank = b" " * ((1 << 20) - 1) + b"\n"
    write_repeated(tmp_path / "a.gz", blank * 16, times=20)  # 320 MiB in 320 kB
    finished, peak = run_measured(loader, tmp_path / "*.gz", *addresses(servers))
    assert finished.exit_code == 0
    assert peak < MOST[loader]


@pytest.mark.parametrize("state", ["frozen", "down"])
def test_what_waits_for_a_server_that_does_not_answer_takes_little_memory(
    tmp_path: Path, servers: Servers, state: str
) -> None:
    write_large(tmp_path / "a.gz", DEFAULT)
    if state == "frozen":
        servers["gaid"].freeze()
    else:
        servers["gaid"].kill()
    options = ("--timeout", "2", "--retries", "1")
    finished, peak = run_measured(DEFAULT, tmp_path / "*.gz", *addresses(servers), *options)
    assert finished.exit_code == 1
    assert peak < MOST[DEFAULT]
