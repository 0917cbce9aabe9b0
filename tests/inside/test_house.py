"""What keeps the rooms of the program small and apart; pyproject.toml has the contracts about imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
MODULES = sorted([*PROJECT.glob("*.py"), *(PROJECT / "memcload").rglob("*.py")])
COMMANDS = re.compile(
    rb"\b(?:ms|mg|mn|md|ma|me|set|get|gets|add|cas|stats|version|flush_all|verbosity|quit) "
    rb"|\b(?:mn|stats|version|quit)\r\n"
    rb"|\b(?:STORED|NOT_STORED|SERVER_ERROR|CLIENT_ERROR|VALUE|STAT|END|HD|EN|MN|VA)\b"
)


def _constants(module: Path) -> Iterator[bytes]:
    """Yield the byte strings that a module spells."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            yield node.value


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_file_is_read_in_one_sitting(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 350


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_the_protocol_is_spelled_in_one_room_only(module: Path) -> None:
    if module.parent.name != "memcached":
        assert [text for text in _constants(module) if COMMANDS.search(text)] == []


def test_the_room_of_the_protocol_does_spell_it() -> None:
    spelled = [text for module in MODULES if module.parent.name == "memcached" for text in _constants(module)]
    assert any(COMMANDS.search(text) for text in spelled)
