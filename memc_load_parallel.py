#!/usr/bin/env python3
"""The parallel loader: logs of installed apps into memcached, fast and in order."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from memcload.options import NORMAL_ERR_RATE, ParallelOptions, parse_options
from memcload.records import AppsInstalled, parse_appsinstalled

__all__ = ["NORMAL_ERR_RATE", "AppsInstalled", "main", "parse_appsinstalled", "prototest"]


def prototest() -> None:
    """Take samples through protobuf and back. Raises AssertionError where that changes them."""
    from memcload.encode import message  # brings protobuf

    message.prototest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parallel loader; return its exit code."""
    options = parse_options(arguments, (__doc__ or "").splitlines()[0], ParallelOptions)
    if options.test:
        prototest()
        return 0
    from memc_client import MemcacheClient  # imported here, so that --help does not wait for it
    from memcload import run

    if options.check:
        return run.check(options, MemcacheClient)
    load, compare = run.load_in_parallel, run.compare_here
    if options.cluster:
        from memcload.run_on_cluster import compare_on_cluster as compare
        from memcload.run_on_cluster import load_on_cluster as load
    if options.verify:
        return run.verify(options, compare, MemcacheClient)
    return run.main(options, load, MemcacheClient)


if __name__ == "__main__":
    sys.exit(main())
