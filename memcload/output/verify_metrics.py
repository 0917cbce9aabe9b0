"""Metrics of a verification, for node_exporter's textfile collector as those of a load, under names of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from memcload.output.metrics import earlier_value, gauge, write_collected
from memcload.output.verification import FILE_STATUSES, OUTCOMES, Verification

_PREFIX = "memc_load_verify_"
_LAST_SUCCESS = f"{_PREFIX}last_success_timestamp_seconds"


def write_verification_metrics(verification: Verification, path: str) -> None:
    """Write the metrics of a verification; the time of the last success stays over one that failed. Raises OSError."""
    write_collected(lambda earlier, now: _VerificationCollector(verification, earlier, now), path)


class _VerificationCollector(Collector):
    """Yields the metrics of a verification."""

    def __init__(self, verification: Verification, earlier: bytes, now: float) -> None:
        self._verification = verification
        self._earlier = earlier
        self._now = now

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: no other collector shares the registry."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics."""
        verification = self._verification
        yield gauge(f"{_PREFIX}last_run_timestamp_seconds", "When the last verification ended.", self._now)
        success = earlier_value(self._earlier, _LAST_SUCCESS) if verification.exit_code else self._now
        if success is not None:
            yield gauge(_LAST_SUCCESS, "When the last verification with exit code 0 ended.", success)
        yield gauge(f"{_PREFIX}exit_code", "Exit code of the last verification.", verification.exit_code)
        yield gauge(f"{_PREFIX}duration_seconds", "How long the last verification took.", verification.seconds)

        by_status = Counter(file.status for file in verification.files)
        files = GaugeMetricFamily(f"{_PREFIX}files", "Files of the last verification.", labels=["status"])
        for status in FILE_STATUSES:
            files.add_metric([status], by_status[status])
        yield files
        labels = ["device_type", "server", "outcome"]
        records = GaugeMetricFamily(f"{_PREFIX}records", "Records that were looked up.", labels=labels)
        for partition, found in zip(verification.partitions, verification.found, strict=False):
            for outcome in OUTCOMES:
                records.add_metric([partition.device_type, partition.server, outcome], getattr(found, outcome))
        yield records
