"""The summary of a run for people: what became of the files and records, and what to do next."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

from memcload import inbox
from memcload.ledger import Ledger
from memcload.log import LOG
from memcload.report import device_accounts
from memcload.servers import Servers


def summarize(ledger: Ledger, servers: Servers, seconds: float, *, as_table: bool) -> None:
    """Say at the end of a run what became of everything: as tables on standard error, or in the log.

    A log that is a file is told in any case; then standard error is told also what to do next.
    """
    rows, devices = _totals(ledger, seconds), _devices(ledger, servers)
    steps = next_steps(ledger, servers)
    has_log_file = any(isinstance(handler, logging.FileHandler) for handler in LOG.handlers)
    if as_table:
        _print_tables(rows, devices, steps if has_log_file else [])
    if has_log_file or not as_table:
        LOG.info("Summary: %s", "; ".join(f"{name} {value}" for name, value in rows))
        for device in devices:
            LOG.info("Summary: %s", ", ".join(f"{name} {value}" for name, value in device.items()))
    for step in steps:
        LOG.warning("%s", step)


def next_steps(ledger: Ledger, servers: Servers) -> list[str]:
    """Return a sentence for each thing that somebody has to do now."""
    steps = []
    waiting = [file for file in ledger.files if file.status == "pending" and not file.is_left]
    if waiting:
        down = dict.fromkeys(servers.addresses[name] for name, state in servers.states().items() if state == "down")
        again = "run again with --again" if any(inbox.is_done(file.path) for file in waiting) else "run again"
        advice = f"{again} once {_listed(down)}" if down else f"see above for why, then {again}"
        steps.append(f"{_count(len(waiting), 'file is', 'files are')} pending: {advice}")
    for status, advice in (
        ("damaged", "what could be read is loaded; get whole copies of the originals"),
        ("error", "see above, then run again"),
    ):
        if count := sum(file.status == status for file in ledger.files):
            steps.append(f"{_count(count, 'file', 'files')} with status {status}: {advice}")
    if count := sum(ledger.is_rate_too_high(file) for file in ledger.files):
        steps.append(f"{_count(count, 'file', 'files')} with too many rejected lines: see the .rejects.tsv files")
    return steps


def _listed(addresses: Iterable[str]) -> str:
    *others, last = addresses
    return f"{', '.join(others)} and {last} answer" if others else f"{last} answers"


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
    return [
        {
            "device type": name,
            **{key: f"{value:,}" if isinstance(value, int) else value for key, value in accounts.items()},
        }
        for name, accounts in device_accounts(ledger.totals(), servers).items()
    ]


def _print_tables(rows: list[tuple[str, str]], devices: list[dict[str, str]], steps: list[str]) -> None:
    from rich import box  # imported here: only a terminal needs it
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stderr, markup=False, emoji=False)  # an address may have brackets and colons
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
    for step in steps:
        console.print(step, highlight=False)
