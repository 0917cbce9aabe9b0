"""The parallel loader leaves what the reference leaves, however its work is cut up, and never hangs."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memc_load
import memc_load_parallel
from tests.loading import (
    LOG_LINE,
    PATIENCE,
    PROJECT,
    TYPES,
    Finished,
    Item,
    Servers,
    addresses,
    closed_port,
    contents,
    expected,
    line,
    load_here,
    names,
    numbered,
    write_gz,
)
from tools.make_logs import write_logs


class Outcome(NamedTuple):
    """Everything that a run leaves, but for times."""

    exit_code: int
    files: list[dict[str, Any]]
    devices: dict[str, Any]
    messages: list[str]
    items: dict[bytes, Item]
    directory: dict[str, bytes]


def outcome(finished: Finished, servers: Servers, directory: Path) -> Outcome:
    files = [
        {name: value for name, value in {**entry, "path": Path(entry["path"]).name}.items() if name != "seconds"}
        for entry in finished.report["files"]
    ]
    about_files = ("Processing", f"{directory}/", "…", "Acceptable", "High")
    told = sorted(  # for some of a later file may come before the end of an earlier
        text.replace(str(directory), "")
        for text in finished.messages()
        if text.startswith(about_files) and " records in " not in text
    )
    directory_contents = {name: (directory / name).read_bytes() for name in names(directory)}
    return Outcome(finished.exit_code, files, finished.report["devices"], told, contents(servers), directory_contents)


def load_into_empty(servers: Servers, logs: list[bytes], *options: str, is_parallel: bool, **other: str) -> Outcome:
    """Load these logs, as files of a directory of their own, into servers that hold nothing."""
    for server in servers.values():
        server.flush()
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as scratch:
        for number, log in enumerate(logs):
            (Path(directory) / f"{number:03}.tsv.gz").write_bytes(gzip.compress(log, 1, mtime=0))
        finished = load_here(
            memc_load_parallel if is_parallel else memc_load,
            Path(directory) / "*",
            Path(scratch),
            *addresses(servers, **other),
            *options,
        )
        return outcome(finished, servers, Path(directory))


# --- a fixed matrix -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed_logs(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three logs in which keys come back, and lines are malformed, within and across files."""
    paths = write_logs(tmp_path_factory.mktemp("logs"), files=3, lines=400, seed=11, malformed=0.05, repeat_keys=0.8)
    return [gzip.decompress(path.read_bytes()) for path in paths]


@pytest.fixture(scope="module")
def reference(mixed_logs: list[bytes], running_servers: Servers) -> Outcome:
    """What the reference loader leaves of them."""
    return load_into_empty(running_servers, mixed_logs, is_parallel=False)


def test_the_reference_leaves_what_the_specification_says(reference: Outcome, mixed_logs: list[bytes]) -> None:
    assert reference.items == expected(*mixed_logs).items
    assert [file["rejected"] for file in reference.files] == [expected(log).reasons for log in mixed_logs]


@pytest.mark.parametrize("engine", ["python", "auto"])
@pytest.mark.parametrize(
    ("workers", "block_size", "queue_size"),
    [
        *((workers, 1, 4) for workers in (1, 4)),  # a block for each line: slow
        *((workers, 37, 1) for workers in (1, 2, 8)),
        *((workers, size, queue) for workers in (1, 2, 4, 8) for size, queue in ((1000, 4), (4096, 1), (1 << 20, 4))),
    ],
)
def test_parallel_leaves_what_the_reference_leaves(
    servers: Servers,
    reference: Outcome,
    mixed_logs: list[bytes],
    engine: str,
    workers: int,
    block_size: int,
    queue_size: int,
) -> None:
    options = {"engine": engine, "workers": workers, "block-size": block_size, "queue-size": queue_size}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert load_into_empty(servers, mixed_logs, *words, is_parallel=True) == reference


@pytest.mark.parametrize("down", TYPES)
def test_parallel_leaves_what_the_reference_leaves_while_a_server_is_down(
    servers: Servers, mixed_logs: list[bytes], down: str
) -> None:
    with closed_port() as nowhere:
        options = [f"--{down}", nowhere, "--retries", "0", "--max-error-rate", "1"]
        left = [
            load_into_empty(servers, mixed_logs, *options, *more, is_parallel=is_parallel)
            for is_parallel, more in ((False, []), (True, ["--workers", "4", "--block-size", "1000"]))
        ]
    assert left[0] == left[1]
    assert [file["status"] for file in left[1].files] == ["pending"] * 3


def test_parallel_shows_the_records_of_a_dry_run_in_their_order(tmp_path: Path) -> None:
    write_gz(tmp_path / "a.gz", numbered(500) + b"bad\n" + line(apps="1,x"))
    write_gz(tmp_path / "b.gz", numbered(500, prefix="b"))
    (tmp_path / "scratch").mkdir()
    options = ["--workers", "4", "--block-size", "100"]
    shown = [
        load_here(module, tmp_path / "*.gz", tmp_path / "scratch", "--dry", *more).messages("D")
        for module, more in ((memc_load, []), (memc_load_parallel, options))
    ]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 1001


# --- and whatever else ----------------------------------------------------------------------------

_DECIMALS = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.sampled_from(
    ["55.55", "-0", "1e22", "67.7835424444", "123456789.123456789012345", "nan", "", "1_0", "9e999"]
)
_IDS = st.integers(0, 1 << 33).map(str) | st.sampled_from(["", " 7 ", "x", "0007", "-1"])
_LINES = st.builds(
    lambda columns, ending: "\t".join(columns).encode() + ending,
    st.tuples(
        st.sampled_from(["idfa", "idfa", "gaid", "gaid", "adid", "dvid", "ifda"]),
        st.sampled_from(["1", "2", "3", "3" * 245, "3" * 246, "a b"]),  # few keys: many repeats
        _DECIMALS,
        _DECIMALS,
        st.lists(_IDS, min_size=1, max_size=6).map(",".join),
    ),
    st.sampled_from([b"\n", b"\n", b"\r\n"]),
) | st.sampled_from([b"\n", b" \t\r\n", b"idfa\t1\n", b"\xff\x00\n"])
_LOGS = st.lists(_LINES, max_size=50).map(b"".join) | st.lists(_LINES, max_size=9).map(lambda x: b"".join(x)[:-1])


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    logs=st.lists(_LOGS, min_size=1, max_size=3),
    workers=st.integers(1, 8),
    block_size=st.integers(1, 3000),
    queue_size=st.integers(1, 4),
    engine=st.sampled_from(["python", "auto"]),
)
def test_parallel_leaves_what_the_reference_leaves_of_anything(
    running_servers: Servers, logs: list[bytes], workers: int, block_size: int, queue_size: int, engine: str
) -> None:
    options = {"engine": engine, "workers": workers, "block-size": block_size, "queue-size": queue_size}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # an empty file that is young looks as if it were still being written
    common = ["--settle", "0", "--max-error-rate", "0.5"]
    left = load_into_empty(running_servers, logs, *common, is_parallel=False)
    assert load_into_empty(running_servers, logs, *common, *words, is_parallel=True) == left
    assert left.items == expected(*logs).items


# --- when a worker breaks -------------------------------------------------------------------------

BREAK = """
import sys, threading
import memc_load_parallel as loader

make = loader.choose_encoder

class Broken:
    def __init__(self, encoder, calls):
        self.encoder, self.calls = encoder, calls

    def encode(self, block):
        if {when}:
            raise {error}
        return self.encoder.encode(block)

def broken_encoder(options):
    new, calls = make(options), []
    def make_one():
        if {error_at_start}:
            raise {error}
        return Broken(new(), calls)
    return make_one

loader.choose_encoder = broken_encoder
sys.exit(loader.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("workers", ["1", "4"])
@pytest.mark.parametrize(
    ("when", "error_at_start"),
    [("True", "False"), ("self.calls.append(0) or len(self.calls) > 20", "False"), ("False", "True")],
    ids=["first-block", "later-block", "start"],
)
@pytest.mark.parametrize("error", ["ZeroDivisionError('broken')", "MemoryError('broken')"])
def test_a_worker_that_breaks_ends_the_run_with_an_error(
    tmp_path: Path, servers: Servers, workers: str, when: str, error_at_start: str, error: str
) -> None:
    for name in ("a.gz", "b.gz"):
        write_gz(tmp_path / name, numbered(2000))
    program = BREAK.format(when=when, error_at_start=error_at_start, error=error)
    options = ["--pattern", str(tmp_path / "*"), *addresses(servers), "--workers", workers, "--block-size", "1000"]
    finished = subprocess.run(
        [sys.executable, "-c", program, *options, "--engine", "python"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = finished.stderr.splitlines()
    assert finished.returncode == 1
    assert [text for text in lines if not LOG_LINE.fullmatch(text)] == []
    assert [text for text in lines if "] E " in text and "broken" in text] != []
    assert names(tmp_path) == ["a.gz", "b.gz"]  # neither was loaded to its end
