"""Where the system starts no more threads, a run says so and ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, PARALLEL, Loader, load, run, with_report
from tests.outside.logs import numbered, write_gz
from tests.outside.memcached import Servers, addresses

# A thread's stack that does not fit the address space stands for `ulimit -u`, which root need not keep to.
LIMITED = ("sh", "-c", 'ulimit -s 1000000; ulimit -v 4000000; exec "$@"', "limited")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stacks are limited in another way")


@pytest.mark.parametrize("loader", [PARALLEL, DEFAULT], ids=["python", "default"])
def test_a_run_that_can_start_no_threads_says_so_and_reports(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(100))
    options = (str(tmp_path / "*.gz"), *addresses(servers))
    limited = with_report(run(loader, *options, "--report", "-", prefix=LIMITED))
    assert limited.exit_code == 1
    assert limited.says("no more threads can be started: raise the limit (ulimit -u", "E")
    assert limited.file("a.gz")["reason"] == "stopped"
    assert not limited.says("Internal error")
    verification = run(loader, *options, "--verify", prefix=LIMITED)
    assert verification.exit_code == 1
    assert verification.says("no more threads can be started", "E")
    assert load(loader, tmp_path / "*.gz", servers).statuses() == {"a.gz": "done"}
