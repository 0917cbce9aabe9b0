"""What a run leaves behind for machines: the JSON report."""

from __future__ import annotations

import json
import sys
from typing import Any

from memcload.inbox import written_whole
from memcload.ledger import FileLoad, Ledger
from memcload.servers import Servers
from memcload.tally import Tally


def build_report(ledger: Ledger, servers: Servers, *, exit_code: int, dry: bool, seconds: float) -> dict[str, Any]:
    """Return the report as JSON-ready data: see "The report" in the README."""
    totals = ledger.totals()
    return {
        "exit_code": exit_code,
        "dry": dry,
        "seconds": round(seconds, 3),
        "totals": _counts(totals),
        "files": [_file(file) for file in ledger.files],
        "devices": device_accounts(totals, servers),
    }


def device_accounts(totals: Tally, servers: Servers) -> dict[str, dict[str, Any]]:
    """Return, by device type, the address of its server, what became of its records, and what its client counted."""
    return {
        name: {
            "address": address,
            "stored": totals.stored[name],
            "failed": totals.failed[name],
            **servers.counters(name),
        }
        for name, address in servers.addresses.items()
    }


def write_report(report: dict[str, Any], path: str) -> None:
    """Write the report to a file, or to standard output where the path is `-`. Raises OSError."""
    text = json.dumps(report, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with written_whole(path) as file:
        file.write(text.encode("ascii"))


def _file(file: FileLoad) -> dict[str, Any]:
    return {
        "path": file.path,
        "status": file.status,
        **_counts(file.tally),
        "seconds": round(file.seconds, 3),
    }


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "records": tally.records,
        "stored": tally.stored.total(),
        "rejected": dict(tally.rejected),
        "partial": tally.partial,
        "failed": tally.failed.total(),
        "blank": tally.blank,
        "error_rate": tally.error_rate,
    }
