"""One run on a cluster, from the connection to the end of the run there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from memcload.cancel import Cancel
from memcload.cluster.comparing import compare
from memcload.cluster.connection import Cluster, connected
from memcload.cluster.coordinator import Coordinator
from memcload.cluster.failure import ClusterError
from memcload.cluster.job import Job
from memcload.encode.choice import choose_encoder
from memcload.memcached.routing import Router
from memcload.sink import Fleet
from memcload.tracker import Tracker
from memcload.verify import ComparingSink, Verifier

__all__ = ["ClusterError", "load", "verify"]

_PARTS = 4  # of a window, for each worker
_LARGEST_PART = 16 << 20  # bytes of text
_RECORD_SIZE = 200  # bytes of commands, about
_LONGEST_WINDOW = 5  # seconds, at a limited rate: what is delivered of a window is known at its end


def load(
    address: str,
    job: Job,
    router: Router,
    fleet: Fleet,
    tracker: Tracker,
    cancel: Cancel,
    *,
    window_size: int,
    dry: bool,
) -> None:
    """Load and finalize the files of a run, in order, until it is cancelled.

    Args:
        address: of the scheduler, or `local:N`.
        window_size: bytes of commands in a window, for each worker.
        dry: store nothing.

    Raises:
        ClusterError: the cluster can't be used, or not any more.
    """
    with _running(address, job, router, cancel, window_size) as (cluster, job, size):
        Coordinator(cluster, job, router, fleet, tracker, cancel, window_size=size, dry=dry).load()


def verify(
    address: str,
    job: Job,
    router: Router,
    verifier: Verifier,
    sink: ComparingSink,
    cancel: Cancel,
    *,
    window_size: int,
) -> None:
    """Compare files with what the servers hold, until the run is cancelled. Raises ClusterError.

    Args as for `load`; what is found is left in the verifier and in the sink.
    """
    with _running(address, job, router, cancel, window_size) as (cluster, job, size):
        compare(cluster, job, len(router.partitions), verifier, sink, cancel, window_size=size)


@contextlib.contextmanager
def _running(
    address: str, job: Job, router: Router, cancel: Cancel, window_size: int
) -> Iterator[tuple[Cluster, Job, int]]:
    """Give a cluster that is fit for a run, the job with its parts measured for that, and the bytes of a window."""
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
