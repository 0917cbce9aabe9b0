"""A cluster on this machine, to try one."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import distributed

from memcload.cancel import Cancel
from memcload.cluster.failure import ClusterError
from memcload.cluster.patience import patiently

_LocalCluster: Any = distributed.LocalCluster  # Dask has no types, or is not there to be looked at
_START_TIMEOUT = 120.0  # seconds
_THREADS = 2  # of a worker: one that encodes while another stores


@contextlib.contextmanager
def local_workers(workers: int, cancel: Cancel) -> Iterator[Any]:
    """Start worker processes here. They end with this process, however that ends. Raises ClusterError."""

    def start() -> Any:
        # A terminal sends it to them, too, and they would say how it met them. Whoever is started here inherits that;
        # the tracker, which is started with the first, would undo it.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return _LocalCluster(
            n_workers=workers,
            threads_per_worker=_THREADS,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )

    try:
        cluster = patiently({"cluster": start}, cancel, _START_TIMEOUT).get("cluster")
    except ClusterError:
        for child in multiprocessing.active_children():
            child.kill()
        raise
    if cluster is None or isinstance(cluster, Exception):
        raise ClusterError(f"can't start {workers} worker processes: {cluster or 'they do not answer'}")
    try:
        yield cluster
    finally:
        for nanny in cluster.workers.values():  # Dask would wait for what their threads do
            nanny.auto_restart = False
            if nanny.pid:
                with contextlib.suppress(OSError):
                    os.kill(nanny.pid, signal.SIGKILL)
        with contextlib.suppress(Exception):
            cluster.close(timeout=1)
        cluster.shutdown_on_close = False  # Dask would try again, for longer, when this process ends
