"""The command line: what holds where nothing is said, and one clear line for what is wrong."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memcload.options import NORMAL_ERR_RATE, Options, ParallelOptions, default_workers, parse_options

PROJECT = Path(__file__).resolve().parents[2]
KINDS = [Options, ParallelOptions]
SERVERS = {
    "idfa": ("127.0.0.1:33013",),
    "gaid": ("127.0.0.1:33014",),
    "adid": ("127.0.0.1:33015",),
    "dvid": ("127.0.0.1:33016",),
}


@pytest.fixture(autouse=True)
def _no_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MEMC_LOAD_"):
            monkeypatch.delenv(name)


def parse(*arguments: str) -> ParallelOptions:
    return parse_options(arguments, "Loads.", ParallelOptions)


def usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str], kind: type[Options] = ParallelOptions) -> str:
    """Return the one line that wrong usage leaves on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        parse_options(arguments, "Loads.", kind)
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert errors.endswith("\n")
    return errors


# --- defaults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_has_to_be_said(kind: type[Options]) -> None:
    options = parse_options([], "Loads.", kind)
    assert options.pattern == "./data/appsinstalled/*.tsv.gz"
    assert options.servers == SERVERS
    assert options.log is None
    assert (options.dry, options.test) == (False, False)
    assert options.max_error_rate == NORMAL_ERR_RATE == 0.01
    assert options.ttl == 0
    assert options.max_rate == 0
    assert options.settle == 60
    assert (options.rejects, options.report, options.metrics) == (None, None, None)
    assert options.log_level == "info"


def test_the_parallel_loader_finds_out_what_suits_the_machine() -> None:
    options = parse()
    assert options.engine == "auto"
    assert options.workers == default_workers() >= 2
    assert options.queue_size >= 1
    assert options.block_size == 1 << 20


def test_a_dry_run_logs_every_record_unless_told_otherwise() -> None:
    assert parse("--dry").log_level == "debug"
    assert parse("--dry", "--log-level", "info").log_level == "info"


def test_the_progress_is_shown_where_standard_error_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with open(master, "rb"), open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert parse().progress is True
        assert parse("--no-progress").progress is False
    with open(os.devnull, "w") as nowhere:
        monkeypatch.setattr(sys, "stderr", nowhere)
        assert parse().progress is False
        assert parse("--progress").progress is True


# --- what can be said ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--pattern", "/logs/**/*.gz"], "pattern", "/logs/**/*.gz"),
        (["--pattern=-x"], "pattern", "-x"),
        (["-l", "a.log"], "log", "a.log"),
        (["--log", "a.log"], "log", "a.log"),
        (["--dry", "--log-level", "info"], "dry", True),
        (["-t"], "test", True),
        (["--test"], "test", True),
        (["--workers", "1"], "workers", 1),
        (["--queue-size", "1"], "queue_size", 1),
        (["--block-size", "1"], "block_size", 1),
        (["--timeout", "0.5"], "timeout", 0.5),
        (["--connect-timeout", "10"], "connect_timeout", 10.0),
        (["--retries", "0"], "retries", 0),
        (["--max-error-rate", "0"], "max_error_rate", 0.0),
        (["--max-error-rate", "1"], "max_error_rate", 1.0),
        (["--ttl", "2592001"], "ttl", 2592001),
        (["--max-rate", "50000"], "max_rate", 50000),
        (["--rejects", "/"], "rejects", "/"),
        (["--settle", "0"], "settle", 0.0),
        (["--report", "-"], "report", "-"),
        (["--metrics", "m.prom"], "metrics", "m.prom"),
        (["--min-age", "5"], "min_age", 5.0),
        (["--max-rejects", "0"], "max_rejects", 0),
        (["--routing", "ketama"], "routing", "ketama"),
        (["--routing", "python-memcached"], "routing", "python-memcached"),
        (["--check"], "check", True),
        (["--verify"], "verify", True),
        (["--tls"], "tls", True),
        (["--auth-file", "f"], "auth_file", "f"),
        (["--engine", "auto"], "engine", "auto"),
        (["--engine", "compiled"], "engine", "compiled"),
        (["--engine", "python"], "engine", "python"),
        (["--log-level", "debug"], "log_level", "debug"),
        (["--log-level", "warning"], "log_level", "warning"),
        (["--log-level", "error"], "log_level", "error"),
    ],
)
def test_an_option_sets_its_field_and_no_other(arguments: list[str], field: str, value: object) -> None:
    said, default = dataclasses.asdict(parse(*arguments)), dataclasses.asdict(parse())
    assert said.pop(field) == value
    default.pop(field)
    assert said == default


@pytest.mark.parametrize("address", ["localhost:1", "[::1]:11211", "unix:/run/memcached.sock"])
@pytest.mark.parametrize("name", SERVERS)
def test_every_device_type_has_its_server(name: str, address: str) -> None:
    assert parse(f"--{name}", address).servers == {**SERVERS, name: (address,)}


def test_a_device_type_may_have_several_servers_of_any_kind() -> None:
    text = "localhost:1,[::1]:11211,unix:/run/memcached.sock,localhost:2"
    assert parse("--gaid", text).servers["gaid"] == tuple(text.split(","))
    assert len(parse("--gaid", ",".join(f"h{number}:1" for number in range(64))).servers["gaid"]) == 64


@pytest.mark.parametrize("flag", ["again", "dry", "check", "verify", "test", "tls", "progress"])
def test_the_last_word_on_a_flag_counts(flag: str) -> None:
    assert getattr(parse(f"--{flag}"), flag) is True
    assert getattr(parse(f"--{flag}", f"--no-{flag}"), flag) is False
    assert getattr(parse(f"--no-{flag}", f"--{flag}"), flag) is True


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_shows_the_options_that_differ_from_the_defaults(kind: type[Options]) -> None:
    def shown(*arguments: str) -> dict[str, object]:
        return parse_options(arguments, "Loads.", kind).shown()

    assert shown() == shown("--progress", "--log-level", "info", "--ttl", "0") == {}
    assert shown("--ttl", "5", "--gaid", "a:1,b:2") == {"ttl": 5, "gaid": "a:1,b:2"}
    assert shown("--only", "dvid,idfa", "--auth-file", "/secret") == {"only": "idfa,dvid", "auth_file": "/secret"}
    assert shown("--dry") == {"dry": True}
    assert shown("--dry", "--log-level", "info") == {"dry": True, "log_level": "info"}


# --- what is wrong ------------------------------------------------------------------------------

WRONG = {
    "--workers": ["0", "-1", "", "x", "1.5", "257", "1e2", "99999999999999999999", "9" * 5000, "\n5000\n", "nan"],
    "--queue-size": ["0", "-1", "x", "10001"],
    "--block-size": ["0", "-1", "x", "1M", "1073741825"],
    "--retries": ["-1", "x", "0.5", "101"],
    "--ttl": ["-1", "x", "1d", "315360001"],
    "--max-rate": ["-1", "x", "1000000001"],
    "--timeout": ["0", "-1", "x", "nan", "inf", "", "1e9", "1s"],
    "--connect-timeout": ["0", "-1", "x", "nan", "inf"],
    "--settle": ["-1", "x", "nan", "inf", "-inf"],
    "--max-error-rate": ["-0.1", "1.1", "x", "nan", "1%", "inf", ""],
    "--engine": ["", "fast", "AUTO"],
    "--log-level": ["", "loud", "INFO", "critical"],
    "--rejects": ["", "/nowhere/at/all", "/dev/null", "line\nfeed"],
    "--idfa": ["", "localhost", "localhost:0", "::1:11211", "unix:x", "line\nfeed:1", "\udcff", "\x1b[31m"],
    "--gaid": ["localhost:65536", ",", "a:1,", "a:1,,b:1", "a:1, b:1", "a:1,a:1", "a:1,b:1,A:1", "[::1]:1,[0:0::1]:1"],
    "--routing": ["", "modulo", "Ketama"],
    "--min-age": ["-1", "x", "nan"],
    "--max-rejects": ["-1", "x", "1e5"],
    "--adid": ["[::1]", "unix:/a,unix:/a", ",".join(f"host{number}:1" for number in range(65))],
    "--dvid": ["http://localhost:11211"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_told_in_one_line_that_names_the_option(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"argument {name}: " in usage_error([f"{name}={value}"], capsys)


@pytest.mark.parametrize("name", [*WRONG, "--pattern", "--log", "--report", "--metrics", "--tls-ca", "--auth-file"])
def test_a_missing_value_is_told_in_one_line_that_names_the_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(rf"argument (-\w/)?{name}: expected one argument", usage_error([name], capsys))


@pytest.mark.parametrize("name", ["--pattern", "--log", "--report", "--metrics", "--tls-ca", "--auth-file"])
def test_an_empty_value_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{name}: the value is empty" in usage_error([f"{name}="], capsys)


@pytest.mark.parametrize("argument", ["--dry=1", "--no-progress=", "--check=a\nb", "-t=1"])
def test_a_flag_with_a_value_is_told_that_it_takes_none(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = argument.partition("=")[0]
    assert re.search(rf"argument ({name}|{name}/--test): it takes no value \(", usage_error([argument], capsys))


@pytest.mark.parametrize("argument", ["--nonsense", "-x", "--work=3", "--dr", "--none\nsense", "--"])
def test_an_unknown_option_is_named(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert argument[:6] in usage_error([argument, "a.gz"], capsys)


@pytest.mark.parametrize(("wrong", "right"), [("--worker=3", "--workers"), ("--max-eror-rate", "--max-error-rate")])
def test_an_unknown_option_is_told_with_the_one_that_was_meant(
    wrong: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean {right}?" in usage_error([wrong], capsys)


@pytest.mark.parametrize("arguments", [["a.gz"], ["--pattern", "a.gz", "b.gz"], ["--dry", "/logs/a", "b"], ["--", "a"]])
def test_a_list_of_files_is_told_as_such(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_error(arguments, capsys)
    assert "--pattern takes one pattern, not a list of files" in said
    assert "quotes" in said


@pytest.mark.parametrize("arguments", [["--only", "idfa", "gaid"], ["--idfa", "a:1,", "b:1"], ["--idfa", "a:1", "b:1"]])
def test_a_list_with_spaces_is_told_as_such(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search("without spaces|not an address", usage_error(arguments, capsys))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sample", "0.5"], "--verify"),
        (["--sample", "0.5", "--dry"], "--verify"),
        (["--tls-ca", "f"], "--tls"),
        (["--tls-cert", "f", "--tls-key", "f"], "--tls"),
        (["--tls", "--no-tls", "--tls-ca", "f"], "--tls"),
        (["--tls", "--tls-key", "f"], "--tls-cert"),
        (["--tls", "--gaid", "a:1,unix:/run/m"], "unix:/run/m"),
        (["--dry", "--verify"], "--verify"),
        (["--check", "--verify"], "--check"),
        (["--check", "--dry"], "--check"),
        (["--report", "x", "--metrics", "./x"], "--metrics"),
        (["--log", "/a/../x", "--report", "/x"], "--report"),
    ],
)
def test_what_can_not_be_meant_is_refused(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_error(arguments, capsys)
    assert arguments[0] in said or "--tls" in said
    assert named in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--verify", "--sample", "0.5", "--ttl", "5"],
        ["--routing", "crc32"],
        ["--tls", "--tls-cert", "f"],
        ["--tls", "--only", "idfa", "--gaid", "unix:/run/m"],
        ["--report", "/dev/null", "--metrics", "/dev/null"],
        ["--report", "-", "--log", "x"],
        ["--dry", "--test"],
    ],
)
def test_what_makes_sense_is_accepted(arguments: list[str]) -> None:
    parse(*arguments)


@pytest.mark.parametrize("name", ["--workers", "--queue-size", "--block-size", "--engine"])
def test_the_reference_loader_has_no_options_for_threads(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert name in usage_error([name, "1"], capsys, Options)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(sorted(WRONG)), st.text(st.characters(exclude_characters="\0")))
def test_any_value_is_either_taken_or_told_in_one_line(
    capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    try:
        parse(f"{name}={value}")
    except SystemExit:
        assert name in usage_error([f"{name}={value}"], capsys)


# --- the environment ----------------------------------------------------------------------------


def test_a_variable_stands_in_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMC_LOAD_IDFA", "localhost:1")
    monkeypatch.setenv("MEMC_LOAD_MAX_ERROR_RATE", "0.5")
    monkeypatch.setenv("MEMC_LOAD_DRY", "yes")
    monkeypatch.setenv("MEMC_LOAD_LOG", "a.log")
    monkeypatch.setenv("MEMC_LOAD_WORKERS", "7")
    options = parse()
    assert options.servers["idfa"] == ("localhost:1",)
    assert (options.max_error_rate, options.dry, options.log, options.workers) == (0.5, True, "a.log", 7)


def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMC_LOAD_TTL", "5")
    assert parse("--ttl", "6").ttl == 6
    monkeypatch.setenv("MEMC_LOAD_PROGRESS", "1")
    assert parse().progress is True
    assert parse("--no-progress").progress is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORKERS", "x"), ("DRY", "perhaps"), ("IDFA", "x"), ("ENGINE", "fast"), ("TIMEOUT", "nan"), ("LOG_LEVEL", "x")],
)
def test_a_wrong_variable_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name}", value)
    assert f"MEMC_LOAD_{name}: " in usage_error([], capsys)


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_has_its_variable(kind: type[Options], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {field.name for field in dataclasses.fields(ParallelOptions)} - {"servers"} | set(SERVERS):
        monkeypatch.setenv(f"MEMC_LOAD_{name.upper()}", "")  # which counts as none
    assert parse_options([], "Loads.", kind) == kind(progress=sys.stderr.isatty())


@pytest.mark.parametrize(
    ("flag", "field"), [("--no-dry", "dry"), ("--no-again", "again"), ("--no-verify", "verify"), ("--no-tls", "tls")]
)
def test_a_flag_of_the_environment_can_be_unset(flag: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{field.upper()}", "1")
    assert getattr(parse(), field) is True
    assert getattr(parse(flag), field) is False


@pytest.mark.parametrize("environment", ["dry", "verify", "check"])
@pytest.mark.parametrize("chosen", ["dry", "verify", "check"])
def test_what_to_do_is_the_command_line_s_choice(
    environment: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{environment.upper()}", "1")
    options = parse(f"--{chosen}")
    assert [mode for mode in ("dry", "verify", "check") if getattr(options, mode)] == [chosen]
    assert options.log_level == ("debug" if chosen == "dry" else "info")


def test_variables_for_other_runs_are_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLE": "0.5", "TLS_CA": "f", "WORKERS": "7", "TLS_KEY": "f"}.items():
        monkeypatch.setenv(f"MEMC_LOAD_{name}", value)
    assert parse("--ttl", "1").ttl == 1
    assert parse_options([], "Loads.", Options).tls is False


def test_the_command_line_wins_over_a_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMC_LOAD_REJECTS", "/nowhere")
    assert parse("--rejects", "/").rejects == "/"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("WORKER", "WORKERS"),
        ("MAXRATE", "MAX_RATE"),
        ("IDFAS", "IDFA"),
        ("NO_PROGRESS", "PROGRESS"),
        ("ROUTINGS", "ROUTING"),
        ("XYZ", ""),
        ("", ""),
        ("PORTS", ""),
        ("SERVICE_HOSTS", ""),
        ("idfa", ""),
        ("MAX\nRATE", "MAX_RATE"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_variable_that_means_no_option_is_refused_with_the_nearest(
    name: str, nearest: str, kind: type[Options], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name}", "secret")
    said = usage_error([], capsys, kind)
    assert said.count("MEMC_LOAD_") == 2
    assert re.search(rf"unknown environment variable .*; did you mean MEMC_LOAD_{nearest}", said)
    assert "secret" not in said


@pytest.mark.parametrize(
    "name",
    [
        *["PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP"],
        *["IDFA_PORT", "IDFA_PORT_11211_TCP_PROTO", "IDFA_SERVICE_HOST", "MY_APP_SERVICE_PORT", "A_SERVICE_PORT_B"],
    ],
)
def test_what_kubernetes_sets_for_a_service_is_let_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name}", "tcp://10.0.0.1:80")
    assert parse() == ParallelOptions(progress=sys.stderr.isatty())


@pytest.mark.parametrize("name", ["WORKER", "X"])
def test_an_unknown_variable_that_is_empty_counts_as_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name}", "")
    parse()


# --- help ---------------------------------------------------------------------------------------

PROGRAM = """
import sys
from memcload.options import Options, ParallelOptions, parse_options
parse_options(None, "Loads.", ParallelOptions)
print("imported:", *sys.modules)
"""


def run_parser(*arguments: str, shell: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Parse a command line in a process of its own; `shell` is what the shell does with its streams."""
    command = ["sh", "-c", f'exec "$0" "$@" {shell}', sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        encoding="latin-1",
        timeout=30,
        check=False,
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **environ},
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONUNBUFFERED": "1"},
        {"COLUMNS": "0"},
        {"COLUMNS": "20"},
        {"TERM": "dumb"},
        {"MEMC_LOAD_NOSENSE": "1"},
    ],
    ids=str,
)
@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_is_shown_on_any_terminal(option: str, environ: dict[str, str]) -> None:
    process = run_parser(option, **environ)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.isascii()
    assert "imported" not in process.stdout


@pytest.mark.parametrize("shell", [">&-", ">/dev/full", "2>&-", ">&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize(("argument", "exit_code"), [("--help", 0), ("--version", 0), ("--nonsense", 2)])
def test_streams_that_are_closed_or_full_change_no_exit_code(shell: str, argument: str, exit_code: int) -> None:
    process = run_parser(argument, shell=shell)
    assert process.returncode == exit_code
    assert "Traceback" not in process.stderr


def test_wrong_usage_is_told_on_a_terminal_that_lacks_the_letters() -> None:
    process = run_parser("--pattern", "a", "логи.gz", PYTHONIOENCODING="ascii")
    assert (process.returncode, process.stdout) == (2, "")
    assert "\\u043b" in process.stderr


def test_little_is_imported_to_read_the_options() -> None:
    imported = run_parser().stdout.split()
    assert "memcload.options" in imported
    assert not {"rich", "numba", "numpy", "google", "pymemcache", "ssl"} & set(imported)


@pytest.mark.parametrize("kind", KINDS)
def test_help_explains_every_option(kind: type[Options], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--help"], "Loads.", kind)
    shown = capsys.readouterr().out
    for name in {field.name for field in dataclasses.fields(kind)} - {"servers"} | set(SERVERS):
        assert re.search(rf"--{name.replace('_', '-')}\b", shown)
    assert "127.0.0.1:33016" in shown
    assert max(map(len, shown.splitlines())) <= 80
