"""What somebody should know or do after a run: a sentence for each."""

from __future__ import annotations

from collections.abc import Sequence

from memcload.file_load import FileLoad
from memcload.memcached.server import Server
from memcload.output.results import Results
from memcload.source.pattern import is_done

_SHOWN_FILES = 3
_MOST_NAMED = 5  # servers, in a sentence


def next_steps(results: Results) -> list[str]:
    """Return a sentence for each thing that somebody has to know, then for each that has to be done now."""
    servers = list(dict.fromkeys(results.servers[partition.server] for partition in results.partitions))
    return [*_about_servers(servers), *_about_pending(results, servers), *_about_others(results)]


def _about_servers(servers: Sequence[Server]) -> list[str]:
    steps = []
    if full := [server for server in servers if server.evictions]:
        evicted = _count(sum(server.evictions for server in full), "item", "items")
        its = "its data does not fit its" if len(full) == 1 else "their data does not fit their"
        steps.append(f"{_joined(full)} evicted {evicted}: {its} memory; give more (memcached -m), or use more servers")
    for power in sorted({server.advised_hash_power for server in servers if server.advised_hash_power}):
        grown = [server for server in servers if server.advised_hash_power == power]
        steps.append(
            f"the hash table of {_joined(grown)} grew, which takes two fifths of memcached's time in a load: "
            f"start memcached with -o hashpower={power}"
        )
    return steps


def _about_pending(results: Results, servers: Sequence[Server]) -> list[str]:
    pending = [file for file in results.files if file.status == "pending" and not file.verdict.is_clean]
    if not pending:
        return []
    causes = [file for file in pending if file.verdict.reason != "earlier_file_pending"]
    steps = [f"{file.path} is pending: {file.verdict.detail}" for file in causes[:_SHOWN_FILES]]
    down = [server for server in servers if server.state == "down"]
    again = "run again with --again" if any(is_done(file.path) for file in pending) else "run again"
    if down:
        advice = f"{again} once {_joined(down)} {'answers' if len(down) == 1 else 'answer'}"
    else:
        advice = f"see above for why, then {again}"
    return [*steps, f"{_count(len(pending), 'file is', 'files are')} pending: {advice}"]


def _about_others(results: Results) -> list[str]:
    steps = []
    for status, advice in (
        ("damaged", "what could be read is loaded; get whole copies of the originals"),
        ("error", "see above, then run again"),
    ):
        if count := sum(file.status == status for file in results.files):
            steps.append(f"{_count(count, 'file', 'files')} with status {status}: {advice}")
    if count := sum(_has_many_rejects(file, results.max_error_rate) for file in results.files):
        steps.append(f"{_count(count, 'file', 'files')} with too many rejected lines: see the .rejects.tsv files")
    return steps


def _has_many_rejects(file: FileLoad, max_error_rate: float) -> bool:
    return file.counts.error_rate > max_error_rate


def _joined(servers: Sequence[Server]) -> str:
    addresses = [server.address for server in servers]
    if len(addresses) > _MOST_NAMED:
        addresses[_MOST_NAMED - 1 :] = [f"{len(addresses) - _MOST_NAMED + 1} more"]
    *others, last = addresses
    return f"{', '.join(others)} and {last}" if others else last


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
