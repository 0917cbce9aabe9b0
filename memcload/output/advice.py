"""What somebody should know or do after a run: a sentence for each."""

from __future__ import annotations

from collections.abc import Sequence

from memcload.file_load import FileLoad
from memcload.memcached.server import Server
from memcload.output.results import Results
from memcload.source.pattern import is_done

_SHOWN_FILES = 3
_NAMED_SERVERS = 5  # in a sentence, at most


def next_steps(results: Results) -> list[str]:
    """Return a sentence for each thing that somebody has to know, then for each that has to be done now."""
    servers = list(dict.fromkeys(results.servers[partition.server] for partition in results.partitions))
    return [*_about_servers(servers), *_about_pending(results, servers), *_about_others(results)]


def _about_servers(servers: Sequence[Server]) -> list[str]:
    steps = [
        f"{server.label} evicted {server.evictions} items during this run: "
        "the data does not fit its memory (memcached -m)"
        for server in servers
        if server.evictions
    ]
    for power in sorted({server.advised_hash_power for server in servers if server.advised_hash_power}):
        grown = [server for server in servers if server.advised_hash_power == power]
        tables, them = ("hash table", "it") if len(grown) == 1 else ("hash tables", "them")
        steps.append(
            f"the {tables} of {_joined(grown)} grew during the load{_growth(grown)}, which takes two fifths of "
            f"memcached's time: start {them} with -o hashpower={power}"
        )
    return steps


def _growth(servers: Sequence[Server]) -> str:
    """Return from what size to what size hash tables grew, as far as the servers tell."""
    before = [2**server.hash_table_before.power for server in servers if server.hash_table_before]
    after = [2**server.hash_table.power for server in servers if server.hash_table]
    if not (before and after) or min(before) >= max(after):
        return ""
    return f" from {min(before):,} to {max(after):,} buckets"


def _about_pending(results: Results, servers: Sequence[Server]) -> list[str]:
    pending = [file for file in results.files if file.status == "pending" and not file.verdict.is_clean]
    if not pending:
        return []
    causes = [file for file in pending if file.verdict.reason != "earlier_file_pending"]
    steps = [f"{file.path} is pending: {file.verdict.detail}" for file in causes[:_SHOWN_FILES]]
    down = [server for server in servers if server.state == "down"]
    advice = "run again with --again" if any(is_done(file.path) for file in pending) else "run again"
    if down:
        advice += f" once {_joined(down)} {'answers' if len(down) == 1 else 'answer'}"
    elif all(file.verdict.reason == "still_being_written" for file in causes) and advice == "run again":
        advice = "the next run will try again"
    return [*steps, f"{_count(len(pending), 'file is', 'files are')} pending: {advice}"]


def _about_others(results: Results) -> list[str]:
    steps = []
    damaged = [file for file in results.files if file.status == "damaged"]
    errors = [file for file in results.files if file.status == "error"]
    if damaged:
        loaded = "" if results.dry else "what could be read was loaded; "
        copies = "an intact copy" if len(damaged) == 1 else "intact copies"
        steps.append(f"{_count(len(damaged), 'file is', 'files are')} damaged: {loaded}ask the writer for {copies}")
    for is_loaded, what in ((False, "could not be loaded"), (True, "could not be renamed after the load")):
        if files := [file for file in errors if (file.verdict.reason == "rename_failed") == is_loaded]:
            it = "it" if len(files) == 1 else "them"
            steps.append(
                f"{_count(len(files), 'file', 'files')} {what}: fix what the log says about {it}, then run again"
            )
    for saved in (True, False):
        files = [file for file in results.files if _has_many_rejects(file, results, saved=saved)]
        if not files:
            continue
        if saved:
            where = "look at its .rejects.tsv file" if len(files) == 1 else "look at their .rejects.tsv files"
        else:
            where = "the log shows the first few; --max-error-rate allows more"
        steps.append(f"{_count(len(files), 'file has', 'files have')} too many rejected lines: {where}")
    return steps


def _has_many_rejects(file: FileLoad, results: Results, *, saved: bool) -> bool:
    return file.counts.error_rate > results.max_error_rate and bool(file.rejects_saved_as) == saved


def _joined(servers: Sequence[Server]) -> str:
    addresses = [server.address for server in servers]
    if len(addresses) > _NAMED_SERVERS:
        addresses[_NAMED_SERVERS - 1 :] = [f"{len(addresses) - _NAMED_SERVERS + 1} more"]
    *others, last = addresses
    return f"{', '.join(others)} and {last}" if others else last


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
