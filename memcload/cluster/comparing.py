"""Compares log files with what the servers hold, on the workers of a cluster. Nothing is written.

Parts are read as for a load. Those of a window are compared by one task a partition, which goes on from what the task
of the window before has found: so each key is judged by its last record, as on one host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memcload.cancel import Cancel
from memcload.cluster import tasks
from memcload.cluster.connection import Cluster
from memcload.cluster.job import Job
from memcload.cluster.reader import Part, Reader, deal, note
from memcload.verify import ComparingSink, Verifier

_LOOK_EVERY = 0.05  # seconds, at the cancel token


def compare(
    cluster: Cluster,
    job: Job,
    partitions: int,
    verifier: Verifier,
    sink: ComparingSink,
    cancel: Cancel,
    *,
    window_size: int,
) -> None:
    """Compare the files of a verifier, in order; leave what is found in its sink. Raises ClusterError."""
    reader = Reader(cluster, job, verifier.opened(), 2 * window_size, "1")
    known: dict[int, Any] = {}  # futures, by partition
    compared: dict[str, int] = {}  # the partition of each future of counts
    futures: list[Any] = []  # or Dask would forget the tasks
    parts: list[Part] = []
    windows = 0
    while not cancel.is_set:
        reader.advance()
        if not compared:
            _count(parts, verifier)
            reader.release(parts)
            futures.clear()
            parts = reader.take(window_size)
            if not parts and reader.is_done:
                break
            windows += 1
            for dealt in deal(cluster, parts, partitions, f"{windows}"):
                number, key = dealt.partition, f"{windows}-{dealt.partition}"
                files = [[parts[at].file(segment).number for segment in parts[at].segments] for at in dealt.places]
                before = known.get(number)
                known[number] = cluster.begin(
                    tasks.compare, job, number, before, files, *dealt.groups, key=f"compare-{key}", **dealt.options
                )
                futures.append(cluster.submit(tasks.found_of, known[number], key=f"found-{key}"))
                compared[futures[-1].key] = number
        future = cluster.next_finished(_LOOK_EVERY)
        if future is not None and not reader.add(future) and future.key in compared:
            sink.known[compared.pop(future.key)].found = cluster.result(future)
    reader.cancel()
    if not cancel.is_set:
        for number, future in known.items():
            sink.known[number] = cluster.result(future)


def _count(parts: Sequence[Part], verifier: Verifier) -> None:
    """Add what was read of parts to a verifier's accounts."""
    for part in parts:
        for segment in part.segments:
            file = part.file(segment)
            verifier.current = file
            verifier.records_seen += sum(segment.records) + len(segment.rejects)
            verifier.rejects_seen += len(segment.rejects)
            note(file, segment)
            if segment.end is not None:
                verifier.finish(file)
