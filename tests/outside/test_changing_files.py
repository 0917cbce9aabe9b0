"""Files that vanish, grow or are replaced while they are read."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.faults import trigger
from tests.outside.loading import Loader, in_small_blocks
from tests.outside.logs import Inbox, line, write_gz
from tests.outside.memcached import Servers, contents
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import expected
from tests.outside.trials import MIDDLE, hurried_load


@in_small_blocks
def test_a_file_that_vanishes_while_it_is_read_is_an_error_and_the_others_go_on(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, (inbox.directory / "0.tsv.gz").unlink)) as watch:
        finished = hurried_load(loader, inbox, servers, gaid=watch.address)
    assert finished.exit_code == 1
    assert finished.statuses() == {"0.tsv.gz": "error", "1.tsv.gz": "done", "2.tsv.gz": "done"}
    assert contents(servers) == expected(*inbox.logs).items


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(gzip.compress(line("dvid", "late")))


def replace(path: Path) -> None:
    write_gz(path.with_suffix(".new"), line("dvid", "other"))
    path.with_suffix(".new").rename(path)


@in_small_blocks
@pytest.mark.parametrize("change", [grow, replace])
def test_a_file_that_changes_while_it_is_read_stays_pending(
    inbox: Inbox, servers: Servers, loader: Loader, change: Callable[[Path], None]
) -> None:
    path = inbox.directory / "0.tsv.gz"
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, lambda: change(path))) as watch:
        finished = hurried_load(loader, inbox, servers, gaid=watch.address)
    assert finished.exit_code == 1
    assert set(finished.statuses().values()) == {"pending"}
    late_key = b"dvid:late" if change is grow else b"dvid:other"
    assert hurried_load(loader, inbox, servers).exit_code == 0
    assert late_key in contents(servers)
    assert inbox.waiting() == []
