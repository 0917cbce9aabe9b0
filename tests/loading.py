"""Load files with a real loader, read back what is in memcached, and know from the specification what should be.

The oracle (`expected`) shares no code with the loaders: it is the table of the fields once more, in its
own words, with the protobuf library for the values.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote_to_bytes

import pytest

import memc_load
import memc_load_parallel
from appsinstalled_pb2 import UserApps
from memcload.log import LOG
from tools.servers import MemcachedServer

PROJECT = Path(__file__).resolve().parent.parent
PATIENCE = 30.0  # seconds for a loader to end, or to log what is waited for
TYPES = ("idfa", "gaid", "adid", "dvid")

REFERENCE = ("memc_load.py",)
PARALLEL = ("memc_load_parallel.py", "--engine", "python", "--workers", "2", "--block-size", "1000")
FASTEST = ("memc_load_parallel.py",)  # as it comes, with the engine that it finds

both_loaders = pytest.mark.parametrize("loader", [REFERENCE, PARALLEL], ids=["reference", "parallel"])

LOG_LINE = re.compile(r"\[\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d\] ([DIWE]) (.+)")


# --- what should be -----------------------------------------------------------------------------


class Item(NamedTuple):
    """What memcached holds under a key. `expires_in` is in seconds, -1 for never."""

    value: bytes
    flags: int = 0
    expires_in: int = -1


@dataclass
class Expected:
    """What becomes of the lines of some files, loaded one after the other."""

    items: dict[bytes, Item] = field(default_factory=dict)
    stored: Counter[str] = field(default_factory=Counter)
    rejected: list[tuple[int, str, bytes]] = field(default_factory=list)
    partial: int = 0
    blank: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """How many lines were rejected, by reason."""
        return dict(Counter(reason for _, reason, _ in self.rejected))

    @property
    def rejects_file(self) -> bytes:
        """The content of the file of rejected lines."""
        return b"".join(b"%d\t%b\t%b\n" % (number, reason.encode(), line) for number, reason, line in self.rejected)

    def counts(self) -> dict[str, Any]:
        """The counts of a report about these files."""
        records = self.stored.total() + len(self.rejected)
        return {
            "records": records,
            "stored": self.stored.total(),
            "rejected": self.reasons,
            "partial": self.partial,
            "failed": 0,
            "blank": self.blank,
            "error_rate": len(self.rejected) / records if records else 0.0,
        }


def expected(*logs: bytes) -> Expected:
    """Return what becomes of the lines of these files."""
    result = Expected()
    for log in logs:
        lines = log.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for number, line in enumerate(lines, start=1):
            text = line.removesuffix(b"\r")
            if not text.strip():
                result.blank += 1
                continue
            try:
                key, value, is_partial = _record(text)
            except _Rejected as rejected:
                result.rejected.append((number, rejected.args[0], line))
                continue
            result.items[key] = Item(value)
            result.stored[key[:4].decode()] += 1
            result.partial += is_partial
    return result


class _Rejected(Exception):
    pass


def _record(line: bytes) -> tuple[bytes, bytes, bool]:
    """Return the key and the value of a line, and whether some of its app ids are none."""
    if len(line) > 1024 * 1024:
        raise _Rejected("line_too_long")
    columns = line.split(b"\t")
    if len(columns) != 5:
        raise _Rejected("columns")
    dev_type, dev_id, lat, lon, listed = columns
    if dev_type not in (b"idfa", b"gaid", b"adid", b"dvid"):
        raise _Rejected("device_type")
    key = dev_type + b":" + dev_id
    if not dev_id or any(not 0x21 <= byte <= 0x7E for byte in dev_id) or len(key) > 250:
        raise _Rejected("key")
    for coordinate in (lat, lon):
        is_decimal = re.fullmatch(rb"[+-]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", coordinate)
        if not is_decimal or math.isinf(float(coordinate)):
            raise _Rejected("coordinates")
    ids = [text.strip(b" \t\n\r\v\f") for text in listed.split(b",")]
    apps = [int(text) for text in ids if re.fullmatch(rb"[0-9]+", text) and int(text) <= 4294967295]
    if not apps:
        raise _Rejected("apps")
    message = UserApps(apps=apps, lat=float(lat), lon=float(lon))
    return key, message.SerializeToString(), len(apps) < len(ids)


# --- files --------------------------------------------------------------------------------------


def line(
    dev_type: str = "idfa", dev_id: str = "1rfw452y52g2gq4g", lat: str = "55.55", lon: str = "42.42", apps: str = "1423"
) -> bytes:
    """Return one line, with its line feed."""
    return "\t".join((dev_type, dev_id, lat, lon, apps)).encode() + b"\n"


def numbered(count: int, *, types: Sequence[str] = TYPES, prefix: str = "device") -> bytes:
    """Return lines of so many different devices."""
    return b"".join(
        line(types[number % len(types)], f"{prefix}{number}", apps=f"{number},{number * 7}") for number in range(count)
    )


def write_gz(path: Path, content: bytes) -> bytes:
    """Write a log as one gzip member; return its content."""
    path.write_bytes(gzip.compress(content, 1))
    return content


def names(directory: Path) -> list[str]:
    """Return the names in a directory, sorted."""
    return sorted(os.listdir(directory))


def make_old(path: Path) -> None:
    """Let a file look as if nobody had written it for an hour."""
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))


# --- servers ------------------------------------------------------------------------------------

Servers = Mapping[str, MemcachedServer]


def addresses(servers: Servers, **other: str) -> list[str]:
    """Return the options that lead to these servers; `other` are addresses in place of theirs."""
    return [part for name in TYPES for part in (f"--{name}", other.get(name) or servers[name].address)]


def everywhere(address: str) -> list[str]:
    """Return the options that lead all device types to one address."""
    return [part for name in TYPES for part in (f"--{name}", address)]


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """Give an address where nothing listens, and nothing will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[str, socket.socket]]:
    """Give an address where connections are taken and nothing is ever answered, and its listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        yield f"127.0.0.1:{listening.getsockname()[1]}", listening


def contents(servers: Servers) -> dict[bytes, Item]:
    """Return everything that the servers hold; each key has to lie on the server of its device type."""
    items: dict[bytes, Item] = {}
    for name, server in servers.items():
        found = dict(_items(server))
        assert [key for key in found if not key.startswith(name.encode() + b":")] == []
        items.update(found)
    return items


def _items(server: MemcachedServer) -> Iterator[tuple[bytes, Item]]:
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection, connection.makefile("rb") as file:
        keys = _keys(connection, file)
        for start in range(0, len(keys), 200):
            some = keys[start : start + 200]
            connection.sendall(b"".join(b"mg %b k f t v\r\n" % key for key in some))
            for asked in some:  # VA 12 kidfa:1 f0 t-1
                status, length, key, flags, expires_in = file.readline().split()
                assert (status, key) == (b"VA", b"k" + asked)
                value = file.read(int(length) + 2).removesuffix(b"\r\n")
                yield asked, Item(value, int(flags[1:]), int(expires_in[1:]))


def _keys(connection: socket.socket, file: BinaryIO) -> list[bytes]:
    keys = []
    connection.sendall(b"lru_crawler metadump hash\r\n")
    while (answer := file.readline()) != b"END\r\n":  # key=idfa%3A1 exp=-1 la=1506686400 cas=1 …
        if answer.startswith(b"BUSY"):  # now and then memcached does the same for itself
            time.sleep(0.01)
            connection.sendall(b"lru_crawler metadump hash\r\n")
            continue
        assert answer.startswith(b"key="), answer
        keys.append(unquote_to_bytes(answer.split(b" ")[0].removeprefix(b"key=")))
    return keys


# --- runs ---------------------------------------------------------------------------------------


@dataclass
class Finished:
    """A run that has ended. `log` are the lines of its log on standard error."""

    exit_code: int
    log: list[str]
    output: str = ""
    report: dict[str, Any] = field(default_factory=dict)

    def messages(self, levels: str = "IWE") -> list[str]:
        """Return what was logged at these levels, without times and levels."""
        return [found[2] for found in map(LOG_LINE.fullmatch, self.log) if found and found[1] in levels]

    def statuses(self) -> dict[str, str]:
        """Return what became of each file, by its name."""
        return {os.path.basename(file["path"]): file["status"] for file in self.report["files"]}

    def file(self, name: str) -> dict[str, Any]:
        """Return what the report says about a file."""
        (entry,) = (entry for entry in self.report["files"] if os.path.basename(entry["path"]) == name)
        assert isinstance(entry, dict)
        return entry


class Running:
    """A loader that runs as a process of its own. A context manager, which ends it."""

    def __init__(self, loader: Sequence[str], pattern: str | Path, *options: str) -> None:
        command = [sys.executable, "-W", "error::ResourceWarning", *_command(loader), "--pattern", str(pattern)]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT
        )
        self._log: list[str] = []
        self._output = b""
        self._news = threading.Condition()
        self._readers = [threading.Thread(target=self._read_log), threading.Thread(target=self._read_output)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self._collect()

    def _collect(self) -> int:
        exit_code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return exit_code

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            with self._news:
                self._log.append(text.decode().removesuffix("\n"))
                self._news.notify_all()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        self._output = self.process.stdout.read()

    def wait_for(self, pattern: str) -> None:
        """Wait until a line of the log matches."""

        def is_there() -> bool:
            return any(re.search(pattern, text) for text in self._log)

        with self._news:
            assert self._news.wait_for(is_there, PATIENCE), f"{pattern} is not in {self._log}"

    def send(self, number: signal.Signals) -> None:
        """Send the loader a signal."""
        self.process.send_signal(number)

    def send_until_it_ends(self, number: signal.Signals) -> None:
        """Send the loader a signal, again and again."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"{number.name} does not end the loader: {self._log}"
            self.send(number)
            time.sleep(0.05)

    def finish(self) -> Finished:
        """Wait for the end."""
        exit_code = self._collect()
        return Finished(exit_code, self._log, self._output.decode())


def run(loader: Sequence[str], pattern: str | Path, *options: str) -> Finished:
    """Run a loader to its end; all that it says on standard error has to be log."""
    with Running(loader, pattern, *options) as running:
        finished = running.finish()
    assert [text for text in finished.log if not LOG_LINE.fullmatch(text)] == []
    return finished


def load(loader: Sequence[str], pattern: str | Path, servers: Servers, *options: str, **other: str) -> Finished:
    """Load files into these servers and read the report; `other` are addresses in place of the servers'."""
    finished = run(loader, pattern, *addresses(servers, **other), "--report", "-", *options)
    assert finished.output, finished.log
    finished.report = json.loads(finished.output)
    check_sums(finished.report)
    return finished


def load_quickly(loader: Sequence[str], pattern: str | Path, servers: Servers, *options: str, **other: str) -> Finished:
    """Do what `load` does, in this very process: without the time that a new one takes."""
    module = memc_load if loader[0] == "memc_load.py" else memc_load_parallel
    with tempfile.TemporaryDirectory() as scratch:
        return load_here(module, pattern, Path(scratch), *loader[1:], *addresses(servers, **other), *options)


def check_sums(report: Mapping[str, Any]) -> None:
    """Check that the numbers of a report add up."""
    for entry in [*report["files"], report["totals"]]:
        rejected = sum(entry["rejected"].values())
        assert entry["records"] == entry["stored"] + rejected + entry["failed"]
        assert entry["error_rate"] == (rejected / entry["records"] if entry["records"] else 0)
    for count in ("records", "stored", "partial", "failed", "blank"):
        assert report["totals"][count] == sum(entry[count] for entry in report["files"])
    rejected_in_files: Counter[str] = Counter()
    for entry in report["files"]:
        rejected_in_files.update(entry["rejected"])
    assert report["totals"]["rejected"] == dict(rejected_in_files)
    for count in ("stored", "failed"):
        assert report["totals"][count] == sum(device[count] for device in report["devices"].values())


def _command(loader: Sequence[str]) -> Iterable[str]:
    return (str(PROJECT / loader[0]), *loader[1:])


def load_here(module: ModuleType, pattern: str | Path, scratch: Path, *options: str) -> Finished:
    """Load files in this very process, and leave its signals and its logging as they were.

    scratch: a directory for the log and the report
    """
    log, report = scratch / "log", scratch / "report.json"
    for path in (log, report):
        path.unlink(missing_ok=True)
    with _own_process_state():
        arguments = ["--pattern", str(pattern), "--log", str(log), "--report", str(report), *options]
        exit_code = module.main(arguments)
    finished = Finished(exit_code, log.read_text().splitlines())
    if report.exists():
        finished.report = json.loads(report.read_bytes())
        check_sums(finished.report)
    return finished


@contextlib.contextmanager
def _own_process_state() -> Iterator[None]:
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers, level, propagates = LOG.handlers[:], LOG.level, LOG.propagate
    LOG.handlers[:] = []
    try:
        yield
    finally:
        for handler in LOG.handlers:
            handler.close()
        LOG.handlers[:] = handlers
        LOG.setLevel(level)
        LOG.propagate = propagates
        for number, handler_before in signals.items():
            signal.signal(number, handler_before)
