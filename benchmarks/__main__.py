"""Measure the loader side by side with what it is made of and with its rivals.

The tables go to standard output, as Markdown; the results as JSON, a picture and the tables of docs/performance.md to
`docs`. Run it by `make bench`, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.data import DEFAULT_DIRECTORY, SEED, LogStore
from benchmarks.farm import Farms
from benchmarks.goals import goals
from benchmarks.measure import PROJECT, BenchmarkError, Laboratory, cores, say
from benchmarks.picture import draw
from benchmarks.plan import QUICK, Plan
from benchmarks.results import Results
from benchmarks.sections import SECTIONS, measure
from benchmarks.tables import blocks, fill
from tools.servers import MemcachedServer, ServerError

DOCUMENTS = ("performance.md",)  # beside the results: those that have tables of them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; return its exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round on little data, to see that all works")
    parser.add_argument(
        "--only",
        metavar="SECTION",
        choices=SECTIONS,
        action="append",
        help=f"measure only this one of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--rounds", type=int, help="how often each subject is measured")
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY, help="where the logs are kept between runs")
    parser.add_argument(
        "--output", type=Path, help="where the results go (default: docs; with --quick or --only beside the logs)"
    )
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    if options.rounds is not None:
        if options.rounds < 1:
            parser.error(f"{options.rounds} rounds measure nothing")
        plan = replace(plan, rounds=options.rounds)
    output = options.output or (options.data if options.quick or options.only else PROJECT / "docs")
    try:
        results = run(plan, options.data, options.only or SECTIONS)
        write(results, output)
    except (BenchmarkError, ServerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for name, text in blocks(results).items():
        print(f"### {name}\n\n{text}\n")
    return 0


def run(plan: Plan, data: Path, sections: Sequence[str] = SECTIONS) -> Results:
    """Measure sections of a plan. Raises BenchmarkError, ServerError or OSError."""
    with MemcachedServer.start() as server, server.client() as client:
        memcached = client.version().decode()
    setting = {
        "cores": cores(),
        "python": platform.python_version(),
        "memcached": memcached,
        "seed": SEED,
        "rounds": plan.rounds,
    }
    with tempfile.TemporaryDirectory() as certificates:
        laboratory = Laboratory(LogStore(data), Farms(Path(certificates)))
        return Results(setting, measure(plan, laboratory, sections))


def write(results: Results, directory: Path) -> None:
    """Write the results and their picture to a directory, and fill in the documents there. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    data = results.to_json() | {"goals": [goal.to_json() for goal in goals(results)]}
    (directory / "benchmark.json").write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (directory / "benchmark.svg").write_text(draw(results), encoding="utf-8")
    for path in (directory / name for name in DOCUMENTS):
        if path.exists():
            path.write_text(fill(path.read_text(encoding="utf-8"), results), encoding="utf-8")
    say(f"written: benchmark.json and benchmark.svg in {directory}")


if __name__ == "__main__":
    sys.exit(main())
