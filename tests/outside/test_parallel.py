"""The parallel loader leaves what the reference leaves, however its work is cut up."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.outside.loading import (
    DEFAULT,
    PARALLEL,
    REFERENCE,
    SMALL_BLOCKS,
    Finished,
    Loader,
    load,
    run,
)
from tests.outside.logs import line, names, numbered, write_gz
from tests.outside.memcached import Servers, closed_port, contents, make_ready
from tests.outside.spec import TYPES, Item, expected
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
        {
            name: value
            for name, value in {**entry, "path": Path(entry["path"]).name}.items()
            if name not in ("seconds", "renamed_to")
        }
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


def load_into_empty(loader: Loader, logs: list[bytes], servers: Servers, *options: str, **other: str) -> Outcome:
    """Load these logs, as files of a directory of their own, into servers that hold nothing."""
    for server in servers.values():
        server.flush()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for number, log in enumerate(logs):
            (directory / f"{number:03}.tsv.gz").write_bytes(gzip.compress(log, 1, mtime=0))
        return outcome(load(loader, directory / "*", servers, *options, **other), servers, directory)


# --- a fixed matrix -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed_logs(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three logs in which keys come back, and lines are malformed, within and across files."""
    paths = write_logs(tmp_path_factory.mktemp("logs"), files=3, lines=400, seed=11, malformed=0.05, repeat_keys=0.8)
    return [gzip.decompress(path.read_bytes()) for path in paths]


@pytest.fixture(scope="module")
def reference(mixed_logs: list[bytes], running_servers: Servers) -> Outcome:
    """What the reference loader leaves of them."""
    make_ready(running_servers)
    return load_into_empty(REFERENCE, mixed_logs, running_servers)


def test_the_reference_leaves_what_the_specification_says(reference: Outcome, mixed_logs: list[bytes]) -> None:
    assert reference.items == expected(*mixed_logs).items
    assert [file["rejected"] for file in reference.files] == [expected(log).reasons for log in mixed_logs]


@pytest.mark.parametrize("engine", ["python", "auto"])
@pytest.mark.parametrize(
    ("workers", "block_size", "queue_size"),
    [
        (1, 1, 4),  # a block for each line: slow
        (4, 1, 4),
        (2, 37, 1),
        (8, 37, 1),
        (1, 1000, 4),
        (4, 1000, 1),
        (8, 4096, 1),
        (2, 1 << 20, 4),
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
    assert load_into_empty(DEFAULT, mixed_logs, servers, *words) == reference


@pytest.mark.parametrize("down", TYPES)
def test_parallel_leaves_what_the_reference_leaves_while_a_server_is_down(
    servers: Servers, mixed_logs: list[bytes], down: str
) -> None:
    with closed_port() as nowhere:
        options = ["--retries", "0", "--max-error-rate", "1"]
        reference, *others = (
            load_into_empty(loader, mixed_logs, servers, *options, **{down: nowhere})
            for loader in (REFERENCE, PARALLEL, (*SMALL_BLOCKS, "--workers", "4"))
        )
    assert others == [reference, reference]
    assert [file["status"] for file in reference.files] == ["pending"] * 3


def test_parallel_shows_the_records_of_a_dry_run_in_their_order(tmp_path: Path) -> None:
    write_gz(tmp_path / "a.gz", numbered(500) + b"bad\n" + line(apps="1,x"))
    write_gz(tmp_path / "b.gz", numbered(500, prefix="b"))
    many_blocks = (*DEFAULT, "--workers", "4", "--block-size", "100")
    reference, parallel = (run(loader, tmp_path / "*.gz", "--dry").messages("D") for loader in (REFERENCE, many_blocks))
    assert parallel == reference
    assert len(reference) == 1001


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


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
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
    left = load_into_empty(REFERENCE, logs, running_servers, *common)
    assert load_into_empty(DEFAULT, logs, running_servers, *common, *words) == left
    assert left.items == expected(*logs).items
