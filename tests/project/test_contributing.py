"""What CONTRIBUTING.md and the other texts say to do can be done."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TEXTS = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]


def test_the_tests_that_it_runs_are_there() -> None:
    commands = [shlex.split(line, comments=True) for line in CONTRIBUTING.splitlines() if " -m pytest tests/" in line]
    assert len(commands) >= 2
    for command in commands:
        text = (PROJECT / command[3]).read_text(encoding="utf-8")
        word = command[command.index("-k") + 1] if "-k" in command else ""
        assert re.search(rf"def test_\w*{word}", text), command


def test_what_is_to_be_changed_is_there() -> None:
    """Also what the table names without its folder: the folder is that of the name before."""
    rows = CONTRIBUTING.partition("| to change |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(rows) > 10
    for row in rows:
        folder = PROJECT
        for name in re.findall(r"`([\w/]+(?:\.(?:py|md)|/))`", row):
            path = PROJECT / name if (PROJECT / name).exists() else folder / name
            assert path.exists(), (name, row)
            folder = path.parent


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_every_target_of_make_is_there(text: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", text.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets
