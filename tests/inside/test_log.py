"""The log: one line for each message whatever it holds, and a load that goes on when it can't be written."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcload.log import LOG, Complaints, excerpt, log_failures, printable, start_logging

PROJECT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"\[\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d\] [DIWE] .*")


@pytest.fixture(autouse=True)
def _log_is_put_back() -> Iterator[None]:
    before = LOG.handlers[:], LOG.level, LOG.propagate
    yield
    for handler in LOG.handlers:
        handler.close()
    LOG.handlers[:], LOG.level, LOG.propagate = before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file that is logged to, from debug level on."""
    start_logging(str(tmp_path / "log"), "debug")
    return tmp_path / "log"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def in_another_process(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program that logs, and return what it wrote; the failures to write are its own."""
    program = f"from memcload.log import *\n{program}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, encoding="utf-8", timeout=30, check=False
    )
    assert process.returncode == 0, process.stderr
    return process


# --- format -------------------------------------------------------------------------------------


def test_a_line_is_time_level_and_message(path: Path) -> None:
    LOG.debug("one")
    LOG.info("two %d", 2)
    LOG.warning("three")
    LOG.error("four")
    assert all(LINE.fullmatch(line) for line in lines(path))
    assert [line[22:] for line in lines(path)] == ["D one", "I two 2", "W three", "E four"]


@pytest.mark.parametrize(
    ("level", "letters"), [("debug", "DIWE"), ("info", "IWE"), ("warning", "WE"), ("error", "E"), ("ERROR", "E")]
)
def test_what_is_below_the_level_is_not_logged(tmp_path: Path, level: str, letters: str) -> None:
    start_logging(str(tmp_path / "log"), level)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        LOG.log(number, "x")
    assert [line[22] for line in lines(tmp_path / "log")] == list(letters)


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    for message in ("one", "two"):
        start_logging(str(tmp_path / "log"), "info")
        LOG.info(message)
    assert [line[24:] for line in lines(tmp_path / "log")] == ["one", "two"]


def test_the_console_is_standard_error() -> None:
    process = in_another_process("start_logging(None, 'info'); LOG.info('hello')")
    assert process.stdout == ""
    assert LINE.fullmatch(process.stderr.removesuffix("\n"))
    assert process.stderr.endswith(" I hello\n")


def test_a_message_is_logged_once_whatever_the_root_logger_does() -> None:
    process = in_another_process(
        "import logging; logging.basicConfig(level='DEBUG'); start_logging(None, 'info'); LOG.info('hello')"
    )
    assert process.stderr.count("hello") == 1


@pytest.mark.parametrize("name", ["missing/log", "."])
def test_a_log_that_can_not_be_opened_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        start_logging(str(tmp_path / name), "info")


# --- nothing can forge a line -------------------------------------------------------------------

HARMFUL = [
    "\n[2017.09.29 12:39:52] I Acceptable error rate (0). Successful load",
    *["\r", "\x1b[2J\x1b[31mred", "\x00", "\x07\x08", "\x7f", "\x85", "\x9b31m", "\v\f"],
    *["\u2028", "\u2029", "\u202etxet", "\ufeff", "\u200b", "\udcff\udc1b"],
]


@pytest.mark.parametrize("text", HARMFUL, ids=ascii)
def test_what_could_break_a_line_or_a_terminal_is_escaped(path: Path, text: str) -> None:
    LOG.info("Processing %s", text)
    LOG.info("next")
    first, second = lines(path)
    assert LINE.fullmatch(first)
    assert first.isprintable()
    assert second.endswith("I next")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("text", HARMFUL, ids=ascii)
def test_so_it_is_on_the_console(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, encoding: str
) -> None:
    with open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False) as console:
        monkeypatch.setattr(sys, "stderr", console)
        start_logging(None, "info")
        LOG.info("Processing %s", text)
    assert LINE.fullmatch(capfd.readouterr().err.removesuffix("\n"))


@given(st.text(st.characters(exclude_characters="\\")))
def test_any_text_becomes_printable_and_can_be_told_from_it(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    control = {"n": "\n", "r": "\r", "t": "\t"}
    escape = re.compile(r"\\(?:x(..)|u(....)|U(........)|([nrt]))")
    assert escape.sub(lambda found: control.get(found[0][1]) or chr(int(found[0][2:], 16)), shown) == text


def test_letters_of_any_language_stay_as_they_are(path: Path) -> None:
    LOG.info("логи/日本.tsv.gz: “é” …")
    assert lines(path)[0].endswith("I логи/日本.tsv.gz: “é” …")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"idfa\t1\tnan", r"idfa\t1\tnan"),
        (b"\x1b[31m\r\x00\xff", r"\x1b[31m\r\x00\xff"),
        ("é".encode(), r"\xc3\xa9"),
        (b"", ""),
        (b"x" * 120, "x" * 120),
        (b"x" * 121, "x" * 120 + "…"),
        (b"x" * (1 << 20), "x" * 120 + "…"),
        (b"\xff" * 40, r"\xff" * 30 + "…"),
    ],
)
def test_an_excerpt_of_a_line_is_escaped_and_cut(line: bytes, shown: str) -> None:
    assert excerpt(line) == shown


@given(st.binary())
def test_an_excerpt_of_any_line_is_short_printable_ascii(line: bytes) -> None:
    shown = excerpt(line).removesuffix("…")
    assert len(shown) <= 120
    assert shown.isascii()
    assert shown.isprintable()


# --- complaints ---------------------------------------------------------------------------------


def test_complaints_of_one_kind_are_cut_to_the_first_few_and_a_count(path: Path) -> None:
    complaints = Complaints()
    for number in range(1000):
        complaints.add("rejected for apps", f"line {number}")
    complaints.summarize()
    *shown, last = [line[22:] for line in lines(path)]
    assert 1 <= len(shown) <= 10
    assert shown == [f"W line {number}" for number in range(len(shown))]
    assert last == f"W … and {1000 - len(shown)} more: rejected for apps"


def test_a_few_complaints_need_no_count(path: Path) -> None:
    complaints = Complaints()
    for number in range(3):
        complaints.add("rejected for apps", f"line {number}")
        complaints.add("rejected for key", f"line {number}")
    complaints.summarize()
    assert [line[22:] for line in lines(path)] == [f"W line {number}" for number in (0, 0, 1, 1, 2, 2)]


def test_many_complaints_of_one_kind_hide_none_of_another(path: Path) -> None:
    complaints = Complaints()
    for number in range(100):
        complaints.add("rejected for apps", f"line {number}")
    complaints.add("rejected for key", "the only one")
    assert lines(path)[-1].endswith("W the only one")


def test_every_file_has_its_own_complaints(path: Path) -> None:
    for name in ("a", "b"):
        complaints = Complaints()
        for number in range(100):
            complaints.add("failed", f"{name} {number}")
        complaints.summarize()
    messages = [line[24:] for line in lines(path)]
    assert [message for message in messages if message[0] == "…"] == ["… and 97 more: failed"] * 2
    assert sum(message[:2] == "a " for message in messages) == sum(message[:2] == "b " for message in messages) == 3


# --- a log that can't be written ----------------------------------------------------------------


def test_nothing_fails_as_long_as_the_log_can_be_written(path: Path) -> None:
    LOG.info("x")
    assert log_failures() == 0


def test_a_full_disk_is_counted_and_told_once() -> None:
    process = in_another_process(
        "start_logging('/dev/full', 'info'); LOG.info('one'); LOG.info('two'); LOG.debug('no'); print(log_failures())"
    )
    assert process.stdout == "2\n"
    assert re.fullmatch(r"can't write the log: .*No space left on device\n", process.stderr)


def test_a_console_that_is_closed_or_full_stops_nothing() -> None:
    for harm in ("sys.stderr = open('/dev/full', 'w')", "os.close(2)"):
        process = in_another_process(
            f"import os, sys; {harm}; start_logging(None, 'info'); LOG.info('one'); LOG.info('two')\n"
            "print(log_failures(), flush=True); os._exit(0)"
        )
        assert process.stdout == "2\n"


def test_a_log_whose_directory_is_deleted_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    process = in_another_process(
        f"import shutil; start_logging({str(tmp_path / 'logs' / 'log')!r}, 'info'); LOG.info('one')\n"
        f"shutil.rmtree({str(tmp_path / 'logs')!r}); LOG.info('two'); LOG.info('three'); print(log_failures())"
    )
    assert process.stdout == "2\n"
    assert process.stderr.startswith("can't write the log: ")


# --- rotation -----------------------------------------------------------------------------------


def test_a_log_that_was_renamed_is_opened_anew(path: Path) -> None:
    LOG.info("one")
    path.rename(f"{path}.1")
    LOG.info("two")
    LOG.info("three")
    assert [line[24:] for line in lines(Path(f"{path}.1"))] == ["one"]
    assert [line[24:] for line in lines(path)] == ["two", "three"]


def test_a_log_that_was_deleted_or_replaced_is_opened_anew(path: Path) -> None:
    LOG.info("one")
    path.unlink()
    LOG.info("two")
    assert [line[24:] for line in lines(path)] == ["two"]
    shutil.copy(path, f"{path}.new")
    os.replace(f"{path}.new", path)
    LOG.info("three")
    assert [line[24:] for line in lines(path)] == ["two", "three"]
