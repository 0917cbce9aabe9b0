"""The log in a file: it may be rotated while a load writes to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.outside.loading import LOG_LINE, Loader, Running, both_loaders
from tests.outside.logs import make_inbox, numbered
from tests.outside.memcached import Servers, addresses
from tests.outside.trials import wait_until


@both_loaders
@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_log_that_is_rotated_during_a_load_is_opened_anew(
    tmp_path: Path, servers: Servers, loader: Loader, how: str
) -> None:
    inbox = make_inbox(tmp_path / "inbox", [numbered(100, prefix=f"{file}-") for file in range(10)])
    log, old = tmp_path / "memc_load.log", tmp_path / "memc_load.log.1"
    options = [*addresses(servers), "--log", str(log), "--max-rate", "1000"]
    with Running(loader, inbox.pattern, *options) as running:
        wait_until(lambda: len(inbox.renamed()) >= 3)
        log.rename(old)
        if how == "deleted":
            text = old.read_text()
            old.unlink()
        finished = running.finish()
    assert (finished.exit_code, finished.log) == (0, [])
    before = (text if how == "deleted" else old.read_text()).splitlines()
    after = log.read_text().splitlines()
    assert all(LOG_LINE.fullmatch(message) for message in (*before, *after))
    assert "Memc loader started" in before[0]
    assert "exit code 0" in after[-1]
    if how == "renamed":
        processed = [message[-8:] for message in (*before, *after) if "] I Processing " in message]
        assert processed == [f"{number}.tsv.gz" for number in range(10)]
