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
from memcload.memcached.protocol import numbers_of
from memcload.memcached.routing import Router
from memcload.memcached.server import EVICTED, Server, ServerDown, hash_power_for
from memcload.output.checks import Finding
from memcload.output.destination import why_not_appended, why_not_writable, why_not_written
from memcload.sink import Client
from memcload.source.holding import DirectoryHeld, NoLocks
from memcload.source.pattern import PatternError
from memcload.source.source import Source

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
    probes = _start_probes(plan.router, new_client)
    files, paths = _check_files(plan.source)
    need = estimate(paths, plan.source, plan.router, cancel)
    local = [*files, *_check_places(plan, paths), *_check_outputs(plan), *_check_engine(plan)]
    for probe in probes:
        while probe.is_alive() and time.monotonic() < deadline and not cancel.is_set:
            probe.join(_LOOK_EVERY)
    return [*(finding for probe in probes for finding in _judge(probe, plan, need, seconds)), *local]


# --- servers ------------------------------------------------------------------------------------


class _QuietServer(Server):
    """A server that logs nothing: what it answers is shown when all have answered."""

    def report(self, *_: object) -> None:
        """Take no note."""

    def tells_no_stats(self) -> None:
        """Take note that the server does not report its stats."""
        self.detects_restarts = False


class _Probe(threading.Thread):
    """Asks a server what it can tell. All servers are probed at the same time.

    device_types: whose records go there
    failure: why there is no answer
    """

    def __init__(self, address: str, device_types: Sequence[str], new_client: Callable[[Server], Client]) -> None:
        super().__init__(name=f"probe of {address}", daemon=True)
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
        """Its stats that are numbers; 0 for those that it does not report."""
        return Counter(numbers_of(self.server.stats))

    @property
    def used(self) -> int:
        """How many bytes of its memory the items of the server take."""
        return round(self.stats[b"bytes"] * ROOM)


def _start_probes(router: Router, new_client: Callable[[Server], Client]) -> list[_Probe]:
    types: dict[str, list[str]] = {}
    for partition in router.partitions:
        types.setdefault(partition.server, []).append(partition.device_type)
    probes = [_Probe(address, names, new_client) for address, names in types.items()]
    for probe in probes:
        probe.start()
    return probes


def _judge(probe: _Probe, plan: Plan, need: Need, seconds: float) -> Iterator[Finding]:
    server = probe.server
    failure = f"no answer within {seconds:g} s" if probe.is_alive() else probe.failure
    if failure:
        options = " and ".join(f"--{name}" for name in probe.device_types)
        says_what_to_do = any(words in failure for words in ("--", "memcached -", "certificate", "file descriptors"))
        advice = "" if says_what_to_do else f"start memcached there, or give another address with {options}"
        yield Finding(server.label, problem=failure, advice=advice)
        return
    yield Finding(server.label, ", ".join(_facts(probe, plan, need)))
    if not server.speaks_meta:
        what = "it has no meta commands (memcached 1.6.10 and later have them)"
        yield Finding(server.label, what, advice="the load uses classic set, which is slower")
    if not server.detects_restarts:
        advice = 'a restart would go unnoticed, so "done" means acknowledged, no more'
        yield Finding(server.label, "it does not report its stats (is it a proxy?)", advice=advice)
    elif need.records[server.address]:
        yield from _judge_room(probe, need)


def _facts(probe: _Probe, plan: Plan, need: Need) -> Iterator[str]:
    server, stats = probe.server, probe.stats
    yield f"version {server.version}"
    if server.speaks_meta:
        yield "meta commands"
    if plan.tls:
        yield "TLS"
    if server.detects_restarts:
        yield f"{stats[b'curr_items']:,} items"
        yield f"{_mib(probe.used)} of {_mib(stats[b'limit_maxbytes'])} MiB used"
        yield f"{sum(stats[name] for name in EVICTED):,} evictions"
    if records := need.records[server.address]:
        yield f"about {records:,} pending records need {_mib(need.memory[server.address])} MiB"


def _judge_room(probe: _Probe, need: Need) -> Iterator[Finding]:
    """Judge the server's memory and its hash table."""
    server, stats = probe.server, probe.stats
    memory, limit = need.memory[server.address], stats[b"limit_maxbytes"]
    total = probe.used + memory
    if 0 < limit < total:
        free = max(0, limit - probe.used)
        happens = "refuse records" if probe.settings.get(b"evictions") == b"off" else "evict items"
        yield Finding(
            server.label,
            problem=f"the pending files need up to {_mib(memory)} MiB and {_mib(free)} MiB are free: "
            f"it would {happens}",
            advice=f"give it more memory (memcached -m {math.ceil(total / _MIB)}) or add servers",
        )
    items = stats[b"curr_items"] + need.records[server.address]
    power = hash_power_for(items)
    if server.hash_table and server.hash_table.power < power:
        yield Finding(
            server.label,
            f"its hash table is too small for {items:,} items: growing it slows the load down",
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
        return [Finding("files", f"no file matches {source.pattern}: there is nothing to load")], []
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
        have = "has" if others == 1 else "have"
        yield Finding(subject, problem=f"{_counted(others, 'more file')} {have} such a problem")


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
        reasons = {path: f"can't be renamed: {why}" for path in paths if (why := plan.source.why_not_renamable(path))}
        yield from _problems("rename", reasons) if reasons else [Finding("rename", f"files can be renamed in {where}")]
        yield _check_lock(plan.source, where)
    # A directory that can't be written is told above, where it is that of the files.
    writable = [directory for directory in directories if os.access(directory, os.W_OK | os.X_OK)]
    for directory in writable if plan.rejects is None else [plan.rejects]:
        if why := why_not_writable(directory):
            yield Finding("rejects", problem=why, advice="choose another place (--rejects)")
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
            yield Finding(name, problem=f"{path}: {why}", advice=f"fix that, or choose another place (--{name})")
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
            "engine", f"compiled, not cached yet: the first large load compiles it into {state.compiles_into}{why}"
        )
    else:
        what = "compiled again for every load: no cache directory is writable"
        yield Finding("engine", what, advice="set NUMBA_CACHE_DIR to one that is")
