#!/usr/bin/env python3
"""The parallel loader: logs of installed apps into memcached, fast and in order."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from memc_client import MemcacheClient
from memcload import run
from memcload.encode.message import prototest
from memcload.options import NORMAL_ERR_RATE, ParallelOptions, parse_options
from memcload.records import AppsInstalled, parse_appsinstalled

__all__ = ["NORMAL_ERR_RATE", "AppsInstalled", "main", "parse_appsinstalled", "prototest"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parallel loader; return its exit code."""
    options = parse_options(arguments, (__doc__ or "").splitlines()[0], ParallelOptions)
    if options.test:
        prototest()
        return run.EXIT_OK
    if options.verify:
        return run.verify(options, MemcacheClient)
    return run.main(options, run.load_in_parallel, MemcacheClient)


if __name__ == "__main__":
    sys.exit(main())
