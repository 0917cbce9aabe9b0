"""Loads while something goes wrong, and what has to be true afterwards.

What goes wrong goes wrong at a place, not at a time: a proxy in front of the server of one device type sees how
far the load has come, and does the harm then.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.outside.loading import PARALLEL, Finished, Loader, load
from tests.outside.logs import Inbox
from tests.outside.memcached import Servers, contents
from tests.outside.spec import TYPES, expected

RETRIES = 2
HURRIED = ("--timeout", "0.3", "--connect-timeout", "0.3", "--retries", str(RETRIES))
PERSISTENT = ("--timeout", "0.3", "--connect-timeout", "0.3", "--retries", "10")
BOUND = 20.0  # seconds, several times what a load with HURRIED takes at worst
MIDDLE = 3000  # bytes of requests for one device type, in the middle of the first file
MIDDLE_OF_SECOND = 12_000
BEGINNING_OF_SECOND = 9_000


def hurried_load(loader: Loader, inbox: Inbox, servers: Servers, *options: str, **other: str) -> Finished:
    """Load with little patience, and see that it has an end."""
    started = time.monotonic()
    finished = load(loader, inbox.pattern, servers, *HURRIED, *options, **other)
    assert time.monotonic() - started < BOUND
    return finished


def persistent_load(loader: Loader, inbox: Inbox, servers: Servers, *options: str, **other: str) -> Finished:
    """Load with many retries."""
    return load(loader, inbox.pattern, servers, *PERSISTENT, *options, **other)


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until something is so, for at most 20 seconds."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_others_are_served(finished: Finished, inbox: Inbox, victim: str = "idfa") -> None:
    """Check that only records of the victim failed."""
    stored = expected(*inbox.logs).stored
    for name in TYPES:
        device = finished.device(name)
        if name != victim:
            assert (device["stored"], device["failed"]) == (stored[name], 0)
    assert finished.device(victim)["stored"] + finished.device(victim)["failed"] == stored[victim]


def assert_all_pending(finished: Finished, inbox: Inbox) -> None:
    """Check that a load ended with 1 and renamed nothing."""
    assert finished.exit_code == 1
    assert set(finished.statuses().values()) == {"pending"}
    assert inbox.renamed() == []


def assert_loaded(finished: Finished, inbox: Inbox, servers: Servers) -> None:
    """Check that a load came to its end, and left what the specification says."""
    assert finished.exit_code == 0
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items
    assert {name: finished.report["totals"][name] for name in expected().counts()} == expected(*inbox.logs).counts()


def assert_next_load_mends(inbox: Inbox, servers: Servers) -> None:
    """Check that a load without a fault, after one with it, leaves what one load would have left."""
    assert hurried_load(PARALLEL, inbox, servers).exit_code == 0
    assert inbox.waiting() == []
    assert contents(servers) == expected(*inbox.logs).items


def assert_renamed_files_are_there(inbox: Inbox, servers: Servers) -> None:
    """Check that each key of a renamed file holds its last record there, or one that came later."""
    done = len(inbox.renamed())
    assert inbox.renamed() == [f"{number}.tsv.gz" for number in range(done)]
    held = contents(servers)
    newer = {item for part in b"".join(inbox.logs[done:]).splitlines() for item in expected(part).items.items()}
    assert [
        key
        for key, item in expected(*inbox.logs[:done]).items.items()
        if held.get(key) != item and (key, held.get(key)) not in newer
    ] == []
