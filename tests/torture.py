"""Long trials against real memcached servers: random faults, and random lines.

    python -m tests.torture faults --trials 200 --seed 1
    python -m tests.torture lines --lines 2000000 --seed 1

Each exits with 1 where something was lost or is different, and says how to see it again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.outside.faults import Garble, HalfReply, cut, delay, late, reset, trigger
from tests.outside.fuzzing import Difference, fuzz
from tests.outside.loading import REFERENCE, Loader, Running, check_sums
from tests.outside.logs import Inbox, log_of_few_devices, make_inbox
from tests.outside.memcached import addresses, contents
from tests.outside.proxy import FaultyProxy, NewFault
from tests.outside.spec import TYPES, Item, expected
from tools.servers import MemcachedServer, four_servers

LINES_A_ROUND = 20_000
CERTAIN = 0.05  # seconds in which a file that was confirmed before a server's end has been renamed


class Loss(AssertionError):
    """Something is not as it has to be after a faulty load and a clean one; `count` records are lost, or more."""

    def __init__(self, message: str, count: int = 1) -> None:
        super().__init__(message)
        self.count = count


@dataclass
class Trial:
    """One load with a fault. What the fault does, it does when the load has come to a random place."""

    rng: random.Random
    inbox: Inbox
    servers: Mapping[str, MemcachedServer]
    victim: str
    proxies: dict[str, FaultyProxy] = field(default_factory=dict)
    loader: Running | None = None
    has_lost_memory: bool = False
    forgiven: int = 0  # files that were done before their server lost its memory
    timers: list[threading.Timer] = field(default_factory=list)

    @property
    def server(self) -> MemcachedServer:
        return self.servers[self.victim]

    def later(self, action: Callable[[], None]) -> None:
        """Do something while the loader may still be trying."""
        timer = threading.Timer(self.rng.uniform(0, 0.8), action)
        self.timers.append(timer)
        timer.start()

    def kill_server(self) -> None:
        self.server.kill()
        self.has_lost_memory = True
        time.sleep(CERTAIN)
        self.forgiven = len(self.inbox.renamed())

    def restart_server(self) -> None:
        self.kill_server()
        self.server.restart()

    def kill_server_for_a_while(self) -> None:
        self.kill_server()
        self.later(self.server.restart)

    def freeze_server(self) -> None:
        self.server.freeze()

    def freeze_server_for_a_while(self) -> None:
        self.server.freeze()
        self.later(self.server.thaw)

    def kill_loader(self) -> None:
        assert self.loader is not None
        self.loader.process.kill()

    def stop_loader(self) -> None:
        assert self.loader is not None
        self.loader.send(signal.SIGTERM)


EVENTS: dict[str, Callable[[Trial], None]] = {
    "server killed": Trial.kill_server,
    "server killed, back after a moment": Trial.kill_server_for_a_while,
    "server restarted": Trial.restart_server,
    "server frozen": Trial.freeze_server,
    "server frozen, thawed after a moment": Trial.freeze_server_for_a_while,
    "loader killed": Trial.kill_loader,
    "loader stopped by SIGTERM": Trial.stop_loader,
}
CONNECTIONS: dict[str, Callable[[int], NewFault]] = {
    "connections cut": cut,
    "connections reset": reset,
    "replies garbled": lambda place: late(Garble, place),
    "replies cut in half": lambda place: late(HalfReply, place),
    "requests delayed": lambda place: late(delay(0.005), place),
}


def some_loader(rng: random.Random) -> Loader:
    if rng.random() < 0.15:
        return REFERENCE
    engine = "auto" if rng.random() < 0.2 else "python"
    size = rng.choice((500, 2000, 20_000))
    return (
        *("memc_load_parallel.py", "--engine", engine, "--block-size", str(size)),
        *("--workers", str(rng.randint(1, 4)), "--queue-size", str(rng.randint(1, 6))),
    )


def load_with_fault(name: str, trial: Trial) -> int:
    """Run a loader while something goes wrong; return its exit code."""
    rng = trial.rng
    requests = sum(len(log) for log in trial.inbox.logs) // len(TYPES)  # bytes to one server, about
    place = rng.randrange(max(1, requests))
    watched = rng.choice([name for name in TYPES if name != trial.victim])
    loader = some_loader(rng)
    report = trial.inbox.directory.parent / "report.json"
    with ExitStack() as stack:
        if name in EVENTS:
            fault = trigger(place, lambda: EVENTS[name](trial))
            proxy = stack.enter_context(FaultyProxy(trial.servers[watched].address, fault))
            other = {watched: proxy.address}
        else:
            fault = CONNECTIONS[name](place)
            server = trial.server.address
            proxy = FaultyProxy(server, fault, seed=rng.getrandbits(32), faulty=rng.randint(1, 4))
            other = {trial.victim: stack.enter_context(proxy).address}
        hurried = ("--timeout", "0.3", "--connect-timeout", "0.3", "--retries", str(rng.randint(0, 3)))
        where = addresses(trial.servers, **other)
        trial.loader = stack.enter_context(
            Running(loader, trial.inbox.pattern, *where, *hurried, "--report", str(report))
        )
        exit_code = trial.loader.finish().exit_code
        for timer in trial.timers:
            timer.join()
    if report.exists():
        check_report(json.loads(report.read_bytes()), trial)
    return exit_code


def check_report(report: dict[str, Any], trial: Trial) -> None:
    check_sums(report)
    if len(report["files"]) != len(trial.inbox.logs):
        raise Loss(f"the report is about {len(report['files'])} files")
    for entry, log in zip(report["files"], trial.inbox.logs, strict=True):
        counts = expected(log).counts()
        if entry["status"] == "done" and {name: entry[name] for name in counts} != counts:
            raise Loss(f"the report says {entry}, not {counts}")


def check_renamed(trial: Trial) -> None:
    """Check that what was renamed is there, but for what a server has lost since."""
    done = len(trial.inbox.renamed())
    accepted: defaultdict[bytes, set[Item]] = defaultdict(set)
    for key, item in expected(*trial.inbox.logs[:done]).items.items():
        accepted[key].add(item)
    for line in b"".join(trial.inbox.logs[done:]).splitlines(keepends=True):
        for key, item in expected(line).items.items():
            if key in accepted:
                accepted[key].add(item)
    intact = {name: server for name, server in trial.servers.items() if name != trial.victim or server.running}
    held = contents(intact)
    for key, items in accepted.items():
        is_forgiven = trial.has_lost_memory and key.startswith(trial.victim.encode())
        if held.get(key) not in items and not is_forgiven:
            raise Loss(f"{key!r} of a renamed file is {held.get(key)}")


def check_all(trial: Trial) -> int:
    """Check what the servers hold in the end; return how many records were loaded."""
    held = contents(trial.servers)
    wanted = expected(*trial.inbox.logs)
    still = expected(*trial.inbox.logs[trial.forgiven :]).items
    lost = [
        f"{key!r} is {held.get(key)}, not {item}"
        for key, item in wanted.items.items()
        if held.get(key) != item
        and not (trial.has_lost_memory and key.startswith(trial.victim.encode()) and key not in still)
    ]
    if lost:
        raise Loss(lost[0], len(lost))
    if held.keys() - wanted.items.keys():
        raise Loss(f"there are {len(held.keys() - wanted.items.keys())} keys of no line")
    return wanted.stored.total() + len(wanted.rejected)


def try_fault(name: str, seed: str, servers: Mapping[str, MemcachedServer]) -> tuple[int, int]:
    """Load with a fault and again without; return the exit code of the first load and the number of records."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        devices = rng.choice((1, 5, 50, 1000))
        logs = [
            log_of_few_devices(rng, file, lines=rng.randint(200, 2500), devices=devices)
            for file in range(rng.randint(1, 4))
        ]
        trial = Trial(rng, make_inbox(Path(scratch) / "inbox", logs), servers, rng.choice(TYPES))
        exit_code = load_with_fault(name, trial)
        for server in servers.values():
            if server.running:
                server.thaw()
        check_renamed(trial)
        if not trial.server.running:
            trial.server.restart()
        with Running(some_loader(rng), trial.inbox.pattern, *addresses(servers)) as running:
            clean = running.finish()
        if clean.exit_code != 0 or trial.inbox.waiting():
            raise Loss(f"the clean load ended with {clean.exit_code}, {trial.inbox.waiting()} are left: {clean.log}")
        return exit_code, check_all(trial)


def torture_faults(trials: int, seed: int, only: str | None) -> int:
    """Try each fault in its turn and print a table of them; return the exit code."""
    names = [name for name in (*EVENTS, *CONNECTIONS) if only in (None, name)]
    tried: Counter[str] = Counter()
    unfinished: Counter[str] = Counter()
    records: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    with four_servers() as servers:
        for trial, name in zip(range(trials), itertools.cycle(names), strict=False):
            for server in servers.values():
                server.flush()
            tried[name] += 1
            try:
                exit_code, count = try_fault(name, f"{seed}/{trial}", servers)
            except AssertionError as error:
                print(f"\n{name}, trial {trial} of --seed {seed}: {error}", file=sys.stderr)
                lost[name] += error.count if isinstance(error, Loss) else 1
            else:
                unfinished[name] += exit_code != 0
                records[name] += count
            print(f"\r{trial + 1} of {trials}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print("| fault | trials | not finished by the first load | records | lost |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names:
        print(f"| {name} | {tried[name]} | {unfinished[name]} | {records[name]:,} | {lost[name]} |")
    print(f"| all | {tried.total()} | {unfinished.total()} | {records.total():,} | {lost.total()} |")
    return 1 if lost else 0


def torture_lines(lines: int, seed: int) -> int:
    """Load random lines, as the tests do, and many more; return the exit code."""
    sys.set_int_max_str_digits(0)
    loaded = 0
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    with four_servers("-m", "256") as servers:
        for round_number in itertools.count():
            if loaded >= lines:
                break
            with tempfile.TemporaryDirectory() as scratch:
                for server in servers.values():
                    server.flush()
                try:
                    result = fuzz(seed * 1_000_000 + round_number, LINES_A_ROUND, Path(scratch), servers)
                except AssertionError as difference:
                    kind = "" if isinstance(difference, Difference) else f" in round {round_number} of seed {seed}"
                    print(f"\nDifference{kind}: {difference}", file=sys.stderr)
                    return 1
            loaded += LINES_A_ROUND
            outcomes.update(result.reasons)
            outcomes.update(stored=result.stored.total(), partial=result.partial, blank=result.blank)
            print(f"\r{loaded:,} of {lines:,} lines", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"{loaded:,} lines of seed {seed} in {time.monotonic() - started:.0f} s, no difference:")
    print(", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common()))
    return 0


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    faults = commands.add_parser("faults", help="load with random faults")
    faults.add_argument("--trials", type=int, default=200, metavar="N", help="how many (default: 200)")
    faults.add_argument("--only", choices=(*EVENTS, *CONNECTIONS), help="one kind of fault (default: all)")
    fuzzing = commands.add_parser("lines", help="load random lines")
    fuzzing.add_argument("--lines", type=int, default=2_000_000, metavar="N", help="how many (default: 2000000)")
    for command in (faults, fuzzing):
        command.add_argument("--seed", type=int, default=1, help="the same seed makes the same trials (default: 1)")
    options = parser.parse_args()
    if options.command == "faults":
        return torture_faults(options.trials, options.seed, options.only)
    return torture_lines(options.lines, options.seed)


if __name__ == "__main__":
    sys.exit(main())
