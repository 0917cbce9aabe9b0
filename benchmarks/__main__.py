"""Measure the loader side by side with what it is made of, and write a table, a JSON file and a picture.

The tables go to standard output, as Markdown. Run it by `make bench`, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.data import DEFAULT_DIRECTORY, LogStore
from benchmarks.measure import PROJECT, BenchmarkError, Laboratory, say
from benchmarks.picture import draw
from benchmarks.results import Results
from benchmarks.subjects import Plan
from benchmarks.tables import markdown, to_json
from tools.servers import ServerError, four_servers

SERVER_MEMORY = 1024  # megabytes each, enough for the largest log: nothing is evicted
QUICK = Plan(rounds=2, records=40_000, small=4_000, largest=200_000, workers=(1, 2, 4))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line asks for; return its exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two rounds on little data, to see that all works")
    parser.add_argument("--rounds", type=int, help="how often every subject is measured")
    parser.add_argument("--records", type=int, help="records of the log that most subjects load")
    parser.add_argument("--small", type=int, help="records of the log that the slow subjects load")
    parser.add_argument("--largest", type=int, help="records of the log that the fast subjects load")
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY, help="where the logs are kept between runs")
    parser.add_argument(
        "--output",
        type=Path,
        help="where the JSON file and the picture go (default: docs, with --quick beside the logs)",
    )
    options = parser.parse_args(arguments)
    usual = QUICK if options.quick else Plan()
    asked = {name: vars(options)[name] for name in ("rounds", "records", "small", "largest")}
    try:
        plan = replace(usual, **{name: number for name, number in asked.items() if number is not None})
    except ValueError as error:
        parser.error(str(error))
    output = options.output or (options.data if options.quick else PROJECT / "docs")
    try:
        print(run(plan, options.data, output))
    except (BenchmarkError, ServerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run(plan: Plan, data: Path, output: Path) -> str:
    """Measure, write benchmark.json and benchmark.svg into `output`, and return the tables.

    Raises BenchmarkError, ServerError or OSError; the message says what went wrong.
    """
    with four_servers("-m", str(SERVER_MEMORY)) as servers:
        with next(iter(servers.values())).client() as client:
            versions = {"Python": platform.python_version(), "memcached": client.version().decode()}
        results = Results(plan, Laboratory(servers, LogStore(data)).rounds(plan))
    output.mkdir(parents=True, exist_ok=True)
    numbers, picture = output / "benchmark.json", output / "benchmark.svg"
    numbers.write_text(json.dumps(to_json(results, versions), indent=2, allow_nan=False) + "\n")
    picture.write_text(draw(results), encoding="utf-8")
    say(f"written: {numbers} and {picture}")
    return markdown(results, versions)


if __name__ == "__main__":
    sys.exit(main())
