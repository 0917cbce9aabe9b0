#!/usr/bin/env python3
"""The parallel loader: logs of installed apps into memcached, fast and in order."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

from memcload.cancel import end_at_interrupt

if __name__ == "__main__":
    end_at_interrupt()  # before the imports that take a while

from memcload.options import NORMAL_ERR_RATE, ParallelOptions, parse_options
from memcload.records import AppsInstalled, parse_appsinstalled

_DESCRIPTION = (__doc__ or "").partition("\n")[0]  # Python leaves docstrings out if it is told so

__all__ = ["NORMAL_ERR_RATE", "AppsInstalled", "main", "parse_appsinstalled", "prototest"]


def prototest() -> None:
    """Take samples through protobuf and back. Raises AssertionError where that changes them."""
    from memcload.encode import message  # brings protobuf

    message.prototest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parallel loader; return its exit code."""
    if arguments is None:
        end_at_interrupt()
    options = parse_options(arguments, _DESCRIPTION, ParallelOptions)
    if options.test:
        prototest()
        return 0
    from memc_client import MemcacheClient  # imported here, as is what each mode needs: most of a short run is imports

    if options.check:
        from memcload.run_check import check

        return check(options, MemcacheClient)
    if options.verify:
        from memcload.run_verify import compare_here as compare
        from memcload.run_verify import verify

        if options.cluster:
            from memcload.run_on_cluster import compare_on_cluster as compare
        return verify(options, compare, MemcacheClient)
    from memcload import run

    load = run.load_in_parallel
    if options.cluster:
        from memcload.run_on_cluster import load_on_cluster as load
    if arguments is None:
        gc.freeze()  # this process is the load's own: what is imported stays, and need not be looked at again,
        gc.set_threshold(100_000)  # nor what becomes of thousands of files, again and again
    return run.main(options, load, MemcacheClient)


if __name__ == "__main__":
    sys.exit(main())
