"""The runs on a cluster: what they were told, as the workers get it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from memcload.cancel import Cancel
from memcload.cluster.failure import ClusterError
from memcload.cluster.job import Job
from memcload.log import LOG
from memcload.memcached.routing import Router
from memcload.options import ParallelOptions
from memcload.run import Run
from memcload.run_verify import VerifyRun
from memcload.session import UsageError
from memcload.sink import NewClient
from memcload.source.places import absolute

if TYPE_CHECKING:
    from memcload.cluster.connection import Cluster


def load_on_cluster(run: Run) -> None:
    """Load and finalize the files of a run on the workers of a cluster, in order, until the run is cancelled."""
    options = run.options
    assert isinstance(options, ParallelOptions)
    if run.tracker.is_finished:
        return
    job = _job(options, run.router, run.new_client, run.tracker.bytes_to_read)

    def load(cluster: Cluster, job: Job, size: int) -> None:
        from memcload.cluster.coordinator import Coordinator

        Coordinator(
            cluster, job, run.router, run.fleet, run.tracker, run.cancel, window_size=size, dry=options.dry
        ).load()

    _run(options, job, run.router, run.cancel, load)


def compare_on_cluster(run: VerifyRun) -> None:
    """Compare files with what the servers hold on the workers of a cluster, until the run is cancelled."""
    options = run.options
    if not run.verifier.files:
        return
    job = _job(options, run.router, run.new_client, run.verifier.bytes_to_read)

    def compare(cluster: Cluster, job: Job, size: int) -> None:
        from memcload.cluster import comparing

        partitions = len(run.router.partitions)
        comparing.compare(cluster, job, partitions, run.verifier, run.sink, run.cancel, window_size=size)

    _run(options, job, run.router, run.cancel, compare)


def _run(
    options: ParallelOptions, job: Job, router: Router, cancel: Cancel, work: Callable[[Cluster, Job, int], None]
) -> None:
    """Do the work with what `running` gives; where that can't be done to its end, say why and cancel the run."""
    try:
        from memcload.cluster.running import running  # Dask is optional, and takes a moment to import
    except ImportError as error:
        raise UsageError(
            f"--cluster needs Dask and NumPy ({error}): pip install '.[cluster]' in the checkout"
        ) from error
    assert options.cluster
    try:
        with running(options.cluster, job, router, cancel, options.window_size) as given:
            work(*given)
    except ClusterError as error:
        LOG.error("%s", error)
        cancel.set(cause=f"the cluster: {error}")


def _job(options: ParallelOptions, router: Router, new_client: NewClient, pending_bytes: int) -> Job:
    def there(path: str | None) -> str | None:
        return absolute(path) if path else None

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
        shows_records=options.shows_records,
        tls=(there(options.tls_ca), there(options.tls_cert), there(options.tls_key)) if options.tls else None,
        auth_file=there(options.auth_file),
    )
