"""The runs on a cluster: what they were told, as the workers get it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from memcload.cancel import Cancel
from memcload.cluster.job import Job
from memcload.log import LOG
from memcload.memcached.routing import Router
from memcload.options import ParallelOptions
from memcload.run import Run, UsageError, VerifyRun
from memcload.sink import NewClient


def load_on_cluster(run: Run) -> None:
    """Load and finalize the files of a run on the workers of a cluster, in order, until the run is cancelled."""
    options = run.options
    assert isinstance(options, ParallelOptions)
    if run.tracker.is_finished:
        return
    job = _job(options, run.router, run.new_client, run.tracker.bytes_to_read)

    def work(address: str) -> None:
        from memcload.cluster.load import load

        load(
            address,
            job,
            run.router,
            run.fleet,
            run.tracker,
            run.cancel,
            window_size=options.window_size,
            dry=options.dry,
        )

    _run(options, run.cancel, work)


def compare_on_cluster(run: VerifyRun) -> None:
    """Compare files with what the servers hold on the workers of a cluster, until the run is cancelled."""
    options = run.options
    job = _job(options, run.router, run.new_client, run.verifier.bytes_to_read)

    def work(address: str) -> None:
        from memcload.cluster.load import verify

        verify(address, job, run.router, run.verifier, run.sink, run.cancel, window_size=options.window_size)

    if run.verifier.files:
        _run(options, run.cancel, work)


def _run(options: ParallelOptions, cancel: Cancel, work: Callable[[str], None]) -> None:
    """Do the work on the cluster; say why where that can't be done, and cancel the run."""
    try:
        from memcload.cluster.load import ClusterError  # Dask is optional, and takes a moment to import
    except ImportError as error:
        raise UsageError(
            f"--cluster needs Dask and NumPy ({error}): pip install -r requirements-cluster.txt"
        ) from error
    assert options.cluster
    try:
        work(options.cluster)
    except ClusterError as error:
        LOG.error("%s", error)
        cancel.set(cause=f"the cluster: {error}")


def _job(options: ParallelOptions, router: Router, new_client: NewClient, pending_bytes: int) -> Job:
    return Job(
        pattern=options.pattern,
        servers=router.servers,
        routing=router.routing,
        new_client=new_client,
        engine=options.engine,
        pending_bytes=pending_bytes,
        block_size=options.block_size,
        sample=options.sample,
        ttl=options.ttl,
        timeout=options.timeout,
        connect_timeout=options.connect_timeout,
        retries=options.retries,
        max_rate=options.max_rate,
        shows_records=options.dry and LOG.isEnabledFor(logging.DEBUG),
        tls=(options.tls_ca, options.tls_cert, options.tls_key) if options.tls else None,
        auth_file=options.auth_file,
    )
