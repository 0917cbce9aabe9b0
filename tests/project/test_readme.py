"""The README shows what the programs really do, and its links lead somewhere."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import memc_load_parallel
from memcload import session
from memcload.memcached.routing_rules import ROUTING_NAMES
from memcload.records import parse_appsinstalled, serialize
from tools.servers import MemcachedServer

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TEXTS = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]
MOST_WORDS = 1800

# What each row of the README's table of figures is called in docs/benchmark.json.
FIGURES = {  # label → the benchmark's name for it, and how many files
    "`memc-load`, one log": ("live", 1),
    "what people write instead: a process a core, `set_multi` of 50": ("a process a core, set_multi", 10),
    "`memc-load --engine python`: nothing compiled": ("live --engine python", 1),
    "`memc-load-reference`: one line, one `set`, one reply": ("memc_load.py", 1),
    "what such scripts often do: a new connection for every record": ("the original script's way", 1),
    "for comparison: decompressing the log, and nothing else": ("decompression alone", 1),
}


def block_with(text: str) -> str:
    """Return the one code block of the README that has this text in it."""
    found: list[str] = [block for block in BLOCKS if text in block]
    assert len(found) == 1
    return found[0]


def line_shown() -> str:
    """Return the line of the README that a value is made of."""
    return block_with("1241,3637")


def load(pattern: Path, servers: Mapping[str, MemcachedServer], **environment: str) -> str:
    """Load files as a user does, and return what is written to the console."""
    addresses = [word for name, server in servers.items() for word in (f"--{name}", server.address)]
    command = [
        sys.executable,
        str(PROJECT / "memc_load_parallel.py"),
        "--pattern",
        str(pattern),
        "--progress",
        *addresses,
    ]
    finished = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=True)
    return finished.stderr


def anchors_of(path: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a text."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_it_is_short() -> None:
    assert len(README.split()) < MOST_WORDS


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_what_is_linked_is_there(text: Path) -> None:
    for link in re.findall(r"\]\(([^):]+)\)", text.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = text.parent / name if name else text
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_what_is_named_is_there(text: Path) -> None:
    """Files of the project, but for a text about what they once were."""
    if text.name != "CHANGELOG.md":
        for name in re.findall(
            r"`((?:benchmarks|deploy|docs|memcload|tests|tools)/[\w./-]*)`", text.read_text("utf-8")
        ):
            assert (PROJECT / name).exists(), name


def test_the_line_has_the_key_and_the_value_that_are_shown() -> None:
    record = parse_appsinstalled(line_shown().removesuffix("\n").encode())
    assert f"The key is `{record.key.decode()}`" in README
    assert serialize(record) == bytes.fromhex(block_with("08 d9 09"))


def test_the_line_is_in_the_samples_and_no_later_one_has_its_key() -> None:
    lines = b"".join(gzip.decompress(path.read_bytes()) for path in sorted(PROJECT.glob("data/sample/*.gz")))
    key = "\t".join(line_shown().split("\t")[:2])
    assert [line for line in lines.decode("ascii", "replace").splitlines(keepends=True) if line.startswith(key)] == [
        line_shown()
    ]


def test_the_value_is_read_back_as_shown(servers: dict[str, MemcachedServer], tmp_path: Path) -> None:
    log = tmp_path / "log.tsv.gz"
    log.write_bytes(gzip.compress(line_shown().encode()))
    load(log, servers)
    program = block_with("import Client").replace("127.0.0.1:33013", servers["idfa"].address)
    read = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert read.stdout.strip() == block_with("apps: 1241").strip()


def test_the_load_of_the_samples_ends_as_shown(servers: dict[str, MemcachedServer], tmp_path: Path) -> None:
    for sample in PROJECT.glob("data/sample/*.gz"):
        shutil.copy(sample, tmp_path)
        os.utime(tmp_path / sample.name, (0, 0))
    shown = load(tmp_path / "*.tsv.gz", servers, COLUMNS="80")

    def words_of(summary: str) -> list[list[str]]:
        """Return the words of a summary's lines, but for times and addresses."""
        lines = summary.replace("127.0.0.1:", "").splitlines()
        rows = [re.sub(r"\b\d{5}\b", "PORT", line).split() for line in lines]
        return [row for row in rows if row and row[0] not in ("duration", "rate")]

    wanted = words_of(block_with("device type"))
    assert [row for row in words_of(shown) if row in wanted] == wanted

    listing, rejects = re.split(r"^\$ .*\n", block_with("ls -A"), flags=re.MULTILINE)[1:]
    assert listing.split() == sorted(path.name for path in tmp_path.iterdir())[:2]
    assert rejects == (tmp_path / listing.split()[1]).read_text().splitlines(keepends=True)[0]


def test_the_commands_have_these_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        memc_load_parallel.main(["--help"])
    known = set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out)) | {"--no-progress", "--help"}
    commands = [line for block in BLOCKS for line in block.splitlines() if "memc-load " in line]
    used = {option for command in commands for option in re.findall(r"(?<![\w-])--[a-z-]+", command)}
    assert len(used) > 10
    assert used <= known


def test_the_exit_codes() -> None:
    rows = README.partition("| exit code |")[2].partition("\n\n")[0]
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", rows, re.MULTILINE) for code in row.split(",")}
    assert codes == {session.EXIT_OK, session.EXIT_FAILED, session.EXIT_USAGE, session.EXIT_HELD, 130, 143}


def test_every_routing_has_its_readers() -> None:
    rows = README.partition("| who reads, and how |")[2].partition("\n\n")[0]
    assert set(re.findall(r"\| `([\w-]+)` \|$", rows, re.MULTILINE)) == set(ROUTING_NAMES)


def test_the_figures_are_those_of_the_benchmark() -> None:
    table = README.partition("<!-- figures")[2].partition("<!-- /figures -->")[0]
    rows = re.findall(r"^\| (\S.*?) \| ([\d,]+) \| ([\d,]+) \|$", table, re.MULTILINE)
    assert [label for label, _, _ in rows] == list(FIGURES)
    subjects = json.loads((PROJECT / "docs" / "benchmark.json").read_text())["subjects"]
    for label, records, shown in rows:
        measured = [
            subject["whole_records_per_second"]["median"]
            for subject in subjects
            if (subject["name"], subject["files"]) == FIGURES[label]
            and subject["records"] == int(records.replace(",", ""))
        ]
        assert [f"{int(float(f'{rate:.1e}')):,}" for rate in measured] == [shown], label
