"""Which tests are kept when the inside of the program is rebuilt: those in `tests/outside`, which know nothing of it.

`tests/outside` runs the programs and looks at files, servers, exit codes, reports and logs. `tests/inside` tests
the parts, and may go with them. `tests/project` tests what is around the program.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
OUTSIDE = [*(TESTS / "outside").glob("*.py"), TESTS / "conftest.py", TESTS / "torture.py"]
ALLOWED = {"appsinstalled_pb2", "backports", "compression", "hypothesis", "prometheus_client", "pymemcache", "pytest"}
ALLOWED |= {"distributed", "s3fs"}  # what a cluster and a store are for those who have them
ALLOWED_TOOLS = {"tools.make_logs", "tools.servers"}


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, at whatever place."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add(node.module or "")
    return modules


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.name)
def test_what_looks_from_outside_imports_nothing_of_the_inside(path: Path) -> None:
    own = {module for module in imported(path) if module.startswith("tests.outside.")} | ALLOWED_TOOLS
    foreign = {module for module in imported(path) - own if module.partition(".")[0] not in sys.stdlib_module_names}
    assert {module for module in foreign if module.partition(".")[0] not in ALLOWED} == set()


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.name)
def test_nothing_of_the_inside_is_reached_by_its_name(path: Path) -> None:
    texts = [node.value for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Constant)]
    inside = re.compile(r"\bmemcload\.[a-z]|\b(import|from) memc|\bmemc_client\.[A-Z]")
    assert [text for text in texts if isinstance(text, str) and inside.search(text)] == []


def test_every_test_is_in_one_of_the_three_folders() -> None:
    assert {path.name for path in TESTS.rglob("test_*.py") if path.parent.parent != TESTS} == set()
    assert {path.parent.name for path in TESTS.rglob("test_*.py")} == {"inside", "outside", "project"}
