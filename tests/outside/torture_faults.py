"""One trial of the torture: a load with something going wrong, a load without, and a comparison with the oracle.

What goes wrong are an event, when the load has come to a random place; connections that break; a server of an odd
kind; a damaged archive; or several of these at once.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import os
import pty
import random
import select
import signal
import socket
import struct
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.outside.faults import (
    AnswersAndCloses,
    ClosesOnUnknown,
    Garble,
    HalfReply,
    KnowsNoMeta,
    OldMeta,
    SamePid,
    TellsNoStats,
    cut,
    delay,
    late,
    reset,
    trigger,
)
from tests.outside.loading import REFERENCE, Finished, Loader, Running, check_sums, with_report
from tests.outside.logs import Inbox, line, log_of_few_devices, make_old, numbered
from tests.outside.memcached import contents
from tests.outside.proxy import Fault, FaultyProxy, NewFault
from tests.outside.spec import TYPES, Expected, Item, expected
from tests.outside.zstandard import zstd
from tools.servers import MemcachedServer

CERTAIN = 0.1  # seconds in which a file that was confirmed before a server's end has been renamed
ROUTINGS = ("rendezvous", "crc32", "python-memcached", "ketama")
Servers = Mapping[str, Sequence[MemcachedServer]]  # by device type


class Loss(AssertionError):
    """Something is not as it has to be after a faulty load and a clean one; `count` records are lost, or more."""

    def __init__(self, message: str, count: int = 1) -> None:
        super().__init__(message)
        self.count = count


class Terminal:
    """A terminal that can be closed, and whose output is read until then. A context manager, which closes it."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        self.name = os.ttyname(self._slave)
        self._is_closing = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Terminal:
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        os.close(self._slave)

    def close(self) -> None:
        """Close it. The reader has to be gone before: what somebody reads from is not closed."""
        if not self._is_closing.is_set():
            self._is_closing.set()
            self._reader.join()
            os.close(self._master)

    def _read(self) -> None:
        while not self._is_closing.is_set():
            if select.select([self._master], [], [], 0.01)[0]:
                os.read(self._master, 1 << 16)


@dataclass
class Trial:
    """One load in which something goes wrong."""

    rng: random.Random
    inbox: Inbox
    servers: Servers
    victim: str
    loader: Running | None = None
    terminal: Terminal | None = None
    has_lost_memory: bool = False
    forgiven: int = 0  # files that were done before their server lost its memory
    perhaps: list[bytes] = field(default_factory=list)  # lines of damaged parts of files, for devices of their own
    timers: list[threading.Timer] = field(default_factory=list)

    @property
    def server(self) -> MemcachedServer:
        return self.servers[self.victim][-1]

    def finalized(self) -> int:
        """Return how many files are done or set aside. They are the first ones, or that is a loss."""
        names = os.listdir(self.inbox.directory)
        done = [bool({f".{n}.tsv.gz", f".{n}.tsv.gz.damaged"} & {*names}) for n in range(len(self.inbox.logs))]
        if done != sorted(done, reverse=True):
            raise Loss(f"files were renamed out of their order: {sorted(names)}")
        return sum(done)

    # -- what happens

    def later(self, action: Callable[[], None]) -> None:
        """Do something while the loader may still be trying."""
        timer = threading.Timer(self.rng.uniform(0, 0.8), action)
        self.timers.append(timer)
        timer.start()

    def lose_memory(self, how: Callable[[], None]) -> None:
        how()
        self.has_lost_memory = True
        time.sleep(CERTAIN)
        self.forgiven = self.finalized()

    def kill_server(self) -> None:
        self.lose_memory(self.server.kill)

    def restart_server(self) -> None:
        self.kill_server()
        self.server.restart()

    def kill_server_for_a_while(self) -> None:
        self.kill_server()
        self.later(self.server.restart)

    def flush_server(self) -> None:
        self.lose_memory(self.server.flush)

    def reset_statistics(self) -> None:
        """Let the server forget what it counted, by which it is known that it has forgotten nothing else."""
        host, port = self.server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"stats reset\r\n")
            assert connection.recv(100) == b"RESET\r\n"

    def freeze_server(self) -> None:
        self.server.freeze()

    def freeze_server_for_a_while(self) -> None:
        self.server.freeze()
        self.later(self.server.thaw)

    def send(self, number: signal.Signals) -> None:
        assert self.loader is not None
        self.loader.send(number)

    def kill_loader(self) -> None:
        self.send(signal.SIGKILL)

    def stop_loader(self) -> None:
        self.send(self.rng.choice((signal.SIGTERM, signal.SIGINT)))

    def stop_loader_twice(self) -> None:
        self.stop_loader()
        self.later(self.stop_loader)

    def freeze_loader_for_a_while(self) -> None:
        self.send(signal.SIGSTOP)
        self.later(lambda: self.send(signal.SIGCONT))

    def close_terminal(self) -> None:
        assert self.terminal is not None
        self.terminal.close()


EVENTS: dict[str, Callable[[Trial], None]] = {
    "server killed": Trial.kill_server,
    "server killed, back after a moment": Trial.kill_server_for_a_while,
    "server restarted": Trial.restart_server,
    "server flushed": Trial.flush_server,
    "statistics reset": Trial.reset_statistics,
    "server frozen": Trial.freeze_server,
    "server frozen, thawed after a moment": Trial.freeze_server_for_a_while,
    "loader killed": Trial.kill_loader,
    "loader stopped by a signal": Trial.stop_loader,
    "loader stopped by two signals": Trial.stop_loader_twice,
    "loader frozen, goes on after a moment": Trial.freeze_loader_for_a_while,
    "terminal closed": Trial.close_terminal,
}
CONNECTIONS: dict[str, Callable[[int], NewFault]] = {
    "connections cut": cut,
    "connections reset": reset,
    "replies garbled": lambda place: late(Garble, place),
    "replies cut in half": lambda place: late(HalfReply, place),
    "requests delayed": lambda place: late(delay(0.005), place),
}
KINDS: dict[str, NewFault] = {
    "server without meta commands": KnowsNoMeta,
    "memcached 1.6.0 to 1.6.9": OldMeta,
    "proxy that closes on unknown commands": ClosesOnUnknown,
    "proxy that answers them, and closes": AnswersAndCloses,
    "proxy without stats": TellsNoStats,
    "server in a container": SamePid,
    "proxy that closes idle connections": Fault,
}
DAMAGE = "damaged archive"
SEVERAL = "several of these at once"
FAULTS = (*EVENTS, *CONNECTIONS, *KINDS, DAMAGE, SEVERAL)


@dataclass
class Plan:
    """What goes wrong in a trial; the name of each kind of fault, or None."""

    event: str | None = None
    connection: str | None = None
    kind: str | None = None
    damage: bool = False

    @classmethod
    def of(cls, name: str, rng: random.Random) -> Plan:
        if name == SEVERAL:
            kind = rng.choice(list(KINDS))
            return cls(rng.choice(list(EVENTS)), rng.choice((None, *CONNECTIONS)), kind, rng.random() < 0.5)
        return cls(
            name if name in EVENTS else None,
            name if name in CONNECTIONS else None,
            name if name in KINDS else None,
            name == DAMAGE,
        )


# --- archives -----------------------------------------------------------------------------------


def zst(log: bytes) -> bytes:
    return zstd.compress(log, options={zstd.CompressionParameter.checksum_flag: 1})


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda log: gzip.compress(log, 1),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zst,
    "plain": bytes,
}
BETWEEN = {"xz": bytes(4), "zst": struct.pack("<II", 0x184D2A50, 3) + b"odd"}  # may lie between the parts of a file
BEHIND = {"gz": bytes(512), "xz": bytes(8), "zst": BETWEEN["zst"]}


def archive(rng: random.Random, log: bytes) -> bytes:
    """Return a log as an archive of any format, of one to three parts."""
    format = rng.choice(list(FORMATS))
    lines = log.splitlines(keepends=True)
    cuts = sorted(rng.sample(range(1, len(lines)), rng.randint(0, 2)))
    parts = [b"".join(lines[start:end]) for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    between = rng.choice((b"", BETWEEN.get(format, b"")))
    return between.join(map(FORMATS[format], parts)) + rng.choice((b"", BEHIND.get(format, b"")))


def damaged_part(rng: random.Random, log: bytes) -> bytes:
    """Return a whole part with a log, and another one behind it with something wrong that spoils no text."""
    compress = FORMATS[rng.choice([format for format in FORMATS if format != "plain"])]
    part = compress(log)
    spoiled = {
        "cut": part[: rng.randrange(1, len(part))],
        "first byte": b"\xee" + part[1:],
        "last byte": part[:-1] + bytes([part[-1] ^ 0xFF]),
    }
    return compress(line("idfa", "before")) + rng.choice(list(spoiled.values()))


def write_inbox(trial_rng: random.Random, directory: Path, *, damage: bool) -> tuple[Inbox, list[bytes]]:
    """Write logs; return what has to be loaded of them, and what may be."""
    rng = trial_rng
    devices = rng.choice((1, 5, 50, 1000))
    count = rng.randint(1, 4)
    harmed = rng.randrange(count) if damage else None
    directory.mkdir()
    logs, perhaps = [], []
    for file in range(count):
        log = log_of_few_devices(rng, file, lines=rng.randint(200, 2500), devices=devices)
        path = directory / f"{file}.tsv.gz"
        if file == harmed:
            log = line("idfa", "before")
            perhaps.append(numbered(rng.randint(1, 2000), prefix="perhaps"))
            path.write_bytes(damaged_part(rng, perhaps[-1]))
        else:
            path.write_bytes(archive(rng, log))
        make_old(path)  # or a truncated one would be taken for one that is still being written
        logs.append(log)
    return Inbox(directory, logs), perhaps


# --- loads --------------------------------------------------------------------------------------

Settings = dict[str, Any]
HONEST: tuple[NewFault, Settings] = (Fault, {})


def some_loader(rng: random.Random) -> Loader:
    if rng.random() < 0.1:
        return REFERENCE
    engine = rng.choice(("auto", "python"))
    size = rng.choice((500, 2000, 20_000, 1 << 20))
    return (
        *("memc_load_parallel.py", "--engine", engine, "--block-size", str(size)),
        *("--workers", str(rng.randint(1, 4)), "--queue-size", str(rng.randint(1, 6))),
    )


def options_for(addresses: Mapping[str, Iterable[str]], routing: str) -> list[str]:
    where = [part for name in TYPES for part in (f"--{name}", ",".join(addresses[name]))]
    return [*where, "--routing", routing]


def try_fault(name: str, seed: str, servers: Servers) -> tuple[int, int]:
    """Load with a fault and again without; return the exit code of the first load and the number of records.

    Each server has a proxy before it, by whose address the loads know it: routing goes by that.
    """
    rng = random.Random(seed)
    plan = Plan.of(name, rng)
    several = rng.random() < 0.3
    used = {type: servers[type][: 2 if several else 1] for type in TYPES}
    routing = rng.choice(ROUTINGS) if several else "rendezvous"
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        inbox, perhaps = write_inbox(rng, Path(scratch) / "inbox", damage=plan.damage)
        trial = Trial(rng, inbox, used, rng.choice(TYPES), perhaps=perhaps)
        other = rng.sample([type for type in TYPES if type != trial.victim], 2)
        faults = _faults(plan, trial, *other)
        proxies: dict[str, list[FaultyProxy]] = {type: [] for type in TYPES}
        for type, group in used.items():
            for server in group:
                fault, settings = faults.get(type, HONEST) if server is group[-1] else HONEST
                proxy = FaultyProxy(server.address, fault, seed=rng.getrandbits(32), **settings)
                proxies[type].append(stack.enter_context(proxy))
        where = options_for({type: [p.address for p in proxies[type]] for type in TYPES}, routing)
        exit_code = _load_with_fault(trial, where, Path(scratch) / "report.json", plan.event == "terminal closed")
        for server in itertools.chain(*used.values()):
            if server.running:
                server.thaw()
        for proxy in itertools.chain(*proxies.values()):
            proxy.drain()
            proxy.fault = Fault
        check_renamed(trial)
        if not trial.server.running:
            trial.server.restart()
        with Running(some_loader(rng), inbox.pattern, *where, "--report", "-") as running:
            clean = with_report(running.finish())
        check_clean(clean, trial)
        return exit_code, check_all(trial)


def _faults(plan: Plan, trial: Trial, watched: str, odd: str) -> dict[str, tuple[NewFault, Settings]]:
    """Return what is wrong with connections to the last server of device types: the victim, and two others."""
    rng = trial.rng
    requests = sum(map(len, trial.inbox.logs)) // len(TYPES)  # bytes to one server, about
    place = rng.randrange(max(1, requests))
    faults: dict[str, tuple[NewFault, Settings]] = {}
    if plan.event is not None:
        event = EVENTS[plan.event]
        faults[watched] = (trigger(place, lambda: event(trial)), {})
    if plan.connection is not None:
        faults[trial.victim] = (CONNECTIONS[plan.connection](place), {"faulty": rng.randint(1, 4)})
    if plan.kind is not None:
        faults[odd] = (KINDS[plan.kind], {"idle": 0.01} if "idle" in plan.kind else {})
    return faults


def _load_with_fault(trial: Trial, where: Sequence[str], report: Path, on_terminal: bool) -> int:
    rng = trial.rng
    options = ["--timeout", "0.3", "--connect-timeout", "0.3", "--retries", str(rng.randint(0, 3))]
    with ExitStack() as stack:
        prefix: tuple[str, ...] = ()
        if on_terminal:
            trial.terminal = stack.enter_context(Terminal())
            ignores = rng.choice(("", "trap '' HUP; "))
            prefix = ("sh", "-c", ignores + 'exec "$@" 2<>"$0"', trial.terminal.name)
            before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the loader would ignore it in any case
            stack.callback(signal.signal, signal.SIGHUP, before)
        trial.loader = stack.enter_context(
            Running(some_loader(rng), trial.inbox.pattern, *where, *options, "--report", str(report), prefix=prefix)
        )
        exit_code = trial.loader.finish().exit_code
        for timer in trial.timers:
            timer.join()
    if report.exists():
        _check_report(json.loads(report.read_bytes()), trial)
    return exit_code


# --- checks -------------------------------------------------------------------------------------


def _contents(servers: Servers, *, leave: MemcachedServer | None = None) -> dict[bytes, Item]:
    """Return what the servers hold; no key may lie on two of them."""
    held: dict[bytes, Item] = {}
    for name, group in servers.items():
        for server in group:
            if server is leave:
                continue
            items = contents({name: server})
            if twice := items.keys() & held.keys():
                raise Loss(f"{min(twice)!r} lies on two servers", len(twice))
            held.update(items)
    return held


def _check_report(report: Mapping[str, Any], trial: Trial) -> None:
    check_sums(report)
    if len(report["files"]) != len(trial.inbox.logs):
        raise Loss(f"the report is about {len(report['files'])} files")
    for entry, log in zip(report["files"], trial.inbox.logs, strict=True):
        counts = expected(log).counts()
        if entry["status"] == "done" and {name: entry[name] for name in counts} != counts:
            raise Loss(f"the report says {entry}, not {counts}")


def check_renamed(trial: Trial) -> None:
    """Check that what was renamed is there, but for what a server has lost since."""
    done = trial.finalized()
    accepted: defaultdict[bytes, set[Item]] = defaultdict(set)
    for key, item in expected(*trial.inbox.logs[:done]).items.items():
        accepted[key].add(item)
    for text in b"".join(trial.inbox.logs[done:]).splitlines(keepends=True):
        for key, item in expected(text).items.items():
            if key in accepted:
                accepted[key].add(item)
    held = _contents(trial.servers, leave=None if trial.server.running else trial.server)
    for key, items in accepted.items():
        is_forgiven = trial.has_lost_memory and key.startswith(trial.victim.encode())
        if held.get(key) not in items and not is_forgiven:
            raise Loss(f"{key!r} of a renamed file is {held.get(key)}")


def check_clean(clean: Finished, trial: Trial) -> None:
    statuses = clean.statuses()
    has_damage = "damaged" in statuses.values()
    if trial.inbox.waiting() or not {*statuses.values()} <= {"done", "damaged"} or clean.exit_code != int(has_damage):
        raise Loss(f"the clean load ended with {clean.exit_code}, {trial.inbox.waiting()} are left: {clean.log}")
    aside = len([name for name in os.listdir(trial.inbox.directory) if name.endswith(".damaged")])
    if aside != len(trial.perhaps):
        raise Loss(f"{aside} files were set aside")


def check_all(trial: Trial) -> int:
    """Check what the servers hold in the end; return how many records were loaded."""
    held = _contents(trial.servers)
    wanted = expected(*trial.inbox.logs)
    perhaps = expected(*trial.perhaps).items
    still = expected(*trial.inbox.logs[trial.forgiven :]).items
    lost = [
        f"{key!r} is {held.get(key)}, not {item}"
        for key, item in wanted.items.items()
        if held.get(key) != item
        and not (trial.has_lost_memory and key.startswith(trial.victim.encode()) and key not in still)
    ]
    lost += [f"{key!r} is {held[key]}" for key in perhaps.keys() & held.keys() if held[key] != perhaps[key]]
    if lost:
        raise Loss(lost[0], len(lost))
    if odd := held.keys() - wanted.items.keys() - perhaps.keys():
        raise Loss(f"there are {len(odd)} keys of no line, {min(odd)!r} for one")
    return _records(wanted)


def _records(wanted: Expected) -> int:
    return wanted.stored.total() + len(wanted.rejected)
