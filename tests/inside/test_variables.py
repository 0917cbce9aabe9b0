"""Options from the environment: each variable stands in for its option."""

from __future__ import annotations

import os

import pytest

from memcload.options import Options, ParallelOptions, parse_options
from tests.outside.spec import TYPES

# variable → its value, what that means, and words for the command line with what these mean
VARIABLES: dict[str, tuple[str, object, list[str], object]] = {
    "PATTERN": ("/logs/*.gz", "/logs/*.gz", ["--pattern", "x"], "x"),
    "AGAIN": ("yes", True, ["--again"], True),
    "ONLY": ("gaid,idfa", ("idfa", "gaid"), ["--only", "dvid"], ("dvid",)),
    "SETTLE": ("5", 5.0, ["--settle", "6"], 6.0),
    "MIN_AGE": ("5", 5.0, ["--min-age", "6"], 6.0),
    "CHECK": ("1", True, ["--check"], True),
    "ROUTING": ("ketama", "ketama", ["--routing", "crc32"], "crc32"),
    "TLS": ("1", True, ["--tls"], True),
    "TLS_CA": ("ca.pem", "ca.pem", ["--tls", "--tls-ca", "b.pem"], "b.pem"),
    "TLS_CERT": ("c.pem", "c.pem", ["--tls", "--tls-cert", "b.pem"], "b.pem"),
    "TLS_KEY": ("k.pem", "k.pem", ["--tls", "--tls-cert", "c.pem", "--tls-key", "b.pem"], "b.pem"),
    "AUTH_FILE": ("a.txt", "a.txt", ["--auth-file", "b.txt"], "b.txt"),
    "MAX_REJECTS": ("5", 5, ["--max-rejects", "6"], 6),
    "DRY": ("1", True, ["--dry"], True),
    "TEST": ("on", True, ["-t"], True),
    "TTL": ("10", 10, ["--ttl", "0"], 0),
    "MAX_RATE": ("1000", 1000, ["--max-rate", "0"], 0),
    "TIMEOUT": ("0.5", 0.5, ["--timeout", "7"], 7.0),
    "CONNECT_TIMEOUT": ("0.25", 0.25, ["--connect-timeout", "7"], 7.0),
    "RETRIES": ("0", 0, ["--retries", "9"], 9),
    "MAX_ERROR_RATE": ("0.5", 0.5, ["--max-error-rate", "0"], 0.0),
    "REJECTS": ("/", "/", ["--rejects", "."], "."),
    "REPORT": ("-", "-", ["--report", "r.json"], "r.json"),
    "METRICS": ("m.prom", "m.prom", ["--metrics", "n.prom"], "n.prom"),
    "LOG": ("a.log", "a.log", ["-l", "b.log"], "b.log"),
    "LOG_LEVEL": ("error", "error", ["--log-level", "warning"], "warning"),
    "PROGRESS": ("true", True, ["--no-progress"], False),
}
PARALLEL_VARIABLES: dict[str, tuple[str, object, list[str], object]] = {
    "VERIFY": ("true", True, ["--verify"], True),
    "SAMPLE": ("0.5", 0.5, ["--verify", "--sample", "1"], 1.0),
    "WORKERS": ("17", 17, ["--workers", "1"], 1),
    "QUEUE_SIZE": ("9", 9, ["--queue-size", "1"], 1),
    "BLOCK_SIZE": ("4096", 4096, ["--block-size", "1"], 1),
    "ENGINE": ("python", "python", ["--engine", "auto"], "auto"),
    "CLUSTER": ("local:2", "local:2", ["--cluster", "local:1"], "local:1"),
    "WINDOW_SIZE": ("1000", 1000, ["--cluster", "local:1", "--window-size", "1"], 1),
}
ALL = {**VARIABLES, **PARALLEL_VARIABLES}


@pytest.fixture(autouse=True)
def _no_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MEMC_LOAD_"):
            monkeypatch.delenv(name)


def parse(*arguments: str) -> ParallelOptions:
    return parse_options(arguments, "Loads.", ParallelOptions)


# --- one variable -------------------------------------------------------------------------------


def test_every_option_has_its_variable() -> None:
    fields = {field.upper() for field in ParallelOptions.__dataclass_fields__}
    assert fields == {*ALL, "SERVERS"}
    assert {field.upper() for field in Options.__dataclass_fields__} == {*VARIABLES, "SERVERS"}


@pytest.mark.parametrize("name", sorted(set(ALL) - {"PROGRESS"}))  # which is not shown
def test_a_variable_stands_in_for_its_option_and_no_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, meaning, _, _ = ALL[name]
    default = parse().shown()
    monkeypatch.setenv(f"MEMC_LOAD_{name}", value)
    shown = {field: text for field, text in parse().shown().items() if field not in default}
    shown.pop("log_level" if name == "DRY" else "", None)  # a dry run logs more
    assert shown == {name.lower(): ",".join(meaning) if isinstance(meaning, tuple) else meaning}


@pytest.mark.parametrize("name", ALL)
def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, _, arguments, meaning = ALL[name]
    monkeypatch.setenv(f"MEMC_LOAD_{name}", value)
    assert getattr(parse(*arguments), name.lower()) == meaning


@pytest.mark.parametrize("name", TYPES)
def test_servers_come_from_their_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name.upper()}", "[::1]:11211,a:1")
    assert parse().servers == {**Options().servers, name: ("[::1]:11211", "a:1")}
    assert parse(f"--{name}", "unix:/run/m").servers[name] == ("unix:/run/m",)


@pytest.mark.parametrize("text", ["0", "no", "False", "off", ""])
def test_a_flag_can_be_said_to_be_off(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in ("DRY", "AGAIN", "VERIFY", "PROGRESS"):
        monkeypatch.setenv(f"MEMC_LOAD_{name}", text)
    options = parse()
    assert (options.dry, options.again, options.verify, options.progress) == (False, False, False, False)


# --- wrong values -------------------------------------------------------------------------------

WRONG = {
    "AGAIN": "perhaps",
    "ONLY": "idfa,ifda",
    "SETTLE": "-1",
    "DRY": "2",
    "MIN_AGE": "young",
    "CHECK": "perhaps",
    "ROUTING": "modulo",
    "TLS": "2",
    "MAX_REJECTS": "-1",
    "TEST": "x",
    "TTL": "1.5",
    "MAX_RATE": "fast",
    "TIMEOUT": "0",
    "CONNECT_TIMEOUT": "nan",
    "RETRIES": "-1",
    "MAX_ERROR_RATE": "5%",
    "REJECTS": "/nowhere",
    "LOG_LEVEL": "loud",
    "PROGRESS": "maybe",
    "IDFA": "127.0.0.1",
    "GAID": "localhost",
    "ADID": "unix:relative",
    "DVID": "host:99999",
    "VERIFY": "x",
    "SAMPLE": "2",
    "WORKERS": "0",
    "QUEUE_SIZE": "many",
    "BLOCK_SIZE": "0",
    "ENGINE": "steam",
    "CLUSTER": "here",
    "WINDOW_SIZE": "0",
}


def test_every_variable_that_can_be_wrong_is_tried() -> None:
    assert set(WRONG) == {*ALL, *(name.upper() for name in TYPES)} - {
        "PATTERN",
        "REPORT",
        "METRICS",
        "LOG",
        "TLS_CA",
        "TLS_CERT",
        "TLS_KEY",
        "AUTH_FILE",
    }


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_wrong_usage_and_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(f"MEMC_LOAD_{name}", WRONG[name])
    with pytest.raises(SystemExit) as ended:
        parse()
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert f" MEMC_LOAD_{name}: " in errors


def test_variables_of_the_parallel_loader_do_not_disturb_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    default = parse_options([], "", Options)
    for name in PARALLEL_VARIABLES:
        monkeypatch.setenv(f"MEMC_LOAD_{name}", "nonsense")
    assert parse_options([], "", Options) == default
