"""Whatever a load is doing, a signal ends it in good order within its timeout and two seconds."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, PARALLEL, REFERENCE, Loader, Running, with_report
from tests.outside.logs import line, names, numbered, write_gz, write_repeated
from tests.outside.memcached import Servers, addresses, closed_port
from tests.outside.zstandard import zstd

TIMEOUT = 1.0
BOUND = TIMEOUT + 2 + 3  # and three more for a busy machine
Options = AbstractContextManager[list[str]]


@contextmanager
def retrying(servers: Servers) -> Iterator[list[str]]:
    with closed_port() as nowhere:
        yield [*addresses(servers, idfa=nowhere), "--retries", "100"]


@contextmanager
def frozen(servers: Servers) -> Iterator[list[str]]:
    servers["idfa"].freeze()
    yield [*addresses(servers), "--retries", "100"]


@contextmanager
def connecting(servers: Servers) -> Iterator[list[str]]:
    """A server whose queue of connections is full, so that none comes about."""
    with socket.socket() as listening, contextlib.ExitStack() as held:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        yield [*addresses(servers, idfa=address), "--connect-timeout", "100"]


@contextmanager
def throttled(servers: Servers) -> Iterator[list[str]]:
    yield [*addresses(servers), "--max-rate", "1"]


@pytest.mark.parametrize("doing", [retrying, frozen, connecting, throttled])
@pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])
def test_a_signal_ends_a_load_in_time(
    tmp_path: Path, servers: Servers, loader: Loader, doing: Callable[[Servers], Options]
) -> None:
    for name in "abc":
        write_gz(tmp_path / f"{name}.gz", numbered(4000))
    with (
        doing(servers) as options,
        Running(loader, tmp_path / "*.gz", *options, "--timeout", f"{TIMEOUT:g}", "--report", "-") as running,
    ):
        running.wait_for("Processing")
        time.sleep(0.7)
        running.send(signal.SIGTERM)
        running.process.wait(BOUND)
        finished = with_report(running.finish())
    assert finished.exit_code == 143
    assert {finished.file(f"{name}.gz")["reason"] for name in "abc"} == {"stopped"}
    assert names(tmp_path) == ["a.gz", "b.gz", "c.gz"]


@pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])
def test_a_signal_ends_the_load_of_a_bomb_in_time(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    frame = zstd.compress(b"x" * (1 << 24))
    (tmp_path / "a.zst").write_bytes(frame * 3000)  # 48 GiB, and all of it one line
    with Running(loader, tmp_path / "*", *addresses(servers), "--timeout", f"{TIMEOUT:g}") as running:
        running.wait_for("Processing")
        time.sleep(0.7)
        running.send(signal.SIGTERM)
        running.process.wait(BOUND)
        assert running.finish().exit_code == 143
    assert names(tmp_path) == ["a.zst"]


@pytest.mark.parametrize("text", [b"x\n", b"\n", line(apps="x,1"), b"idfa\tx\t0\t0\t1\n"])
@pytest.mark.parametrize("loader", [PARALLEL[:3], DEFAULT], ids=["python", "default"])
def test_a_signal_ends_the_load_of_short_lines_in_time(
    tmp_path: Path, servers: Servers, loader: Loader, text: bytes
) -> None:
    write_repeated(tmp_path / "a.gz", text * ((1 << 22) // len(text)), times=1000)  # 4 GiB
    with Running(loader, tmp_path / "*", *addresses(servers), "--timeout", f"{TIMEOUT:g}") as running:
        running.wait_for("Processing")
        time.sleep(1.5)
        running.send(signal.SIGTERM)
        running.process.wait(BOUND)
        assert running.finish().exit_code == 143
    assert names(tmp_path) == ["a.gz"]
