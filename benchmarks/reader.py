"""What somebody feels who reads from a server while it is loaded: how long a `get` takes."""

from __future__ import annotations

import gzip
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.data import Logs
from benchmarks.farm import Setup
from benchmarks.measure import Laboratory
from benchmarks.plan import Plan, live
from benchmarks.results import Figures

PAUSE = 0.001  # seconds between two reads
RATE = 200_000  # records a second
IDLE, FULL_SPEED, THROTTLED = "nothing is loaded", "a load at full speed", f"a load with --max-rate {RATE}"


def measure(plan: Plan, laboratory: Laboratory) -> dict[str, Figures]:
    """Return how long reads take while nothing is loaded, at full speed, and slowly. Raises BenchmarkError."""
    slowly = live(Logs(plan.throttled), "--max-rate", str(RATE))
    figures: dict[str, Figures] = {}
    with laboratory.farms.running(Setup(), plan.records) as farm:
        laboratory.load(live(plan.log), farm)
        device_type, key = _first_key(laboratory, plan.log)
        address = farm.of_type[device_type][0].address
        with _reading(address, key) as latencies:
            time.sleep(plan.idle)
        figures[IDLE] = _percentiles(latencies)
        for name, subject in ((FULL_SPEED, live(plan.log)), (THROTTLED, slowly)):
            with _reading(address, key) as latencies:
                loaded = laboratory.load(subject, farm)
            figures[name] = _percentiles(latencies) | {"records_per_second": loaded["records_per_second"]}
    return figures


def _first_key(laboratory: Laboratory, logs: Logs) -> tuple[str, bytes]:
    """Return the device type and the key of the first record of a log."""
    with gzip.open(laboratory.logs.paths(logs)[0], "rb") as log:
        device_type, device_id, *_ = log.readline().split(b"\t")
    return device_type.decode(), b"%b:%b" % (device_type, device_id)


@contextmanager
def _reading(address: str, key: bytes) -> Iterator[list[float]]:
    """Read a key over and over during the `with` block; give the list of the seconds that each read took."""
    latencies: list[float] = []
    ended = threading.Event()
    thread = threading.Thread(target=_read, args=(address, key, latencies, ended), daemon=True)
    thread.start()
    try:
        yield latencies
    finally:
        ended.set()
        thread.join()


def _read(address: str, key: bytes, latencies: list[float], ended: threading.Event) -> None:
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not ended.is_set():
            started = time.perf_counter()
            sock.sendall(b"get %b\r\n" % key)
            reply = b""
            while not reply.endswith(b"END\r\n"):
                reply += sock.recv(1 << 16)
            latencies.append(time.perf_counter() - started)
            time.sleep(PAUSE)


def _percentiles(latencies: list[float]) -> Figures:
    p50, p99 = (statistics.quantiles(latencies, n=100)[percent - 1] * 1e6 for percent in (50, 99))
    return {"p50_microseconds": p50, "p99_microseconds": p99, "reads": len(latencies)}
