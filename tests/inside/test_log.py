"""The log: one line for each message whatever it holds, and a load that goes on when it can't be written."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcload.log import LOG, console_lines_through, excerpt, log_failures, log_lines, printable, start_logging

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
    *["\u2028", "\u2029", "\u202etxet", "\ufeff", "\u200b"],
]


@pytest.mark.parametrize("text", HARMFUL, ids=ascii)
def test_what_could_break_a_line_or_a_terminal_is_escaped(path: Path, text: str) -> None:
    LOG.info("Processing %s", text)
    LOG.info("next")
    first, second = lines(path)
    assert LINE.fullmatch(first)
    assert first.isprintable()
    assert second.endswith("I next")


def test_a_name_that_is_no_text_is_escaped() -> None:
    process = in_another_process("start_logging(None, 'info'); LOG.info('Processing %s', '\\udcff\\udc1b')")
    assert process.stderr.endswith(r" I Processing \udcff\udc1b" + "\n")


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


# --- several lines at once ----------------------------------------------------------------------


def test_lines_that_belong_together_are_written_together(path: Path) -> None:
    log_lines([(logging.INFO, "Processing a\nb"), (logging.DEBUG, "100 %"), (logging.ERROR, "four")])
    assert all(LINE.fullmatch(line) for line in lines(path))
    assert [line[22:] for line in lines(path)] == ["I Processing a\\nb", "D 100 %", "E four"]


def test_of_lines_too_only_those_of_the_level_are_logged(tmp_path: Path) -> None:
    start_logging(str(tmp_path / "log"), "warning")
    log_lines([(logging.INFO, "one"), (logging.WARNING, "two")])
    log_lines([(logging.INFO, "three")])
    log_lines([])
    assert [line[22:] for line in lines(tmp_path / "log")] == ["W two"]


def test_lines_reach_whatever_logging_a_notebook_has_set_up(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "memcload"):
        log_lines([(logging.INFO, "100 %s"), (logging.DEBUG, "no")])
    assert [record.getMessage() for record in caplog.records] == ["100 %s"]


def test_one_write_is_enough_for_several_lines(tmp_path: Path) -> None:
    receiver, sender = os.pipe()
    start_logging(f"/dev/fd/{sender}", "info")
    log_lines([(logging.INFO, "one"), (logging.INFO, "two")])
    assert os.read(receiver, 1000).count(b"\n") == 2
    for descriptor in (receiver, sender):
        os.close(descriptor)


def test_threads_do_not_mix_their_lines(path: Path) -> None:
    def log(number: int) -> None:
        for _ in range(200):
            log_lines([(logging.INFO, f"{number} begins"), (logging.INFO, f"{number} ends")])
            LOG.info("%d alone", number)

    threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = [line[24:] for line in lines(path)]
    assert len(messages) == 4 * 200 * 3
    for first, second in itertools.pairwise(messages):
        if first.endswith("begins"):
            assert second == first.replace("begins", "ends")


# --- a display on the console -------------------------------------------------------------------


def test_lines_for_the_console_go_through_a_display(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(None, "info")
    shown: list[str] = []
    with console_lines_through(shown.append):
        LOG.info("one")
    LOG.info("two")
    assert [text[24:] for text in shown] == ["one\n"]
    assert capsys.readouterr().err[24:] == "two\n"


def test_lines_for_a_file_do_not(path: Path) -> None:
    shown: list[str] = []
    with console_lines_through(shown.append):
        LOG.info("one")
    assert shown == []
    assert [line[24:] for line in lines(path)] == ["one"]


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


PROGRAM = """
import sys
from memcload.log import *
start_logging(sys.argv[1] or None, "info")
LOG.info("one \u2026 \u043b")
log_lines([(20, "two"), (40, "three")])
print(log_failures())
sys.exit(7)
"""


def in_a_shell(shell: str, log: Path | str = "", **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Log three lines in a process of its own; `shell` is what the shell does with its streams."""
    command = ["sh", "-c", f'exec "$0" "$@" {shell}', sys.executable, "-c", PROGRAM, str(log)]
    return subprocess.run(
        command, capture_output=True, timeout=30, check=False, cwd=PROJECT, env={"PATH": os.environ["PATH"], **environ}
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("shell", "failures"), [("", 0), ("2>/dev/full", 3), ("2>&-", 0), ("2>&- <&-", 0), ("2</dev/null", 3)]
)
def test_a_console_that_is_full_or_closed_changes_nothing_but_a_count(
    shell: str, failures: int, unbuffered: str
) -> None:
    process = in_a_shell(shell, PYTHONUNBUFFERED=unbuffered)
    assert process.returncode == 7  # and not 120, which Python makes of a stream that it can't flush
    assert process.stdout == b"%d\n" % failures
    assert process.stderr.count(b"\n") == (0 if shell else 3)


@pytest.mark.parametrize("shell", ["2>&-", "<&- 2>&-", ">&- 2>&-", "2>/dev/full"])
def test_the_console_is_not_needed_to_log_to_a_file(shell: str, tmp_path: Path) -> None:
    process = in_a_shell(shell, tmp_path / "log")
    assert process.stderr == b""
    assert [line[24:] for line in lines(tmp_path / "log")] == ["one … л", "two", "three"]


def test_a_pipe_whose_reader_went_away_changes_nothing_but_a_count() -> None:
    receiver, sender = os.pipe()
    os.close(receiver)
    command = [sys.executable, "-c", PROGRAM, ""]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=sender, timeout=30, check=False, cwd=PROJECT)
    os.close(sender)
    assert (process.returncode, process.stdout) == (7, b"3\n")


def test_a_terminal_that_went_away_changes_nothing_but_a_count() -> None:
    master, slave = os.openpty()
    os.close(master)
    command = [sys.executable, "-c", PROGRAM, ""]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, timeout=30, check=False, cwd=PROJECT)
    os.close(slave)
    assert (process.returncode, process.stdout) == (7, b"3\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_console_can_not_show_is_escaped(encoding: str) -> None:
    process = in_a_shell("", PYTHONIOENCODING=encoding)
    assert process.stderr.splitlines()[0].endswith(rb" I one ... \u043b")
    assert process.stdout == b"0\n"


def test_a_console_that_is_slow_and_does_not_block_gets_everything() -> None:
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    program = PROGRAM.replace("print", "[LOG.info('x' * 10_000) for _ in range(50)]; print")
    with subprocess.Popen(
        [sys.executable, "-c", program, ""], stdout=subprocess.PIPE, stderr=sender, cwd=PROJECT
    ) as process:
        os.close(sender)
        with open(receiver, "rb") as file:
            time.sleep(0.5)
            assert len(file.read()) > 500_000
        assert process.stdout is not None
        assert process.stdout.read() == b"0\n"


def test_a_notebook_gets_the_log_in_its_own_stream(capsys: pytest.CaptureFixture[str]) -> None:
    class Cell(io.StringIO):
        def fileno(self) -> int:
            return 2

    with contextlib.redirect_stderr(Cell()) as cell:
        start_logging(None, "info")
        LOG.info("one")
    assert cell.getvalue()[24:] == "one\n"
    assert capsys.readouterr().err == ""


def test_a_named_pipe_that_nobody_reads_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="No such device"):
        start_logging(str(tmp_path / "log"), "info")


def test_the_failures_of_a_run_are_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("/dev/full", "info")
    LOG.info("one")
    assert log_failures() == 1
    assert capsys.readouterr().err.startswith("can't write the log: ")
    start_logging(str(tmp_path / "log"), "info")
    assert log_failures() == 0


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
