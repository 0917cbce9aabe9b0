"""What a run leaves behind for machines: the JSON report."""

from __future__ import annotations

import json
from typing import Any

from memcload.counts import Counts
from memcload.file_load import FileLoad
from memcload.output.destination import write_file, write_standard_output
from memcload.output.results import Results, server_figures
from memcload.records import DEVICE_TYPES

_SUMMED = ("stored", "failed", "retries", "evictions", "restarts")


def write_report(results: Results, path: str) -> None:
    """Write the report to a file, or to standard output where the path is `-`. Raises OSError."""
    text = json.dumps(build_report(results), indent=2) + "\n"
    if path == "-":
        write_standard_output(text)
    else:
        write_file(path, text)


def build_report(results: Results) -> dict[str, Any]:
    """Return the report as JSON-ready data."""
    return {
        "exit_code": results.exit_code,
        "dry": results.dry,
        "seconds": round(results.seconds, 3),
        "totals": _counts(results.totals),
        "files": [_file(file) for file in results.files],
        "devices": {device_type: _device(results, device_type) for device_type in DEVICE_TYPES},
    }


def _device(results: Results, device_type: str) -> dict[str, Any]:
    servers = server_figures(results, device_type)
    return {
        "address": ",".join(server["address"] for server in servers),
        **{figure: sum(server[figure] for server in servers) for figure in _SUMMED},
        "servers": servers,
    }


def _file(file: FileLoad) -> dict[str, Any]:
    return {
        "path": file.path,
        "status": file.status,
        "renamed_to": file.renamed_to,
        "reason": file.verdict.reason or None,
        "detail": file.verdict.detail or None,
        **_counts(file.counts),
        "seconds": round(file.seconds, 3),
    }


def _counts(counts: Counts) -> dict[str, Any]:
    return {
        "records": counts.records,
        "stored": counts.total_stored,
        "rejected": dict(counts.rejected),
        "partial": counts.partial,
        "failed": counts.total_failed,
        "blank": counts.blank,
        "error_rate": counts.error_rate,
    }
