"""The summary of a run for people: what became of the files and records, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from memcload.log import LOG, console_lines_through, logs_to_console
from memcload.output.advice import next_steps
from memcload.output.results import Results, server_figures
from memcload.records import DEVICE_TYPES

_FIGURES = ("stored", "failed", "retries", "evictions", "restarts")
_MAX_ROWS = 20  # servers that have a row each, whatever became of them
_NARROWEST_TABLE = 72  # characters

Row = tuple[str, ...]


def summarize(results: Results, *, as_table: bool) -> None:
    """Tell at the end of a run what became of everything: as tables on standard error, or in the log.

    A log that is a file is told in any case; then standard error is told also what to do next.
    """
    steps = next_steps(results)
    devices = _devices(results)
    if as_table:
        _print(_totals(results), devices, steps)
    if not as_table or not logs_to_console():
        LOG.info("Summary: %s", "; ".join(f"{name} {value}" for name, value in _totals(results)))
        for row in devices[1:]:
            LOG.info("Summary: %s", _in_a_line(devices[0], row))
        for step in steps:
            LOG.warning("%s", step)


def _totals(results: Results) -> list[Row]:
    if not results.files:
        return [("files", "none")]
    totals = results.totals
    by_status = Counter(file.status for file in results.files)
    reasons = f" ({_counted(totals.rejected)})" if totals.rejected else ""
    return [
        ("files", _counted(by_status) or "none"),
        ("records", f"{totals.records:,}"),
        ("stored", f"{totals.total_stored:,}"),
        ("rejected", f"{totals.total_rejected:,}{reasons}"),
        ("partial", f"{totals.partial:,}"),
        ("failed", f"{totals.total_failed:,}"),
        ("duration", f"{results.seconds:.1f} s"),
        ("rate", f"{totals.records / max(results.seconds, 0.001):,.0f} records/s"),
    ]


def _counted(counts: Counter[Any]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def _devices(results: Results) -> list[Row]:
    """Return a header and a row for each server; of very many, only those that had trouble have one of their own.

    Returns nothing where there were no files.
    """
    if not results.files:
        return []
    shows_all = len(results.partitions) <= _MAX_ROWS
    rows: list[Row] = [("device type", "address", *_FIGURES)]
    for device_type in DEVICE_TYPES:
        servers = server_figures(results, device_type)
        shown = [server for server in servers if shows_all or _had_trouble(server)]
        rows += [_row(device_type, server["address"], [server]) for server in shown]
        if others := [server for server in servers if server not in shown]:
            rows.append(_row(device_type, f"{len(others)} servers", others))
    return rows


def _had_trouble(server: dict[str, Any]) -> bool:
    return any(server[figure] for figure in _FIGURES if figure != "stored")


def _row(device_type: str, address: str, servers: Sequence[dict[str, Any]]) -> Row:
    return (device_type, address, *(f"{sum(server[figure] for server in servers):,}" for figure in _FIGURES))


def _in_a_line(header: Row, row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(header, row, strict=True))


def _print(totals: Sequence[Row], devices: Sequence[Row], steps: Sequence[str]) -> None:
    from rich.table import Table  # imported here: only a terminal needs it

    from memcload.output.terminal import Terminal

    terminal = Terminal()
    above = Table.grid(padding=(0, 2, 0, 0))
    for row in totals:
        above.add_row(*row)
    terminal.console.print("", above, "", sep="\n")
    if devices and terminal.console.width < _NARROWEST_TABLE:
        terminal.console.print(*(_in_a_line(devices[0], row) for row in devices[1:]), "", sep="\n")
    elif devices:
        below = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for number, name in enumerate(devices[0]):
            if number < 2:
                below.add_column(name, overflow="fold")
            else:
                below.add_column(name, justify="right", no_wrap=True)
        for row in devices[1:]:
            below.add_row(*row)
        terminal.console.print(below, "", sep="\n")
    if not logs_to_console():
        for step in steps:
            terminal.console.print(step, overflow="fold")
        return
    with console_lines_through(terminal.print_lines):
        for step in steps:
            LOG.warning("%s", step)
