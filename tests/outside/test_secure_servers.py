"""Servers that want TLS or a password: loaded with it, and told by name without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, REFERENCE, Loader, all_loaders, run, with_report
from tests.outside.logs import Inbox, line, make_inbox, numbered
from tests.outside.memcached import everywhere
from tests.outside.secure import make_certificate, memcached

SECRET = "s3cr:et-of-ours"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    sizes = (5_000, 8_100, 8_300, 30_000, 400_000)  # memcached 1.6.18 hangs where 16 KiB are sent at once, and more
    fat = b"".join(line("idfa", f"fat{size}", apps=",".join(["7"] * size)) for size in sizes)
    return make_inbox(tmp_path / "inbox", [numbered(2000), fat + numbered(50, prefix="after")])


@all_loaders
def test_records_of_any_size_are_loaded_over_tls(inbox: Inbox, tmp_path: Path, loader: Loader) -> None:
    cert, key = make_certificate(tmp_path)
    with memcached("-Z", "-o", f"ssl_chain_cert={cert}", "-o", f"ssl_key={key}") as address:
        options = (*everywhere(address), "--retries", "0", "--report", "-")
        plain = with_report(run(loader, inbox.pattern, *options))
        stranger = run(loader, inbox.pattern, *options, "--tls")
        loaded = with_report(run(loader, inbox.pattern, *options, "--tls", "--tls-ca", str(cert)))
    assert (plain.exit_code, stranger.exit_code, loaded.exit_code) == (1, 1, 0)
    assert plain.says(address, "E")
    assert plain.says("--tls", "E")
    assert "--tls" in plain.file("0.tsv.gz")["detail"]
    assert stranger.says("--tls-ca", "E")
    assert loaded.report["totals"]["stored"] == 2055
    assert loaded.report["totals"]["failed"] == 0
    assert inbox.waiting() == []


@all_loaders
def test_a_password_is_used_and_never_shown(inbox: Inbox, tmp_path: Path, loader: Loader) -> None:
    for name, content in (("server", f"loader:{SECRET}\n"), ("right", f"loader:{SECRET}"), ("wrong", "loader:guess")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    with memcached("-Y", str(tmp_path / "server")) as address:
        options = (*everywhere(address), "--report", "-", "--log-level", "debug")
        none = run(loader, inbox.pattern, *options)
        wrong = run(loader, inbox.pattern, *options, "--auth-file", str(tmp_path / "wrong"))
        loaded = with_report(run(loader, inbox.pattern, *options, "--auth-file", str(tmp_path / "right")))
    assert (none.exit_code, wrong.exit_code, loaded.exit_code) == (1, 1, 0)
    for finished in (none, wrong):
        assert finished.says(address, "E")
        assert finished.says("--auth-file", "E")
        assert "retries 1" not in "".join(finished.log)  # another try would end no better
    assert loaded.report["totals"]["stored"] == 2055
    for finished in (none, wrong, loaded):
        assert SECRET not in "".join([*finished.log, finished.output])
        assert "guess" not in "".join([*finished.log, finished.output])


@pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])
def test_a_password_that_others_can_read_is_refused(inbox: Inbox, tmp_path: Path, loader: Loader) -> None:
    (tmp_path / "auth").write_text(f"loader:{SECRET}")
    (tmp_path / "auth").chmod(0o644)
    finished = run(loader, inbox.pattern, "--auth-file", str(tmp_path / "auth"))
    assert finished.exit_code == 2
    assert "auth" in finished.log[-1]
    assert SECRET not in "".join(finished.log)
    assert len(inbox.waiting()) == 2
