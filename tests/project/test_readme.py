"""The README says what the programs do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import memc_load
import memc_load_parallel
from memcload.options import ParallelOptions, parse_options

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
OPTIONS_TABLE = README.partition("### Options")[2].partition("¹ of")[0]
ROWS = re.findall(r"^\| (`-[^|]*) \| ([^|]*) \| ?([^|]*?) ?\|$", OPTIONS_TABLE, re.MULTILINE)


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def help_of(loader: object, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        loader.main(["--help"])  # type: ignore[attr-defined]
    return capsys.readouterr().out


def test_the_table_has_every_option_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    usage = help_of(memc_load_parallel, capsys).partition("\n\n")[0]
    named = {name for names, _, _ in ROWS for name in options_in(names)}
    assert {name for name in named if name.startswith("--")} == {
        *(name for name in options_in(usage) if name.startswith("--")),
        "--help",
        "--log",
        "--test",
    }


def test_the_table_says_which_options_the_reference_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    reference = options_in(help_of(memc_load, capsys))
    lacking = {name for name in options_in(help_of(memc_load_parallel, capsys)) if name not in reference}
    assert {name for names, _, _ in ROWS if "¹" in names for name in options_in(names)} == lacking


def test_the_defaults_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MEMC_LOAD_PROGRESS", "MEMC_LOAD_WORKERS"):
        monkeypatch.delenv(variable, raising=False)
    options = parse_options([], "", ParallelOptions)
    checked = 0
    for names, _, default in ROWS:
        field = names.split("`")[1].split()[0].removeprefix("--").replace("-", "_")
        if re.fullmatch(r"`[\w./*:,-]+`", default) and hasattr(options, field):
            value = getattr(options, field)
            told = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
            assert default.strip("`") == str(told), names
            checked += 1
    assert checked >= 10


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_what_is_linked_is_there(path: str) -> None:
    assert (PROJECT / path).exists()


def test_every_module_has_its_place_in_the_table() -> None:
    told = README.partition("| where | what |")[2].partition("\n\n")[0]
    for module in (PROJECT / "memcload").glob("[a-z]*.py"):
        assert f"{module.name}`" in told, module.name
