"""Metrics of a run as a text file for node_exporter's textfile collector.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from memcload.outcome import STATUSES
from memcload.output.destination import read_file, write_file
from memcload.output.results import Results, server_figures
from memcload.records import DEVICE_TYPES, REASONS

_LAST_SUCCESS = "memc_load_last_success_timestamp_seconds"
_LAST_FILE = "memc_load_last_loaded_file_timestamp_seconds"
_LARGEST_FILE = 1 << 20  # bytes; metrics of ours are much smaller
_SERVER_METRICS = {
    "stored": ("stored_records", "Records stored."),
    "failed": ("failed_records", "Records that failed."),
    "retries": ("retries", "Requests tried again."),
    "evictions": ("evictions", "Items evicted."),
    "restarts": ("restarts", "Restarts noticed."),
    "detects_restarts": ("detects_restarts", "1 where a restart would be noticed, else 0."),
}


def write_metrics(results: Results, path: str) -> None:
    """Write the metrics of a run. Raises OSError.

    They are gauges about the last run: every run is a process of its own. Times of earlier runs that still count are
    taken over from the file that is replaced; a pipe or a device is never read.
    """
    write_collected(lambda earlier, now: _RunCollector(results, earlier, now), path)


def write_collected(new_collector: Callable[[bytes, float], Collector], path: str) -> None:
    """Write what a collector yields that is made of the earlier metrics and the time now. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(new_collector(read_file(path, _LARGEST_FILE), time.time()))
    write_file(path, generate_latest(registry).decode())


class _RunCollector(Collector):
    """Yields the metrics of a run.

    Not the gauges that prometheus_client has for a program that runs: with PROMETHEUS_MULTIPROC_DIR these are files.
    """

    def __init__(self, results: Results, earlier: bytes, now: float) -> None:
        self._results = results
        self._earlier = earlier
        self._now = now

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: no other collector shares the registry."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics."""
        results, totals = self._results, self._results.totals
        yield gauge("memc_load_last_run_timestamp_seconds", "When the last run ended.", self._now)
        success, loaded = self._success(), self._last_file()
        if success is not None:
            yield gauge(_LAST_SUCCESS, "When the last run with exit code 0 ended that was not dry.", success)
        yield gauge(_LAST_FILE, "When the last file was loaded; 0 if none ever was.", loaded or 0)
        yield gauge("memc_load_exit_code", "Exit code of the last run.", results.exit_code)
        yield gauge("memc_load_duration_seconds", "How long the last run took.", results.seconds)

        by_status = Counter(file.status for file in results.files)
        files = GaugeMetricFamily("memc_load_files", "Files of the last run.", labels=["status"])
        for status in STATUSES:
            files.add_metric([status], by_status[status])
        yield files
        records = GaugeMetricFamily("memc_load_records", "Records of the last run.", labels=["outcome", "reason"])
        records.add_metric(["stored", ""], totals.total_stored)
        records.add_metric(["failed", ""], totals.total_failed)
        for reason in REASONS:
            records.add_metric(["rejected", reason], totals.rejected[reason])
        yield records
        yield gauge("memc_load_partial_records", "Records of the last run that lost some app ids.", totals.partial)
        yield from self._servers()

    def _servers(self) -> Iterator[GaugeMetricFamily]:
        figures = [(name, server) for name in DEVICE_TYPES for server in server_figures(self._results, name)]
        for key, (name, text) in _SERVER_METRICS.items():
            family = GaugeMetricFamily(f"memc_load_server_{name}", text, labels=["device_type", "server"])
            for device_type, server in figures:
                family.add_metric([device_type, server["address"]], server[key])
            yield family

    def _success(self) -> float | None:
        is_success = self._results.exit_code == 0 and not self._results.dry
        return self._now if is_success else earlier_value(self._earlier, _LAST_SUCCESS)

    def _last_file(self) -> float | None:
        ended = [file.started + file.seconds for file in self._results.files if file.status == "done"]
        return self._now - (time.monotonic() - max(ended)) if ended else earlier_value(self._earlier, _LAST_FILE)


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """Return a metric without labels."""
    return GaugeMetricFamily(name, text, value=value)


def earlier_value(metrics: bytes, name: str) -> float | None:
    """Return the value of a metric without labels in the text of earlier metrics."""
    found = re.search(rb"^%b ([0-9.e+]+)$" % name.encode(), metrics, re.MULTILINE)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None
