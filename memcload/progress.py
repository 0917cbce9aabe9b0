"""The progress of a load on a terminal. Log lines scroll above it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from memc_client import ServerState
from memcload.ledger import Ledger
from memcload.servers import Servers

_REFRESHES_PER_SECOND = 1  # each takes the interpreter away from the workers for some milliseconds
_STYLES: dict[ServerState, str] = {"ok": "green", "retrying": "yellow", "down": "bold red"}


@contextlib.contextmanager
def show_progress(
    paths: list[str], ledger: Ledger, servers: Servers, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Show the progress of a load on standard error for as long as the context lasts.

    Once `is_stopped` says so, it tells that the load is about to end.
    """
    from rich.console import Console, Group  # imported here: only a terminal needs it
    from rich.live import Live
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += os.path.getsize(path)
    bar = Progress(
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[records]:,} records · {task.fields[rate]:,.0f}/s · {task.fields[rejects]:,} rejected"),
    )
    task = bar.add_task("", total=total or None, records=0, rate=0.0, rejects=0)
    started = time.monotonic()

    def render() -> Group:
        records = ledger.records_seen
        bar.update(
            task,
            completed=ledger.bytes_read(),
            records=records,
            rate=records / max(0.001, time.monotonic() - started),
            rejects=ledger.rejects_seen,
        )
        states = Text("servers")
        for name, state in servers.states().items():
            states.append(f"  {name} ").append(state, _STYLES[state])
        if is_stopped():
            states.append("\nFinishing the records in flight; once more to stop at once.")
        return Group(bar, states)

    with Live(
        console=Console(file=sys.stderr),
        get_renderable=render,
        refresh_per_second=_REFRESHES_PER_SECOND,
        transient=True,
    ) as live:
        live.console.show_cursor()  # a run that is killed can't bring it back
        yield
