"""A loader that is killed or stopped at any moment leaves nothing renamed that is not there."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.outside.faults import trigger
from tests.outside.loading import PARALLEL, Loader, Running, all_loaders, in_small_blocks, run, with_report
from tests.outside.logs import Inbox, line, make_inbox, names, numbered, write_repeated
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import expected
from tests.outside.trials import assert_next_load_mends, assert_renamed_files_are_there, wait_until

SLOWLY = ("--max-rate", "1000")


@pytest.fixture
def many_files(tmp_path: Path) -> Inbox:
    """Ten logs: most devices are in one of them, one is in all. With SLOWLY, one is loaded in a tenth of a second."""
    logs = [numbered(96, prefix=f"{file}-") + line(apps=f"{file}") * 4 for file in range(10)]
    return make_inbox(tmp_path / "inbox", logs)


@in_small_blocks
@pytest.mark.parametrize("files_done", [1, 4])
def test_a_loader_killed_at_any_moment_leaves_nothing_renamed_that_is_not_there(
    many_files: Inbox, servers: Servers, loader: Loader, files_done: int
) -> None:
    with Running(loader, many_files.pattern, *addresses(servers), *SLOWLY) as running:
        wait_until(lambda: len(many_files.renamed()) >= files_done)
        running.process.kill()
        assert running.finish().exit_code == -signal.SIGKILL
    assert many_files.renamed() != []
    assert many_files.waiting() != []
    assert_renamed_files_are_there(many_files, servers)
    assert_next_load_mends(many_files, servers)


@in_small_blocks
def test_a_loader_killed_before_the_end_of_the_first_file_renames_nothing(
    many_files: Inbox, servers: Servers, loader: Loader
) -> None:
    kill = trigger(0, lambda: running.process.kill())
    with (
        FaultyProxy(servers["gaid"].address, kill) as watch,
        Running(loader, many_files.pattern, *addresses(servers, gaid=watch.address)) as running,
    ):
        assert running.finish().exit_code == -signal.SIGKILL
    assert many_files.renamed() == []
    assert_next_load_mends(many_files, servers)


@in_small_blocks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_load_in_good_order(
    many_files: Inbox, servers: Servers, loader: Loader, number: signal.Signals
) -> None:
    with Running(loader, many_files.pattern, *addresses(servers), *SLOWLY, "--report", "-") as running:
        wait_until(lambda: len(many_files.renamed()) >= 2)
        running.send(number)
        finished = with_report(running.finish())
    assert finished.exit_code == finished.report["exit_code"] == 128 + number
    assert finished.says(f"stopped by {number.name}", "E")
    assert len(many_files.renamed()) >= 2
    assert "9.tsv.gz" in many_files.waiting()
    done = [name for name, status in finished.statuses().items() if status == "done"]
    assert done == many_files.renamed()
    assert set(finished.statuses().values()) == {"done", "pending"}
    assert_renamed_files_are_there(many_files, servers)
    assert_next_load_mends(many_files, servers)


@in_small_blocks
def test_a_second_signal_ends_a_load_at_once(inbox: Inbox, servers: Servers, loader: Loader) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        nowhere = f"127.0.0.1:{silent.getsockname()[1]}"
        with Running(loader, inbox.pattern, *addresses(servers, idfa=nowhere), "--timeout", "1000") as running:
            connection, _ = silent.accept()  # so a request is in flight, to which there is no answer
            with connection:
                running.send_until_it_ends(signal.SIGTERM)
                finished = running.finish()
    assert finished.exit_code == 128 + signal.SIGTERM
    assert not [text for text in finished.log if "Finished in" in text]
    assert inbox.renamed() == []


@pytest.mark.parametrize("content", [b"x" * ((1 << 24) - 1) + b"\n", b"x" * (1 << 24)], ids=["lines", "endless line"])
@all_loaders
def test_a_signal_ends_the_load_of_a_huge_file_within_seconds(
    tmp_path: Path, servers: Servers, loader: Loader, content: bytes
) -> None:
    write_repeated(tmp_path / "a.gz", content, times=1500)  # 24 GiB
    with Running(loader, tmp_path / "*.gz", *addresses(servers), "--timeout", "1") as running:
        running.wait_for("Processing")
        time.sleep(1)
        running.send(signal.SIGTERM)
        running.process.wait(6)  # the timeout and two seconds, and three more for a busy machine
        assert running.finish().exit_code == 143
    assert names(tmp_path) == ["a.gz"]


def test_a_second_run_leaves_the_directory_to_the_first(inbox: Inbox, servers: Servers) -> None:
    servers["idfa"].freeze()
    with Running(PARALLEL, inbox.pattern, *addresses(servers), "--timeout", "60") as first:
        first.wait_for("Processing")
        second = run(PARALLEL, inbox.pattern, *addresses(servers))
        servers["idfa"].thaw()
        assert first.finish().exit_code == 0
    assert second.exit_code == 75
    assert [text for text in second.messages("E") if str(first.process.pid) in text] != []
    assert contents(servers) == expected(*inbox.logs).items
