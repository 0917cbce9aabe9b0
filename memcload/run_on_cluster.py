"""The load of a run on a cluster: what it was told, as the workers get it."""

from __future__ import annotations

import logging

from memcload.cluster.job import Job
from memcload.log import LOG
from memcload.options import ParallelOptions
from memcload.run import Run, UsageError


def load_on_cluster(run: Run) -> None:
    """Load and finalize the files of a run on the workers of a cluster, in order, until the run is cancelled."""
    try:
        from memcload.cluster.load import ClusterError, load  # Dask is optional, and takes a moment to import
    except ImportError as error:
        raise UsageError(
            f"--cluster needs Dask and NumPy ({error}): pip install -r requirements-cluster.txt"
        ) from error
    options = run.options
    assert isinstance(options, ParallelOptions)
    assert options.cluster
    if run.tracker.is_finished:
        return
    job = Job(
        pattern=options.pattern,
        servers=run.router.servers,
        routing=run.router.routing,
        new_client=run.new_client,
        engine=options.engine,
        pending_bytes=run.tracker.bytes_to_read,
        block_size=options.block_size,
        ttl=options.ttl,
        timeout=options.timeout,
        connect_timeout=options.connect_timeout,
        retries=options.retries,
        max_rate=options.max_rate,
        shows_records=options.dry and LOG.isEnabledFor(logging.DEBUG),
        tls=(options.tls_ca, options.tls_cert, options.tls_key) if options.tls else None,
        auth_file=options.auth_file,
    )
    try:
        load(
            options.cluster,
            job,
            run.router,
            run.fleet,
            run.tracker,
            run.cancel,
            window_size=options.window_size,
            dry=options.dry,
        )
    except ClusterError as error:
        LOG.error("%s", error)
        run.cancel.set(cause=f"the cluster: {error}")
