"""The summary of a run for people: what became of the files and records, and what to do next."""

from __future__ import annotations

import sys

from memcload.ledger import Ledger
from memcload.log import LOG
from memcload.servers import Servers


def summarize(ledger: Ledger, servers: Servers, seconds: float, *, as_table: bool) -> None:
    """Say at the end of a run what became of everything: as tables on standard error, or in the log."""
    rows = _totals(ledger, seconds)
    if as_table:
        _print_tables(rows, _devices(ledger, servers))
    else:
        LOG.info("Summary: %s", "; ".join(f"{name} {value}" for name, value in rows))
        for device in _devices(ledger, servers):
            LOG.info("Summary: %s", ", ".join(f"{name} {value}" for name, value in device.items()))
    for step in next_steps(ledger, servers):
        LOG.warning("%s", step)


def next_steps(ledger: Ledger, servers: Servers) -> list[str]:
    """Return a sentence for each thing that somebody has to do now."""
    steps = []
    failed = ledger.totals().failed
    waiting = [file for file in ledger.files if file.status == "pending" and not file.is_left]
    if waiting:
        down = " and ".join(servers.addresses[name] for name in failed if servers.states().get(name) == "down")
        cause = f"once {down} answers" if down else "when what is said above is mended"
        steps.append(f"{_count(len(waiting), 'file is', 'files are')} pending: run again {cause}")
    for status, advice in (
        ("damaged", "what could be read is loaded; get whole copies of the originals"),
        ("error", "see above, then run again"),
    ):
        if count := sum(file.status == status for file in ledger.files):
            steps.append(f"{_count(count, 'file', 'files')} with status {status}: {advice}")
    if count := sum(ledger.is_rate_too_high(file) for file in ledger.files):
        steps.append(f"{_count(count, 'file', 'files')} with too many rejected lines: see the .rejects.tsv files")
    return steps


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _totals(ledger: Ledger, seconds: float) -> list[tuple[str, str]]:
    totals = ledger.totals()
    files = [f"{count} {status}" for status, count in sorted(ledger.files_by_status().items())]
    rejected = [f"{count} {reason}" for reason, count in sorted(totals.rejected.items())]
    return [
        ("files", ", ".join(files) or "none"),
        ("records", f"{totals.records:,}"),
        ("stored", f"{totals.stored.total():,}"),
        ("rejected", f"{totals.rejected.total():,}" + (f" ({', '.join(rejected)})" if rejected else "")),
        ("partial", f"{totals.partial:,}"),
        ("failed", f"{totals.failed.total():,}"),
        ("duration", f"{seconds:.1f} s"),
        ("rate", f"{totals.records / max(seconds, 0.001):,.0f} records/s"),
    ]


def _devices(ledger: Ledger, servers: Servers) -> list[dict[str, str]]:
    totals = ledger.totals()
    return [
        {
            "device type": name,
            "address": address,
            "stored": f"{totals.stored[name]:,}",
            "failed": f"{totals.failed[name]:,}",
            **{counter: f"{count:,}" for counter, count in servers.counters(name).items()},
        }
        for name, address in servers.addresses.items()
    ]


def _print_tables(rows: list[tuple[str, str]], devices: list[dict[str, str]]) -> None:
    from rich import box  # imported here: only a terminal needs it
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stderr)
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in devices[0]:
        table.add_column(name, justify="left" if name in ("device type", "address") else "right")
    for device in devices:
        table.add_row(*device.values())
    console.print(table)
