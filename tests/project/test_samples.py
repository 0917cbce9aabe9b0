"""The sample logs are what `make data` writes, and neither the demo nor a load ever touches a tracked file."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from memcload.records import InvalidLine, parse_appsinstalled
from tools import demo
from tools.make_logs import write_logs
from tools.servers import MemcachedServer

PROJECT = Path(__file__).resolve().parents[2]
SAMPLES = PROJECT / "data" / "sample"
NAMES = ["20170929000000.tsv.gz", "20170929000100.tsv.gz", "20170929000200.tsv.gz"]


def is_rejected(line: bytes) -> bool:
    try:
        parse_appsinstalled(line)
    except InvalidLine:
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_mostly_good(name: str) -> None:
    counts = Counter(map(is_rejected, gzip.decompress((SAMPLES / name).read_bytes()).splitlines()))
    assert counts.total() == 1000
    assert 0 < counts[True] < 10


def test_the_samples_are_those_of_make_data(tmp_path: Path) -> None:
    made = write_logs(tmp_path, files=3, lines=1000, seed=2017, malformed=0.008, repeat_keys=0.05)
    assert [path.name for path in made] == sorted(path.name for path in SAMPLES.iterdir()) == NAMES
    for path in made:
        # Other versions of zlib pack other bytes; the lines are what counts.
        assert gzip.decompress((SAMPLES / path.name).read_bytes()) == gzip.decompress(path.read_bytes())


def test_the_demo_loads_copies_and_shows_what_is_stored(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in SAMPLES.iterdir()}
    # Not the servers that somebody has at the real ones.
    monkeypatch.setattr(demo, "DEFAULT_ADDRESSES", dict.fromkeys(demo.DEFAULT_ADDRESSES, "127.0.0.1:1"))
    assert demo.main() == 0
    shown = capfd.readouterr().out
    assert [shown.count(text) for text in (" apps: ", " is missing", " devices\n")] == [6, 0, 4]
    assert all(f"    .{name}\n" in shown for name in NAMES)
    assert {path: path.read_bytes() for path in SAMPLES.iterdir()} == before


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_bare_run_in_a_clone_touches_no_tracked_file(tmp_path: Path, servers: dict[str, MemcachedServer]) -> None:
    shutil.copytree(SAMPLES, tmp_path / "data" / "sample")
    logs = tmp_path / "data" / "appsinstalled"
    logs.mkdir()
    shutil.copy(PROJECT / "data" / "appsinstalled" / "README.md", logs)
    shutil.copy(PROJECT / ".gitignore", tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    tracked = git(tmp_path, "ls-files")
    assert tracked.split() == [".gitignore", "data/appsinstalled/README.md", *(f"data/sample/{name}" for name in NAMES)]

    addresses = [part for name, server in servers.items() for part in (f"--{name}", server.address)]
    command = [sys.executable, f"{PROJECT}/memc_load_parallel.py", *addresses, "--log-level", "error"]
    for logs_to_load in ([], NAMES):
        for name in logs_to_load:
            shutil.copy(SAMPLES / name, logs)
        subprocess.run(command, cwd=tmp_path, check=True, timeout=30)
        assert git(tmp_path, "status", "--porcelain", "--untracked-files") == "".join(
            f"A  {path}\n" for path in tracked.split()
        )
    assert {path.name for path in logs.iterdir()} > {f".{name}" for name in NAMES}


def git(directory: Path, *arguments: str) -> str:
    """Run git and return its output."""
    return subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True, text=True).stdout
