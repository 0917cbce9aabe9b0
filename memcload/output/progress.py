"""The progress of a load on a terminal. Log lines scroll above it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from memcload.cancel import Cancel
from memcload.console import console_is_terminal
from memcload.log import console_lines_through
from memcload.memcached.routing import Partition
from memcload.memcached.server import Server
from memcload.records import DEVICE_TYPES

_REFRESHES_PER_SECOND = 1  # each takes the interpreter away from the loading threads for some milliseconds
_NARROWEST, _WIDE = 40, 110  # characters
_SHORTEST_BAR, _LONGEST_BAR = 10, 40
_GAP = "  "
_STYLES = {"ok": "green", "retrying": "yellow", "down": "bold red"}

Segment = tuple[str, str]  # a text and its style
Segments = list[Segment]


class Tracked(Protocol):
    """What is shown of the files; a Tracker has it."""

    records_seen: int
    rejects_seen: int

    @property
    def bytes_to_read(self) -> int:
        """How large all files are together."""
        ...

    @property
    def bytes_read(self) -> int:
        """How much of them has been read."""
        ...


@contextlib.contextmanager
def show_progress(
    tracked: Tracked, partitions: Sequence[Partition], servers: Mapping[str, Server], cancel: Cancel
) -> Iterator[None]:
    """Show the progress of a load on standard error for as long as the context lasts, if that is a terminal."""
    if not console_is_terminal():
        yield
        return
    from rich.console import Group  # imported here: only a terminal needs it
    from rich.live import Live
    from rich.text import Text

    from memcload.output.terminal import Terminal

    terminal = Terminal()
    console = terminal.console
    if console.is_dumb_terminal or console.width < _NARROWEST:
        yield
        return
    dash, comma = ("━", " · ") if terminal.has_unicode else ("-", ", ")
    started = time.monotonic()

    def render() -> Group:
        if console.width < _NARROWEST:  # it has become so
            return Group()
        width, seconds = console.width, time.monotonic() - started
        size, records = _bytes(tracked, seconds), _records(tracked, seconds, comma)
        rows = _rows([*size, records], width) if width >= _WIDE else [*_rows(size, width), *_rows([records], width)]
        rows[0] = [*_bar(_done(tracked), width - _width(rows[0]), dash), *rows[0]]
        rows += _rows(_states(partitions, servers), width)
        if cancel.is_set:
            rows += _rows([("Finishing what is in flight. Press Ctrl-C again to stop at once.", "")], width)
        return Group(*(Text.assemble(*row, no_wrap=True, overflow="crop") for row in rows))

    live = Live(
        console=console,
        get_renderable=render,
        refresh_per_second=_REFRESHES_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live, console_lines_through(terminal.print_lines):
        console.show_cursor()  # a run that is killed can't bring it back
        yield


def _done(tracked: Tracked) -> float:
    """Return the part of all bytes that has been read."""
    return tracked.bytes_read / max(1, tracked.bytes_to_read, tracked.bytes_read)


def _bytes(tracked: Tracked, seconds: float) -> Segments:
    done = _done(tracked)
    remaining = _clock(seconds / done - seconds) if done and seconds >= 1 else "-:--:--"
    return [
        (f"{int(100 * done):3d}%", "bold"),
        (_sizes(tracked.bytes_read, tracked.bytes_to_read), "green"),
        (f"{remaining} left", "cyan"),
    ]


def _records(tracked: Tracked, seconds: float, comma: str) -> Segment:
    records, rejected = tracked.records_seen, tracked.rejects_seen
    rate = records / max(seconds, 0.001)
    return comma.join((f"{records:,} records", f"{rate:,.0f}/s", f"{rejected:,} rejected")), ""


def _sizes(read: int, total: int) -> str:
    unit, name = (1e9, "GB") if total >= 1e10 else (1e6, "MB") if total >= 1e6 else (1e3, "kB")
    return f"{read / unit:,.1f}/{total / unit:,.1f} {name}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _states(partitions: Sequence[Partition], servers: Mapping[str, Server]) -> Segments:
    """Return the state of each server: of several ones of a device type, those that have trouble by name."""
    segments: Segments = [("servers", "")]
    for device_type in DEVICE_TYPES:
        states = {p.server: servers[p.server].state for p in partitions if p.device_type == device_type}
        if not states:
            continue
        if len(states) == 1:
            (state,) = states.values()
            segments.append((f"{device_type} {state}", _STYLES[state]))
            continue
        fine = sum(state == "ok" for state in states.values())
        segments.append((f"{device_type} {fine} ok", _STYLES["ok"] if fine == len(states) else ""))
        segments += [
            (f"{device_type} {address} {state}", _STYLES[state]) for address, state in states.items() if state != "ok"
        ]
    return segments


def _rows(segments: Segments, width: int) -> list[Segments]:
    """Lay out segments in rows, with gaps between them; one that is too long has a row of its own."""
    rows: list[Segments] = []
    used = width
    for text, style in segments:
        if used + len(_GAP) + len(text) > width:
            rows.append([(text, style)])
            used = len(text)
        else:
            rows[-1] += [(_GAP, ""), (text, style)]
            used += len(_GAP) + len(text)
    return rows


def _width(row: Segments) -> int:
    return sum(len(text) for text, _ in row)


def _bar(done: float, width: int, dash: str) -> Segments:
    """Return a bar for the space that a row leaves, if that is enough."""
    length = min(width - len(_GAP), _LONGEST_BAR)
    if length < _SHORTEST_BAR:
        return []
    filled = int(min(1.0, done) * length)
    rest = " " if dash == "-" else dash
    return [(dash * filled, "green"), (rest * (length - filled), "bright_black"), (_GAP, "")]
