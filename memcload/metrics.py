"""Metrics of a run as a text file for node_exporter's textfile collector.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from memcload.inbox import written_whole
from memcload.ledger import STATUSES, Ledger
from memcload.records import DEVICE_TYPES, REASONS
from memcload.servers import Servers

_LAST_SUCCESS = "memc_load_last_success_timestamp_seconds"


def write_metrics(path: str, ledger: Ledger, servers: Servers, *, exit_code: int, seconds: float) -> None:
    """Write the metrics of a run. Raises OSError.

    They are gauges about the last run: every run is a process of its own. The time of the last success is
    taken over from the file that is replaced, when this run was none.
    """
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(name, text, registry=registry).set(value)

    now = time.time()
    gauge("memc_load_last_run_timestamp_seconds", "When the last run ended.", now)
    by_status = ledger.files_by_status()
    is_success = exit_code == 0 and not by_status["dry"]
    success = now if is_success else _last_success(path)
    if success is not None:
        gauge(_LAST_SUCCESS, "When the last run with exit code 0 ended that was not dry.", success)
    gauge("memc_load_exit_code", "Exit code of the last run.", exit_code)
    gauge("memc_load_duration_seconds", "How long the last run took.", seconds)

    totals = ledger.totals()
    files = Gauge("memc_load_files", "Files of the last run.", ["status"], registry=registry)
    for status in STATUSES:
        files.labels(status).set(by_status[status])
    records = Gauge("memc_load_records", "Records of the last run.", ["outcome", "reason"], registry=registry)
    records.labels("stored", "").set(totals.stored.total())
    records.labels("failed", "").set(totals.failed.total())
    for reason in REASONS:
        records.labels("rejected", reason).set(totals.rejected[reason])
    gauge("memc_load_partial_records", "Records of the last run that lost some app ids.", totals.partial)

    stored = Gauge("memc_load_server_stored_records", "Records stored.", ["device_type"], registry=registry)
    failed = Gauge("memc_load_server_failed_records", "Records that failed.", ["device_type"], registry=registry)
    counters = {
        "retries": Gauge("memc_load_server_retries", "Requests tried again.", ["device_type"], registry=registry),
        "evictions": Gauge("memc_load_server_evictions", "Items evicted.", ["device_type"], registry=registry),
        "restarts": Gauge("memc_load_server_restarts", "Restarts noticed.", ["device_type"], registry=registry),
    }
    for name in DEVICE_TYPES:
        stored.labels(name).set(totals.stored[name])
        failed.labels(name).set(totals.failed[name])
        for counter, count in servers.counters(name).items():
            counters[counter].labels(name).set(count)

    with written_whole(path) as file:
        file.write(generate_latest(registry))


def _last_success(path: str) -> float | None:
    """Return the time of the last success that an older metrics file tells, if it does."""
    try:
        with open(path, encoding="utf-8") as file:
            for family in text_string_to_metric_families(file.read()):
                if family.name == _LAST_SUCCESS:
                    return float(family.samples[0].value)
    except (OSError, ValueError, IndexError):
        pass
    return None
