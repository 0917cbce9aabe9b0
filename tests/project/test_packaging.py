"""What the files around the code say about it is true."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
RUNNING = [*PROJECT.glob("memc*.py"), *PROJECT.glob("memcload/**/*.py"), PROJECT / "appsinstalled_pb2.py"]
DEVELOPING = [path for folder in ("tests", "tools", "benchmarks") for path in PROJECT.glob(f"{folder}/**/*.py")]
REQUIREMENTS = sorted(path.name for path in PROJECT.glob("requirements*.txt"))
FROM_3_14 = {"compression"}  # in the standard library
OWN = FROM_3_14 | {path.stem for path in PROJECT.glob("*.py")} | {"benchmarks", "memcload", "tests", "tools"}


def required(*names: str) -> set[str]:
    """Return the distributions that requirement files name, in lower case with hyphens."""
    lines = "\n".join((PROJECT / name).read_text() for name in names)
    return {
        re.sub(r"[-_.]+", "-", found).lower() for found in re.findall(r"^([\w.-]+)(?:\[\w+\])?==", lines, re.MULTILINE)
    }


@functools.cache
def installed() -> Mapping[str, list[str]]:
    """Return the distributions that have each package."""
    return packages_distributions()


def imported(path: Path) -> set[str]:
    """Return the distributions that a file imports from, as `required` names them."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module or "")
    foreign = {module.partition(".")[0] for module in modules} - OWN - sys.stdlib_module_names
    # "google" and "backports" are shared by several distributions; the ones here are of the same name.
    shared = {"google": ["protobuf"], "backports": ["backports.zstd"]}
    distributions = {**installed(), **shared}
    return {re.sub(r"[-_.]+", "-", name).lower() for module in foreign for name in distributions.get(module, [module])}


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: str(path.relative_to(PROJECT)))
def test_what_the_loaders_import_is_required(path: Path) -> None:
    heavy = ["requirements-s3.txt"] if path.name in ("store.py", "s3.py") else []
    heavy += ["requirements-cluster.txt"] if "cluster" in path.parts else []
    assert imported(path) <= required("requirements.txt", *heavy)


@pytest.mark.parametrize("path", DEVELOPING, ids=lambda path: str(path.relative_to(PROJECT)))
def test_what_the_tests_and_tools_import_is_required(path: Path) -> None:
    assert imported(path) <= required(*REQUIREMENTS)


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_is_pinned(name: str) -> None:
    lines = [line for line in (PROJECT / name).read_text().splitlines() if line and line[0] not in "#-"]
    assert [line for line in lines if "==" not in line.partition(";")[0]] == []


def test_docker_compose_has_a_server_at_the_default_port_of_each_device_type() -> None:
    compose = (PROJECT / "docker-compose.yml").read_text()
    services = re.findall(r'^  memc-(\w+):\n.*\n +ports: \["127\.0\.0\.1:(\d+):11211"\]$', compose, re.MULTILINE)
    assert services == [("idfa", "33013"), ("gaid", "33014"), ("adid", "33015"), ("dvid", "33016")]
