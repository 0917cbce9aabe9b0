"""Long trials against real memcached servers: random faults, on one host and on a cluster, and random lines.

    python -m tests.torture faults --trials 200 --seed 1
    python -m tests.torture cluster --trials 100 --seed 1
    python -m tests.torture lines --lines 2000000 --seed 1

Each exits with 1 where something was lost or is different, and says how to see it again.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.outside.clusters import DaskCluster
from tests.outside.fuzzing import Difference, fuzz
from tests.outside.loading import Running
from tests.outside.logs import line
from tests.outside.spec import TYPES
from tests.outside.torture_cluster import CLUSTER_FAULTS, try_cluster_fault
from tests.outside.torture_faults import FAULTS, ROUTINGS, Loss, Servers, try_fault
from tools.servers import four_servers

LINES_A_ROUND = 20_000
TABLE_HEAD = (
    "| what goes wrong | trials | not finished by the first load | records | lost |",
    "| --- | ---: | ---: | ---: | ---: |",
)


def compile_kernels() -> None:
    """Compile the encoder, for every way of routing, where that can be done: `--engine auto` then uses it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(line())
        file.flush()
        for routing in ROUTINGS:
            for servers in ("h:1", "h:1,h:2"):
                where = [part for name in TYPES for part in (f"--{name}", servers)]
                loader = ("memc_load_parallel.py", "--engine", "compiled", "--dry", "--log-level", "error")
                with Running(loader, file.name, *where, "--routing", routing) as running:
                    running.finish()


def torture_faults(options: argparse.Namespace) -> int:
    """Load with faults on one host; return the exit code."""
    compile_kernels()
    with four_servers() as first, four_servers() as second:
        servers = {name: [first[name], second[name]] for name in TYPES}
        return torture(options, FAULTS, servers, partial(try_fault, servers=servers))


def torture_cluster(options: argparse.Namespace) -> int:
    """Load with faults on a cluster; return the exit code."""
    compile_kernels()
    with tempfile.TemporaryDirectory() as scratch, four_servers() as four, DaskCluster(Path(scratch)) as cluster:
        servers = {name: [four[name]] for name in TYPES}
        return torture(
            options, [*CLUSTER_FAULTS], servers, partial(try_cluster_fault, servers=servers, cluster=cluster)
        )


def torture(
    options: argparse.Namespace, faults: Sequence[str], servers: Servers, try_one: Callable[[str, str], tuple[int, int]]
) -> int:
    """Try each fault in its turn and print a table of them, or put it into a file; return the exit code."""
    seed, table = options.seed, options.table
    names = [name for name in faults if options.only in (None, name)]
    tried: Counter[str] = Counter()
    unfinished: Counter[str] = Counter()
    records: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for trial, name in zip(range(options.trials), itertools.cycle(names), strict=False):
        for server in itertools.chain(*servers.values()):
            if not server.running:
                server.restart()
            server.flush()
        tried[name] += 1
        try:
            exit_code, count = try_one(name, f"{seed}/{name}/{tried[name]}")
        except AssertionError as error:
            again = f"{options.command} --only {name!r} --seed {seed} --trials {tried[name]}"
            print(f"\n{error}\nSee it again: {again}", file=sys.stderr)
            lost[name] += error.count if isinstance(error, Loss) else 1
        else:
            unfinished[name] += exit_code != 0
            records[name] += count
        print(f"\r{trial + 1} of {options.trials}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = [f"| {name} | {tried[name]} | {unfinished[name]} | {records[name]:,} | {lost[name]} |" for name in names]
    rows.append(f"| all | {tried.total()} | {unfinished.total()} | {records.total():,} | {lost.total()} |")
    text = "\n".join((*TABLE_HEAD, *rows))
    print(text)
    if table is not None:
        mode = "MODE=cluster " if options.command == "cluster" else ""
        put_table(Path(table), text, f"make torture {mode}N={options.trials} SEED={seed}")
    return 1 if lost else 0


def put_table(path: Path, table: str, command: str) -> None:
    """Put a table, and the command that made it, in the place of those that a document has."""
    begin, _, _ = command.partition("N=")
    document = re.sub(rf"`{begin}N=\d+ SEED=\d+`", f"`{command}`", path.read_text())
    start = document.index(TABLE_HEAD[0])
    end = document.index("\n\n", start)
    path.write_text(document[:start] + table + document[end:])


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
    cluster = commands.add_parser("cluster", help="load on a cluster with random faults")
    for command, kinds in ((faults, FAULTS), (cluster, CLUSTER_FAULTS)):
        command.add_argument("--trials", type=int, default=200, metavar="N", help="how many (default: 200)")
        command.add_argument("--only", choices=kinds, metavar="FAULT", help="one kind of fault (default: all)")
        command.add_argument("--table", metavar="FILE", help="put the table into this document")
    fuzzing = commands.add_parser("lines", help="load random lines")
    fuzzing.add_argument("--lines", type=int, default=2_000_000, metavar="N", help="how many (default: 2000000)")
    for command in (faults, cluster, fuzzing):
        command.add_argument("--seed", type=int, default=1, help="the same seed makes the same trials (default: 1)")
    options = parser.parse_args()
    if options.command == "faults":
        return torture_faults(options)
    if options.command == "cluster":
        return torture_cluster(options)
    return torture_lines(options.lines, options.seed)


if __name__ == "__main__":
    sys.exit(main())
