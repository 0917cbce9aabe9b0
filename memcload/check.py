"""Whether everything is as a load will need it. A check connects and reads; it stores, renames and writes nothing."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from memcload.cancel import Cancel
from memcload.encode.choice import EngineName, examine_engine
from memcload.estimate import ROOM, Need, estimate
from memcload.memcached.routing import Router
from memcload.memcached.server import EVICTED, Server, ServerDown, hash_power_for
from memcload.output.checks import Finding
from memcload.output.destination import why_not_appended, why_not_writable, why_not_written
from memcload.sink import Client
from memcload.source.pattern import PatternError
from memcload.source.source import DirectoryHeld, NoLocks, Source

_MIB = 1 << 20
_SHOWN_FILES = 3  # that have the same trouble
_LOOK_EVERY = 0.05  # seconds
_GRACE = 0.5  # seconds in which a client that ran out of time can say so itself


@dataclass(frozen=True)
class Plan:
    """What a load is going to use.

    tls: connections to the servers are made over TLS
    rejects: the directory for rejected lines; None for that of each file
    report, metrics, log: where these are to be written, if they are
    engine: what `--engine` says; None where the loader has no choice
    """

    source: Source
    router: Router
    tls: bool = False
    rejects: str | None = None
    report: str | None = None
    metrics: str | None = None
    log: str | None = None
    engine: EngineName | None = None


def check_load(plan: Plan, new_client: Callable[[Server], Client], seconds: float, cancel: Cancel) -> list[Finding]:
    """Return what is found of everything that a load needs; where it is cancelled, what is known by then.

    Args:
        plan: the load.
        new_client: makes a client that tries nothing twice.
        seconds: how long a server may take to answer.
        cancel: ends the check early.
    """
    deadline = time.monotonic() + seconds + _GRACE
    inquiries = _ask(plan.router, new_client)
    files, paths = _check_files(plan.source)
    need = estimate(paths, plan.source, plan.router, cancel)
    local = [*files, *_check_places(plan, paths), *_check_outputs(plan), *_check_engine(plan)]
    for inquiry in inquiries:
        while inquiry.is_alive() and time.monotonic() < deadline and not cancel.is_set:
            inquiry.join(_LOOK_EVERY)
    return [*(finding for inquiry in inquiries for finding in _judge(inquiry, plan, need, seconds)), *local]


# --- servers ------------------------------------------------------------------------------------


class _QuietServer(Server):
    """A server that logs nothing: what it answers is shown when all have answered."""

    def report(self, *_: object) -> None:
        """Take no note."""

    def tells_no_stats(self) -> None:
        """Take note that the server does not tell its statistics."""
        self.detects_restarts = False


class _Inquiry(threading.Thread):
    """Asks a server what it can tell. All servers are asked at the same time.

    device_types: whose records go there
    failure: why there is no answer
    """

    def __init__(self, address: str, device_types: Sequence[str], new_client: Callable[[Server], Client]) -> None:
        super().__init__(name=f"inquiry of {address}", daemon=True)
        self.server = _QuietServer(address, f"{', '.join(device_types)} {address}")
        self.device_types = device_types
        self.failure = ""
        self.settings: Mapping[bytes, bytes] = {}
        self._client = new_client(self.server)

    def run(self) -> None:
        """Ask."""
        try:
            self._client.confirm()
            self.settings = self._client.settings()
        except ServerDown as error:
            self.failure = error.cause
        finally:
            self._client.close()

    @property
    def stats(self) -> Counter[bytes]:
        """The statistics that are numbers; 0 for those that the server does not tell."""
        return Counter({name: int(value) for name, value in self.server.stats.items() if value.isdigit()})

    @property
    def used(self) -> int:
        """How many bytes of its memory the items of the server take."""
        return round(self.stats[b"bytes"] * ROOM)


def _ask(router: Router, new_client: Callable[[Server], Client]) -> list[_Inquiry]:
    types: dict[str, list[str]] = {}
    for partition in router.partitions:
        types.setdefault(partition.server, []).append(partition.device_type)
    inquiries = [_Inquiry(address, names, new_client) for address, names in types.items()]
    for inquiry in inquiries:
        inquiry.start()
    return inquiries


def _judge(inquiry: _Inquiry, plan: Plan, need: Need, seconds: float) -> Iterator[Finding]:
    server = inquiry.server
    failure = f"no answer within {seconds:g} s" if inquiry.is_alive() else inquiry.failure
    if failure:
        options = " and ".join(f"--{name}" for name in inquiry.device_types)
        says_what_to_do = "--" in failure or "memcached -" in failure
        advice = "" if says_what_to_do else f"see that memcached runs there, or give its address with {options}"
        yield Finding(server.label, problem=failure, advice=advice)
        return
    yield Finding(server.label, ", ".join(_facts(inquiry, plan, need)))
    if not server.speaks_meta:
        advice = "records are stored by classic sets, which is slower; memcached has them from 1.6.10 on"
        yield Finding(server.label, "it has no meta commands", advice=advice)
    if not server.detects_restarts:
        advice = "a restart can't be noticed, so that done means acknowledged and no more"
        yield Finding(server.label, "it does not tell its statistics (a proxy?)", advice=advice)
    elif need.records[server.address]:
        yield from _judge_room(inquiry, need)


def _facts(inquiry: _Inquiry, plan: Plan, need: Need) -> Iterator[str]:
    server, stats = inquiry.server, inquiry.stats
    yield f"version {server.version}"
    if server.speaks_meta:
        yield "meta commands"
    if plan.tls:
        yield "TLS"
    if server.detects_restarts:
        yield f"{stats[b'curr_items']:,} items"
        yield f"{_mib(inquiry.used)} of {_mib(stats[b'limit_maxbytes'])} MiB used"
        yield f"{sum(stats[name] for name in EVICTED):,} evictions"
    if records := need.records[server.address]:
        yield f"about {records:,} records to come need {_mib(need.memory[server.address])} MiB"


def _judge_room(inquiry: _Inquiry, need: Need) -> Iterator[Finding]:
    """Judge the server's memory and its hash table."""
    server, stats = inquiry.server, inquiry.stats
    memory, limit = need.memory[server.address], stats[b"limit_maxbytes"]
    total = inquiry.used + memory
    if 0 < limit < total:
        free = max(0, limit - inquiry.used)
        happens = "refuse some" if inquiry.settings.get(b"evictions") == b"off" else "evict others"
        yield Finding(
            server.label,
            problem=f"the records to come need {_mib(memory)} MiB if all their keys are new, and {_mib(free)} MiB are "
            f"free: it would {happens}",
            advice=f"give it more memory (memcached -m {math.ceil(total / _MIB)}) or use more servers",
        )
    items = stats[b"curr_items"] + need.records[server.address]
    power = hash_power_for(items)
    if server.hash_table and server.hash_table.power < power:
        yield Finding(
            server.label,
            f"its hash table is too small for {items:,} items, and to let it grow takes two fifths of memcached's time",
            advice=f"start memcached with -o hashpower={power}",
        )


def _mib(size: int) -> str:
    return f"{math.ceil(size / _MIB):,}"


# --- files --------------------------------------------------------------------------------------


def _check_files(source: Source) -> tuple[list[Finding], list[str]]:
    """Return what is found of the files, and their paths."""
    try:
        paths = source.find()
    except PatternError as error:
        return [Finding("files", problem=str(error))], []
    if not paths:
        return [Finding("files", f"none matches {source.pattern}: there is nothing to load")], []
    ages: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for path in paths:
        try:
            file = source.open(path)
        except OSError as error:
            reasons[path] = error.strerror or str(error)
        else:
            ages[path] = file.age
            file.close()
    facts = f"{_counted(len(paths), 'file')}, {_size(source.size_of(paths))}"
    if ages:
        oldest = max(ages, key=lambda path: ages[path])
        facts += f"; the oldest is {oldest}, {_age(ages[oldest])} old"
    return [Finding("files", facts), *_problems("files", reasons)], paths


def _problems(subject: str, reasons: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a problem for each of the first few files, and one for the others."""
    for path in list(reasons)[:_SHOWN_FILES]:
        yield Finding(subject, problem=f"{path}: {reasons[path]}")
    if (others := len(reasons) - _SHOWN_FILES) > 0:
        yield Finding(subject, problem=f"the same kind of problem with {_counted(others, 'more file')}")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _size(size: int) -> str:
    unit, name = (1e9, "GB") if size >= 1e10 else (1e6, "MB") if size >= 1e5 else (1e3, "kB")
    return f"{size / unit:,.1f} {name}"


def _age(seconds: float) -> str:
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            return _counted(int(seconds / unit), name)
    return _counted(max(0, int(seconds)), "second")


# --- where a load writes ------------------------------------------------------------------------


def _check_places(plan: Plan, paths: Sequence[str]) -> Iterator[Finding]:
    """Yield what is found of renaming the files, holding their directories, and keeping their rejected lines."""
    directories = list(dict.fromkeys(os.path.dirname(path) or "." for path in paths))
    where = ", ".join(directories[:_SHOWN_FILES])
    if len(directories) > _SHOWN_FILES:
        where += f" and {len(directories) - _SHOWN_FILES} more"
    if paths:
        reasons = {path: why for path in paths if (why := plan.source.why_not_renamable(path))}
        yield from _problems("rename", reasons) if reasons else [Finding("rename", f"files can be renamed in {where}")]
        yield _check_lock(plan.source, where)
    # A directory that can't be written is told above, where it is that of the files.
    writable = [directory for directory in directories if os.access(directory, os.W_OK | os.X_OK)]
    for directory in writable if plan.rejects is None else [plan.rejects]:
        if why := why_not_writable(directory):
            yield Finding("rejects", problem=why, advice="save them elsewhere (--rejects)")
        else:
            yield Finding("rejects", f"rejected lines can be saved in {directory}")


def _check_lock(source: Source, where: str) -> Finding:
    """Find out whether the directories can be held; they are let go at once."""
    try:
        with source.lock():
            return Finding("lock", f"no other run holds {where}")
    except DirectoryHeld as error:
        return Finding("lock", problem=str(error))
    except NoLocks as error:
        return Finding("lock", problem=str(error))
    except OSError as error:
        return Finding("lock", problem=f"{error.filename}: {error.strerror}")


def _check_outputs(plan: Plan) -> Iterator[Finding]:
    for name, path, why_not in (
        ("report", plan.report, why_not_written),
        ("metrics", plan.metrics, why_not_written),
        ("log", plan.log, why_not_appended),
    ):
        if path is None:
            continue
        if (name, path) != ("report", "-") and (why := why_not(path)):
            yield Finding(name, problem=f"{path}: {why}", advice=f"mend that, or write it elsewhere (--{name})")
        else:
            yield Finding(name, "to standard output" if path == "-" and name == "report" else f"to {path}")


# --- what encodes -------------------------------------------------------------------------------


def _check_engine(plan: Plan) -> Iterator[Finding]:
    if plan.engine is None:
        return
    state = examine_engine(plan.engine, plan.router)
    if state.name == "python":
        if not state.problem:
            yield Finding("engine", "python")
        elif plan.engine == "compiled":
            yield Finding("engine", problem=f"the compiled engine can't be used: {state.problem}")
        else:
            what = f"python; the compiled engine can't be used: {state.problem}"
            yield Finding("engine", what, advice="loads are many times slower without it")
    elif state.cached:
        yield Finding("engine", f"compiled, cached as {state.cached}")
    elif state.compiles_into:
        why = f" ({state.problem})" if state.problem else ""
        yield Finding(
            "engine", f"compiled, not cached yet: a load that pays for it compiles it into {state.compiles_into}{why}"
        )
    else:
        advice = "set NUMBA_CACHE_DIR to a directory that can be written"
        yield Finding("engine", "compiled anew by each load: no directory to keep it in can be written", advice=advice)
