"""One run on a cluster, from the connection to the end of the run there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from memcload.cancel import Cancel
from memcload.cluster.connection import Cluster, connected
from memcload.cluster.job import Job
from memcload.encode.choice import choose_encoder
from memcload.memcached.routing import Router

_PARTS = 2  # of a window, for each worker
_LARGEST_PART = 24 << 20  # bytes of text
_RECORD_SIZE = 200  # bytes of commands, about
_LONGEST_WINDOW = 5  # seconds, at a limited rate: what is delivered of a window is known at its end


@contextlib.contextmanager
def running(
    address: str, job: Job, router: Router, cancel: Cancel, window_size: int
) -> Iterator[tuple[Cluster, Job, int]]:
    """Give a cluster that is fit for a run, the job with its parts measured for that, and the bytes of a window.

    Args:
        address: of the scheduler, or `local:N`.
        window_size: bytes of commands in a window, for each worker.

    Raises:
        ClusterError: the cluster can't be used, or not any more
    """
    if address.startswith("local:"):
        choose_encoder(job.engine, router, job.ttl, job.pending_bytes)  # compiles once for all workers
    with connected(address, job.run, cancel) as cluster:
        cluster.await_workers(cancel)
        cluster.check_versions(cancel)
        cluster.install(job.timeout, job.max_rate)
        workers = max(1, len(cluster.workers()))
        size = window_size * workers
        if job.max_rate:
            size = min(size, job.max_rate * _RECORD_SIZE * _LONGEST_WINDOW)
        job = dataclasses.replace(job, part_size=max(1, min(_LARGEST_PART, size // (_PARTS * workers))))
        try:
            yield cluster, job, size
        finally:
            cluster.end(job.timeout)
