"""Verify what was loaded, and read what was found from the log."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.outside.loading import PARALLEL, Finished, Loader, load, run
from tests.outside.logs import write_gz
from tests.outside.memcached import Servers, addresses

COMPILED = tuple("compiled" if part == "python" else part for part in PARALLEL)
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs Numba")
both_engines = pytest.mark.parametrize(
    "loader", [pytest.param(PARALLEL, id="python"), pytest.param(COMPILED, id="compiled", marks=needs_numba)]
)

_FOUND = re.compile(
    r"(?P<name>\w{4}) \S+: (?P<checked>\d+) checked: (?P<present>\d+) present, (?P<superseded>\d+) superseded by later "
    r"ones, (?P<missing>\d+) missing, (?P<different>\d+) different, (?P<unanswered>\d+) unanswered"
    r"(?:, (?P<too_large>\d+) too large)?"
)


@dataclass
class Verdict:
    """What a verification found. `found` is by device type."""

    run: Finished
    found: dict[str, dict[str, int]]

    @property
    def exit_code(self) -> int:
        return self.run.exit_code

    def total(self, what: str) -> int:
        return sum(counts[what] for counts in self.found.values())

    def named(self, kind: str) -> list[str]:
        """Return the keys that are named, with the names of their files."""
        found = [re.fullmatch(rf"{kind}: (\S+) of .*/(\S+)", message) for message in self.run.messages("W")]
        return [f"{match[1]} {match[2]}" for match in found if match]


def verify(loader: Loader, pattern: Path, servers: Servers, *options: str, **other: str) -> Verdict:
    finished = run(loader, pattern, *addresses(servers, **other), "--verify", *options)
    found = {}
    for match in filter(None, map(_FOUND.fullmatch, finished.messages())):
        counts = {what: int(count or 0) for what, count in match.groupdict().items() if what != "name"}
        assert counts.pop("checked") == sum(counts.values())
        found[match["name"]] = {"checked": sum(counts.values()), **counts}
    return Verdict(finished, found)


def delete(servers: Servers, *keys: str) -> None:
    for key in keys:
        with servers[key[:4]].client() as client:
            assert client.delete(key, noreply=False)


def change(servers: Servers, key: str, value: bytes = b"something else") -> None:
    with servers[key[:4]].client() as client:
        client.set(key, value, noreply=False)


def loaded(directory: Path, servers: Servers, content: bytes, name: str = "a.gz", *, rate: str = "0.01") -> None:
    """Load one log; it is done and renamed afterwards, unless more than `rate` of it is rejected."""
    write_gz(directory / name, content)
    assert load(PARALLEL, directory / name, servers, "--max-error-rate", rate).exit_code == 0
