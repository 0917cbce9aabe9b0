"""The source of object stores on fsspec's memory://, where a test is in the same process as the store."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import fsspec
import pytest

from memcload.cancel import Cancel
from memcload.counts import Reject
from memcload.source import lease, store
from memcload.source.holding import DirectoryHeld
from memcload.source.lease import Lease
from memcload.source.pattern import PatternError
from memcload.source.remote import RemoteSource
from memcload.source.store import Store
from memcload.source.store_errors import Stopped, explained


@pytest.fixture
def memory() -> Iterator[Any]:
    """An empty store."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make leases run out soon."""
    monkeypatch.setattr(lease, "_GOOD_FOR", 1.0)
    monkeypatch.setattr(lease, "_RENEWED_EVERY", 0.1)
    monkeypatch.setattr(lease, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(lease, "_WATCHED_EVERY", 0.05)
    monkeypatch.setattr(lease, "_MARGIN", 0.3)


def source(pattern: str = "memory://in/*", **options: Any) -> RemoteSource:
    return RemoteSource(pattern, Cancel(), 1.0, **options)


def names(memory: Any) -> list[str]:
    return sorted(memory.store)


def test_files_are_found_read_and_renamed(memory: Any) -> None:
    for name in ("b", "a", ".done"):
        memory.pipe_file(f"/in/{name}", gzip.compress(name.encode() + b"\n"))
    found = source()
    assert found.find() == ["memory://in/a", "memory://in/b"]
    with found.lock() as directories:
        assert directories == {"memory://in"}
        assert "/in/.memc-load.lock" in memory.store
        for path in found.find():
            file = found.open(path)
            assert b"".join(map(bytes, file.texts(100))) == path[-1:].encode() + b"\n"
            assert file.is_unchanged()
            assert found.finalize(path, damaged=path.endswith("b")) in ("memory://in/.a", "memory://in/.b.damaged")
    assert names(memory) == ["/in/.a", "/in/.b.damaged", "/in/.done"]


def test_a_file_at_the_top_of_a_store(memory: Any) -> None:
    memory.pipe_file("/a", b"x\n")
    found = source("memory://*")
    with found.lock():
        (path,) = found.find()
        assert b"".join(map(bytes, found.open(path).texts(10))) == b"x\n"
        assert found.finalize(path, damaged=False) == "memory://.a"
    assert names(memory) == ["/.a"]


def test_done_files_are_found_in_the_order_in_which_they_came(memory: Any) -> None:
    for name in ("a", ".a.10", ".a.2", ".a", ".b", ".a.damaged", ".a.rejects.tsv", ".other.x"):
        memory.pipe_file(f"/in/{name}", name.encode())
    paths = source("memory://in/[ab]", with_done=True).find()
    assert paths == [f"memory://in/{name}" for name in (".a", ".a.2", ".a.10", "a", ".b")]


def test_what_a_dead_run_has_copied_is_deleted_under_a_lock_only(memory: Any) -> None:
    memory.pipe_file("/in/a", b"x\n")
    memory.cp_file("/in/a", "/in/.a")
    found = source()
    assert found.find() == []
    assert names(memory) == ["/in/.a", "/in/a"]
    with found.lock():
        assert found.find() == []
    assert names(memory) == ["/in/.a"]


def test_a_file_that_is_replaced_before_it_is_renamed_keeps_its_name(memory: Any) -> None:
    memory.pipe_file("/in/a", b"x\n")
    found = source()
    with found.lock():
        file = found.open("memory://in/a")
        list(file.texts(10))
        memory.pipe_file("/in/a", b"y\n")
        assert not file.is_unchanged()
        with pytest.raises(OSError, match="replaced"):
            found.finalize("memory://in/a", damaged=False)
    assert memory.cat_file("/in/a") == b"y\n"
    assert names(memory) == ["/in/a"]


def test_rejects_are_saved_beside_the_file_and_never_over_others(memory: Any) -> None:
    memory.pipe_file("/in/.a.rejects.tsv", b"old")
    with closing(source().new_rejects("memory://in/a", None, 10)) as rejects:
        rejects.add(7, Reject(6, "columns", b"wrong"))
        assert rejects.save(0o644) == "memory://in/.a.rejects.tsv.1"
    assert memory.cat_file("/in/.a.rejects.tsv.1") == b"7\tcolumns\twrong\n"
    assert memory.cat_file("/in/.a.rejects.tsv") == b"old"


def test_an_archive_that_its_store_would_cut_is_refused(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/in/a", b"x\n")
    info = type(memory).info
    monkeypatch.setattr(type(memory), "info", lambda *args: {**info(*args), "contentEncoding": "gzip"})
    with pytest.raises(OSError, match="remove that property"):
        source().open("memory://in/a")


def test_a_young_file_is_left_where_that_is_asked(memory: Any) -> None:
    memory.pipe_file("/in/a", b"x\n")
    assert source(min_age=60).find() == []
    assert source(min_age=0.0).find() == ["memory://in/a"]


def test_a_directory_that_is_not_there_is_an_error(memory: Any) -> None:
    with pytest.raises(PatternError, match=r"memory://gone: there is nothing of this name"):
        source("memory://gone/*").find()


def test_a_lease_is_renewed_and_keeps_another_run_out(memory: Any) -> None:
    ours, theirs = (Lease(Store("memory://x", Cancel(), 1), "memory://in", Cancel()) for _ in range(2))
    ours.acquire()
    try:
        with pytest.raises(DirectoryHeld, match=r"memory://in: .*process \d+ is loading it"):
            theirs.acquire()
        time.sleep(1.5)  # longer than it is good for
        ours.check()
    finally:
        ours.release()
    theirs.acquire()
    theirs.release()
    assert names(memory) == []


def test_a_lease_that_runs_out_is_taken_over_and_stops_the_run_that_had_it(memory: Any) -> None:
    cancel = Cancel()
    ours, theirs = (Lease(Store("memory://x", Cancel(), 1), "memory://in", one) for one in (cancel, Cancel()))
    ours._renew_again_and_again = lambda: None  # type: ignore[method-assign]
    ours._renewer = type(ours._renewer)(target=lambda: None)  # as if the process were frozen
    ours.acquire()
    theirs.acquire()
    with pytest.raises(Stopped, match="lost its hold"):
        ours.check()
    assert cancel.wait(1)
    assert cancel.cause == "the loss of its hold of memory://in"
    ours.release()
    assert names(memory) == ["/in/.memc-load.lock"]
    theirs.release()
    assert names(memory) == []


def test_the_leases_of_a_dead_run_are_outwaited_all_at_a_time(memory: Any) -> None:
    for number in range(10):
        memory.pipe_file(f"/in/{number}/a", b"x\n")
        memory.pipe_file(f"/in/{number}/.memc-load.lock", b"{}")
    started = time.monotonic()
    with source("memory://in/*/a").lock() as directories:
        assert len(directories) == 10
        assert time.monotonic() - started < 5
    assert names(memory) == [f"/in/{number}/a" for number in range(10)]


def test_a_run_that_finds_one_directory_held_lets_go_of_the_others_at_once(memory: Any) -> None:
    for number in range(3):
        memory.pipe_file(f"/in/{number}/a", b"x\n")
    memory.pipe_file("/in/2/.memc-load.lock", b'{"host": "x", "process": 1, "seconds": 60}')
    ours = Lease(Store("memory://x", Cancel(), 1), "memory://in/1", Cancel())
    ours.acquire()
    started = time.monotonic()
    with pytest.raises(DirectoryHeld, match=r"memory://in/1: .* is loading it"), source("memory://in/*/a").lock():
        pass
    assert time.monotonic() - started < 5
    assert [name for name in names(memory) if "lock" in name] == ["/in/1/.memc-load.lock", "/in/2/.memc-load.lock"]
    ours.release()


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"seconds": "x"}', b"[1]", b'{"seconds": -1}'])
def test_a_lease_that_says_nothing_runs_out_too(memory: Any, content: bytes) -> None:
    memory.pipe_file("/in/.memc-load.lock", content)
    ours = Lease(Store("memory://x", Cancel(), 1), "memory://in", Cancel())
    ours.acquire()
    ours.check()
    ours.release()
    assert names(memory) == []


def test_a_store_that_does_not_answer_is_not_waited_for_without_end(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PATIENCE", 0.3)
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: time.sleep(2))
    with pytest.raises(TimeoutError, match="does not answer"):
        Store("memory://x", Cancel(), 1).entry("memory://in/a")
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Stopped):
        Store("memory://x", cancel, 0.1).entry("memory://in/a")


def test_what_libraries_say_is_told_without_what_may_be_secret() -> None:
    error = RuntimeError("GET https://user:secret@host/bucket/key?X-Amz-Signature=secret failed\nmore secret")
    assert explained(error, "s3://b/k").strerror == "the store says: GET https://host/bucket/key failed"
