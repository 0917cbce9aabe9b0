"""Results of runs that never were, for the tests of what is told about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from memcload.counts import Counts
from memcload.file_load import FileLoad
from memcload.memcached.routing import Partition
from memcload.memcached.server import Server
from memcload.outcome import Verdict
from memcload.output.results import Results
from memcload.records import DEVICE_TYPES, Reason

DONE = Verdict("done")


def make_results(
    servers_of_a_type: int = 1,
    files: Sequence[FileLoad] = (),
    *,
    dry: bool = False,
    exit_code: int = 0,
    device_types: Sequence[str] = DEVICE_TYPES,
) -> Results:
    """Return the results of a run over servers host1:1, host2:1 …"""
    partitions: list[Partition] = []
    for device_type in device_types:
        for _ in range(servers_of_a_type):
            number = len(partitions)
            partitions.append(Partition(number, device_type, f"host{number + 1}:1"))
    servers = {p.server: Server(p.server, f"{p.device_type} {p.server}") for p in partitions}
    totals = Counts()
    for file in files:
        totals += file.counts
    return Results(partitions, servers, 0.01, dry, files, totals, 12.3456, exit_code)


def make_file(
    path: str = "/logs/a.gz",
    verdict: Verdict = DONE,
    *,
    stored: int = 0,
    failed: int = 0,
    rejected: int = 0,
    partial: int = 0,
    blank: int = 0,
) -> FileLoad:
    """Return a finalized file. `stored` and `failed` are those of partition 0, `rejected` is for apps."""
    reasons: Counter[Reason] = Counter({"apps": rejected} if rejected else {})
    counts = Counts(Counter({0: stored}), Counter({0: failed}), reasons, partial, blank)
    file = FileLoad(path, counts=counts)
    file.verdict, file.seconds = verdict, 1.25
    return file
