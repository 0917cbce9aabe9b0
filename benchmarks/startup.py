"""Start-up taken apart: processes that do one step more each, up to a load of a thousand records."""

from __future__ import annotations

import sys

from benchmarks.data import Logs
from benchmarks.farm import Setup
from benchmarks.measure import Laboratory, run
from benchmarks.plan import live
from benchmarks.results import Figures

LOGS = Logs(1_000)
HELP, VERSION, LOAD = "--help", "--version", "a load of 1,000 records"

_IMPORTS = "import sys, memc_load_parallel, memc_client, memcload.run"
_KERNEL = """
from memcload.encode.choice import choose_encoder
from memcload.memcached.routing import Router
choose_encoder("compiled", Router({"idfa": sys.argv[1:]}), 0, 0)()
"""
_CONNECT = """
memc_client.MemcacheClient(sys.argv[1]).confirm()
"""
_STEPS = {
    "Python itself": "",
    "the program's imports": _IMPORTS,
    "the kernel from its cache": _IMPORTS + _KERNEL,
    "the first connection": _IMPORTS + _KERNEL + _CONNECT,
}


def measure(laboratory: Laboratory) -> dict[str, Figures]:
    """Return for each step how long a process takes that ends with it, and how much that is more than the one before.

    Raises BenchmarkError or ServerError.
    """
    figures: dict[str, Figures] = {}
    before = 0.0
    with laboratory.farms.running(Setup(), LOGS.records) as farm:
        address = farm.all[0].address
        for name, program in _STEPS.items():
            seconds = run(name, sys.executable, "-c", program, address).seconds
            figures[name] = {"milliseconds": seconds * 1000, "more_milliseconds": (seconds - before) * 1000}
            before = seconds
        seconds = laboratory.load(live(LOGS), farm)["whole_seconds"]
        figures[LOAD] = {"milliseconds": seconds * 1000, "more_milliseconds": (seconds - before) * 1000}
    for option in (HELP, VERSION):
        figures[option] = {"milliseconds": run(option, sys.executable, "memc_load_parallel.py", option).seconds * 1000}
    return figures
