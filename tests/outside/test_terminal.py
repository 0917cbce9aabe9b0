"""What people see: progress and summary on a real terminal, plain lines where there is none."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.outside.loading import (
    DEFAULT,
    LOG_LINE,
    PARALLEL,
    PATIENCE,
    PROJECT,
    REFERENCE,
    Loader,
    both_loaders,
    load,
    own_environ,
    run,
)
from tests.outside.logs import line, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port, everywhere, silent_server
from tests.outside.spec import TYPES
from tests.outside.terminal import Session, bar_of, session

SLOWLY = ("--max-rate", "400")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    directory = tmp_path / "inbox"
    directory.mkdir()
    return directory


# --- progress -----------------------------------------------------------------------------------


@both_loaders
def test_the_progress_tells_bytes_records_rate_time_left_rejects_and_servers(
    inbox: Path, servers: Servers, loader: Loader
) -> None:
    long = ",".join(["4294967295"] * 400)  # so that a few records fill a block
    write_gz(inbox / "a.gz", b"".join(line(TYPES[n % 4], f"{n}", apps=long) + b"rejected\n" for n in range(300)))
    write_gz(inbox / "b.gz", numbered(200))
    total = sum(path.stat().st_size for path in inbox.iterdir())
    with session(loader, inbox, servers, *SLOWLY, "--max-error-rate", "1") as shown:
        assert shown.finish() == 0
    bars = {bar_of(screen) for screen in shown.seen}
    assert any(
        re.search(rf"\d[\d.]*/{total / 1000:.1f} kB +(-|\d):.+ \d+ records · \d+/s · [1-9]\d* rejected", bar)
        for bar in bars
    ), bars
    assert len(bars) > 2  # it moves
    assert any("servers  idfa ok  gaid ok  adid ok  dvid ok" in screen for screen in shown.seen)


@both_loaders
def test_nothing_of_the_progress_stays_and_the_log_is_whole(inbox: Path, servers: Servers, loader: Loader) -> None:
    for number in range(5):
        write_gz(inbox / f"{number}.gz", numbered(60, prefix=f"{number}-") + b"rejected\n" * 5)
    with session(loader, inbox, servers, *SLOWLY, "--max-error-rate", "1") as shown:
        assert shown.finish() == 0
    assert any(bar_of(screen) for screen in shown.seen)
    rows = shown.screen.rows
    assert bar_of(shown.screen.text) == ""
    assert not any(row.startswith("servers") for row in rows)
    log = [row for row in rows if row.startswith("[")]
    assert all(LOG_LINE.fullmatch(row) for row in log)
    processed = [row for row in log if "Processing" in row]
    assert [row.split("] I ")[1] for row in processed] == [f"Processing {inbox}/{number}.gz" for number in range(5)]
    assert len([row for row in log if "rejected for columns" in row]) >= 3  # the first few, and counts
    assert "exit code 0" in log[-1]
    assert shown.screen.shows_cursor


@pytest.mark.parametrize("width", [60, 30])
def test_a_narrow_terminal_is_not_littered(inbox: Path, servers: Servers, width: int) -> None:
    write_gz(inbox / "a.gz", numbered(400) + b"rejected\n")
    options = ["--pattern", f"{inbox}/*.gz", *addresses(servers), *SLOWLY]
    with Session(PARALLEL, *options, width=width) as shown:
        assert shown.finish() == 0
    assert max(screen.count("servers") for screen in shown.seen) == (width >= 40)
    assert not any(row.startswith("servers") for row in shown.screen.rows)
    assert "Finished in" in "".join(shown.screen.rows)


@both_loaders
def test_a_server_is_shown_retrying_down_and_ok_again(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", line() + line("gaid"))
    write_gz(inbox / "b.gz", b"".join(numbered(2000, prefix=f"{number}-") for number in range(2)))
    servers["idfa"].kill()
    options = [*SLOWLY, "--retries", "5", "--connect-timeout", "0.3"]
    with session(loader, inbox, servers, *options) as shown:
        shown.wait_for(lambda screen: "idfa retrying  gaid ok" in screen)
        shown.wait_for(lambda screen: "idfa down  gaid ok" in screen)
    assert names(inbox) == ["a.gz", "b.gz"]

    with session(loader, inbox, servers, *SLOWLY, "--retries", "100", "--connect-timeout", "0.3") as shown:
        shown.wait_for(lambda screen: "idfa retrying" in screen)
        servers["idfa"].restart()
        shown.wait_for(lambda screen: "idfa ok" in screen.splitlines()[-1])
        assert "idfa" in shown.screen.text
        assert "answers again" in shown.screen.text


@pytest.mark.parametrize("environ", [{}, {"TERM": "dumb"}, {"COLUMNS": "0"}], ids=str)
@pytest.mark.parametrize("options", ["--settle 5", "a.gz b.gz", "--log /there/is/no/such/directory/on/this/machine"])
def test_no_word_is_cut_where_a_line_ends(tmp_path: Path, options: str, environ: dict[str, str]) -> None:
    command = ["--pattern", f"{tmp_path}/*.gz", *options.split()]
    said = [text for text in run(DEFAULT, None, *command, environ=own_environ()).log if "Summary" not in text]
    with Session(DEFAULT, *command, width=80, environ=environ) as shown:
        shown.finish()
    assert max(map(len, said)) > 80  # they have to be broken
    shown_words = set(shown.screen.text.split())
    missing = [word for text in said for word in text.split() if word not in shown_words]
    assert [word for word in missing if not re.search(r"[0-9][]:.][0-9]|[0-9]\]", word)] == []  # times may differ


@both_loaders
def test_the_progress_can_be_left_out(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(200))
    with session(loader, inbox, servers, *SLOWLY, "--no-progress") as shown:
        assert shown.finish() == 0
    assert b"\x1b" not in shown.raw
    assert all(LOG_LINE.fullmatch(row) for row in shown.screen.rows if row)
    assert "Summary: files 1 done" in shown.screen.text


@both_loaders
def test_a_dumb_terminal_gets_no_sequences(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(200))
    options = ["--pattern", f"{inbox}/*.gz", *addresses(servers), *SLOWLY]
    with Session(loader, *options, environ={"TERM": "dumb"}) as shown:
        assert shown.finish() == 0
    assert b"\x1b" not in shown.raw
    assert ["stored", "200"] in shown.tables()


@both_loaders
def test_standard_output_is_left_alone(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(200))
    with session(loader, inbox, servers, *SLOWLY, "--report", "-") as shown:
        shown.finish()
        assert shown.process.stdout is not None
        output = shown.process.stdout.read()
    assert output.startswith(b"{\n")
    assert b"\x1b" not in output
    assert '"exit_code"' not in shown.screen.text


# --- signals ------------------------------------------------------------------------------------


@both_loaders
def test_a_loader_that_is_killed_leaves_the_cursor(inbox: Path, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(20))
    with silent_server() as (address, _):
        options = ["--pattern", f"{inbox}/*.gz", *everywhere(address), "--timeout", "600"]
        with Session(loader, *options) as shown:
            shown.wait_for(bar_of)
            shown.process.kill()
            shown.finish()
    assert shown.screen.shows_cursor


# --- the summary on a terminal ------------------------------------------------------------------


@both_loaders
def test_the_summary_is_a_table_for_people(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(1196) + b"rejected\n" + line(apps="x") * 2 + line(apps="1,x"))
    write_gz(inbox / "b.gz", numbered(40))
    options = ["--pattern", f"{inbox}/*.gz", *addresses(servers)]
    with Session(loader, *options, width=100) as shown:
        assert shown.finish() == 0
    rows = {row[0]: row[1:] for row in shown.tables()}
    assert rows["files"] == ["2 done"]
    assert rows["records"] == ["1,240"]
    assert rows["stored"] == ["1,237"]
    assert rows["rejected"] == ["3 (2 apps, 1 columns)"]
    assert rows["partial"] == ["1"]
    assert rows["failed"] == ["0"]
    assert re.fullmatch(r"\d+\.\d s", rows["duration"][0])
    assert re.fullmatch(r"[\d,]+ records/s", rows["rate"][0])
    assert rows["device type"] == ["address", "stored", "failed", "retries", "evictions", "restarts"]
    assert rows["idfa"] == [servers["idfa"].address, "310", "0", "0", "0", "0"]
    assert rows["dvid"] == [servers["dvid"].address, "309", "0", "0", "0", "0"]


@both_loaders
def test_any_address_is_shown_as_it_is(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(4, types=["gaid"]))
    strange = {"idfa": "[fe80::1]:11211", "adid": "unix:/run/[bold]:bomb:", "dvid": "[::1]:11211"}
    with session(loader, inbox, servers, **strange) as shown:
        assert shown.finish() == 0
    rows = {row[0]: row[1:] for row in shown.tables()}
    assert {name: rows[name][0] for name in strange} == strange


@both_loaders
def test_with_a_log_file_both_get_the_summary_and_what_to_do_next(
    inbox: Path, tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(inbox / "a.gz", numbered(8))
    log = tmp_path / "log"
    with closed_port() as nowhere:
        options = ["--retries", "0", "--log", str(log)]
        with session(loader, inbox, servers, *options, gaid=nowhere) as shown:
            assert shown.finish() == 1
    step = f"1 file is pending: run again once {nowhere} answers"
    assert step in shown.screen.rows
    assert ["files", "1 pending"] in shown.tables()
    lines = [match[2] for match in map(LOG_LINE.fullmatch, log.read_text().splitlines()) if match]
    assert step in lines
    assert any(text.startswith("Summary: files 1 pending; records 8; stored 6;") for text in lines)


# --- the summary without a terminal -------------------------------------------------------------


@both_loaders
@pytest.mark.parametrize("options", [(), ("--progress",)], ids=["by itself", "--progress"])
def test_no_escape_sequence_goes_where_there_is_no_terminal(
    inbox: Path, servers: Servers, loader: Loader, options: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gz(inbox / "a.gz", numbered(200))
    monkeypatch.setenv("TERM", "xterm-256color")
    command = [sys.executable, str(PROJECT / loader[0]), *loader[1:], "--pattern", f"{inbox}/*", *addresses(servers)]
    finished = subprocess.run([*command, *SLOWLY, *options], capture_output=True, timeout=PATIENCE, check=True)
    assert b"Processing" in finished.stderr
    assert b"\x1b" not in finished.stdout + finished.stderr
    assert b"\r" not in finished.stdout + finished.stderr


@both_loaders
def test_without_a_terminal_the_summary_is_plain_log(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(1198) + b"rejected\n" + line(apps="1,x"))
    finished = run(loader, inbox / "*", *addresses(servers))
    total, *devices = (message for message in finished.messages("I") if message.startswith("Summary: "))
    assert re.fullmatch(
        r"Summary: files 1 done; records 1,200; stored 1,199; rejected 1 \(1 columns\); partial 1; failed 0; "
        r"duration \d+\.\d s; rate [\d,]+ records/s",
        total,
    )
    address = servers["idfa"].address
    assert devices[0] == (
        f"Summary: device type idfa, address {address}, stored 301, failed 0, retries 0, evictions 0, restarts 0"
    )
    assert len(devices) == 4


# --- what to do next ----------------------------------------------------------------------------


@contextlib.contextmanager
def two_closed_ports() -> Iterator[tuple[str, str]]:
    with closed_port() as first, closed_port() as second:
        yield first, second


HURRIED = ("--retries", "0", "--connect-timeout", "0.3")


@both_loaders
def test_pending_files_wait_for_the_servers_that_are_down(inbox: Path, servers: Servers, loader: Loader) -> None:
    for name in ("a.gz", "b.gz"):
        write_gz(inbox / name, numbered(8))
    with two_closed_ports() as (first, second):
        one = load(loader, inbox / "*", servers, *HURRIED, adid=first)
        two = load(loader, inbox / "*", servers, *HURRIED, idfa=second, dvid=first)
        same = load(loader, inbox / "*", servers, *HURRIED, idfa=first, dvid=first)
    assert one.messages("W")[-1] == f"2 files are pending: run again once {first} answers"
    assert two.messages("W")[-1] == f"2 files are pending: run again once {second} and {first} answer"
    assert same.messages("W")[-1] == f"2 files are pending: run again once {first} answers"


@both_loaders
def test_a_file_that_is_still_being_written_waits_for_the_next_run(
    inbox: Path, servers: Servers, loader: Loader
) -> None:
    (inbox / "a.gz").write_bytes(b"\x1f\x8b")
    finished = load(loader, inbox / "*", servers)
    assert finished.messages("W")[-1] == "1 file is pending: the next run will try again"


@both_loaders
def test_damaged_files_errors_and_rejects_are_told_apart(inbox: Path, servers: Servers, loader: Loader) -> None:
    (inbox / "a.gz").write_bytes(b"\x1f\x8b" + bytes(range(1, 60)))
    (inbox / "b.gz").symlink_to("nowhere")
    write_gz(inbox / "c.gz", numbered(8) + b"rejected\n")
    steps = load(loader, inbox / "*", servers).messages("W")[-3:]
    assert [step.split(": ")[0] for step in steps] == [
        "1 file is damaged",
        "1 file could not be loaded",
        "1 file has too many rejected lines",
    ]


@pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "parallel"])
def test_after_a_good_load_there_is_nothing_to_do(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(8))
    assert load(loader, inbox / "*", servers).messages("WE") == []
