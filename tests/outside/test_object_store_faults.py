"""An object store where things go wrong: nothing is lost, nothing is loaded twice, and each error names its object."""

from __future__ import annotations

import gzip
import json
import signal
import time
from collections.abc import Callable

import pytest

from tests.outside.loading import PARALLEL, REFERENCE, Loader, Running, both_loaders, run, with_report
from tests.outside.logs import line, numbered
from tests.outside.memcached import Servers, addresses, closed_port, contents, silent_server
from tests.outside.object_store import CUT, LOST, SECRET, Bucket, Headers
from tests.outside.spec import expected
from tests.outside.test_object_store import load_bucket
from tests.outside.trials import wait_until

LOCK = ".memc-load.lock"


def refusing(method: str, key: str, code: str = "AccessDenied", status: int = 403) -> Callable[..., object]:
    """Return a rule that refuses requests of a method for keys that end so."""

    def rule(asked: str, path: str, headers: Headers) -> tuple[int, str] | None:
        return (status, code) if asked == method and path.partition("?")[0].endswith(key) else None

    return rule


# --- a run that dies ------------------------------------------------------------------------------


@both_loaders
def test_a_run_that_dies_between_copy_and_delete_is_put_right_and_nothing_is_loaded_twice(
    bucket: Bucket, servers: Servers, loader: Loader
) -> None:
    first, second = bucket.write_log("in/a.gz", numbered(40, prefix="a")), numbered(40, prefix="b")
    running: list[Running] = []

    def kill(method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        if method != "DELETE" or not path.endswith("/in/a.gz"):
            return None
        running[0].process.kill()
        return 503, "SlowDown"

    bucket.gate.rule = kill
    with Running(loader, bucket.url("in/*.gz"), *addresses(servers), environ=bucket.environ()) as loading:
        running.append(loading)
        assert loading.finish().exit_code == -signal.SIGKILL
    bucket.gate.rule = None
    assert bucket.names() == ["in/.a.gz", f"in/{LOCK}", "in/a.gz"]
    assert contents(servers) == expected(first).items
    for server in servers.values():
        server.flush()
    bucket.write_log("in/b.gz", second)
    shorten_lease(bucket, seconds=2)

    finished = load_bucket(loader, bucket, "in/*.gz", servers)

    assert finished.exit_code == 0
    assert finished.statuses() == {"b.gz": "done"}
    assert finished.says("in/a.gz was loaded by a run that ended before it could delete it")
    assert contents(servers) == expected(second).items
    assert bucket.names() == ["in/.a.gz", "in/.b.gz"]


def shorten_lease(bucket: Bucket, seconds: float) -> None:
    """Let the lease of a run that is dead run out soon."""
    content = json.loads(bucket.read(f"in/{LOCK}"))
    assert set(content) >= {"host", "process", "until"}
    bucket.write(f"in/{LOCK}", json.dumps({**content, "seconds": seconds}).encode())


def test_a_copy_that_lacks_the_tags_of_the_original_is_known_by_its_bytes(bucket: Bucket, servers: Servers) -> None:
    """Stores give a copy another ETag, where it was made of parts or is encrypted."""
    data = gzip.compress(numbered(40))
    bucket.write("in/a.gz", data)
    upload = bucket.system.call_s3("create_multipart_upload", Bucket=bucket.name, Key="in/.a.gz.1")
    where = {"Bucket": bucket.name, "Key": "in/.a.gz.1", "UploadId": upload["UploadId"]}
    part = bucket.system.call_s3("upload_part", **where, PartNumber=1, Body=data)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    bucket.system.call_s3("complete_multipart_upload", **where, MultipartUpload=parts)
    assert load_bucket(PARALLEL, bucket, "in/*.gz", servers).report["files"] == []
    assert bucket.names() == ["in/.a.gz.1"]
    assert contents(servers) == {}


def test_a_log_that_only_looks_like_a_done_one_is_loaded(bucket: Bucket, servers: Servers) -> None:
    """One of the same size; one that was delivered once more, later; one whose copy was cut off."""
    bucket.write("in/.a.gz", gzip.compress(numbered(40), mtime=1))
    bucket.write("in/.b", numbered(40, prefix="b"))
    bucket.write("in/.c", numbered(40, prefix="c")[:-1])
    time.sleep(1.1)
    bucket.write("in/a.gz", gzip.compress(numbered(40), mtime=1))
    bucket.write("in/b", numbered(40, prefix="x"))
    bucket.write("in/c", numbered(40, prefix="c"))
    bucket.write("in/.b", numbered(40, prefix="b"))
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.statuses() == {"a.gz": "done", "b": "done", "c": "done"}
    assert bucket.names() == ["in/.a.gz", "in/.a.gz.1", "in/.b", "in/.b.1", "in/.c", "in/.c.1"]


@pytest.mark.parametrize("options", [("--dry", "--log-level", "info"), ("--verify",)])
def test_a_run_that_only_reads_puts_nothing_right_but_leaves_it_out(
    bucket: Bucket, servers: Servers, options: tuple[str, ...]
) -> None:
    bucket.write_log("in/a.gz", numbered(40))
    bucket.system.cp_file(f"{bucket.name}/in/a.gz", f"{bucket.name}/in/.a.gz")
    finished = run(PARALLEL, bucket.url("in/*.gz"), *addresses(servers), *options, environ=bucket.environ())
    assert finished.exit_code == 0
    assert finished.says("No file matches")
    assert bucket.names() == ["in/.a.gz", "in/a.gz"]
    assert {method for method, _ in bucket.gate.seen} <= {"GET", "HEAD"}


# --- one run at a time ----------------------------------------------------------------------------


def test_a_second_run_says_who_is_at_work_and_comes_back_later(bucket: Bucket, servers: Servers) -> None:
    bucket.write_log("in/a.gz", numbered(10))
    with silent_server() as (address, listening):
        options = (*addresses(servers, gaid=address), "--timeout", "60")
        with Running(PARALLEL, bucket.url("in/*"), *options, environ=bucket.environ()) as first:
            connection, _ = listening.accept()
            with connection:
                started = time.monotonic()
                second = run(REFERENCE, bucket.url("in/a*"), *addresses(servers), environ=bucket.environ())
                assert second.exit_code == 75
                assert time.monotonic() - started < 15
                assert [text for text in second.messages("E") if f"process {first.process.pid} " in text]
                assert second.says(bucket.url("in:"), "E")
    assert bucket.names() == [f"in/{LOCK}", "in/a.gz"]


def test_the_lease_of_a_run_that_was_killed_runs_out(bucket: Bucket, servers: Servers) -> None:
    log = bucket.write_log("in/a.gz", numbered(10))
    with silent_server() as (address, listening):
        options = (*addresses(servers, gaid=address), "--timeout", "60")
        with Running(PARALLEL, bucket.url("in/*"), *options, environ=bucket.environ()) as first:
            connection, _ = listening.accept()
            connection.close()
            first.process.kill()
            first.finish()
    assert json.loads(bucket.read(f"in/{LOCK}"))["seconds"] == 20
    shorten_lease(bucket, seconds=4)
    started = time.monotonic()
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 0
    assert time.monotonic() - started > 4
    assert finished.says(f"process {first.process.pid} may be loading it; watching for 4 s", "I")
    assert finished.says(f"process {first.process.pid} has ended without a word; going on", "W")
    assert contents(servers) == expected(log).items
    assert bucket.names() == ["in/.a.gz"]


def test_a_run_whose_lease_was_taken_stops_and_renames_nothing_more(bucket: Bucket, servers: Servers) -> None:
    for number in range(9):
        bucket.write_log(f"in/{number}.gz", numbered(1000, prefix=f"{number}-"))
    slowly = ("--max-rate", "500", "--report", "-")
    with Running(PARALLEL, bucket.url("in/*"), *addresses(servers), *slowly, environ=bucket.environ()) as running:
        wait_until(lambda: "in/.0.gz" in bucket.names())
        bucket.write(f"in/{LOCK}", b'{"host": "elsewhere", "process": 7, "seconds": 20}')
        finished = with_report(running.finish())
    assert finished.exit_code == 1
    assert finished.says("has lost its hold of it", "E")
    assert set(finished.statuses().values()) == {"done", "pending"}
    assert json.loads(bucket.read(f"in/{LOCK}"))["host"] == "elsewhere"
    done = [f"in/.{name}" for name, status in finished.statuses().items() if status == "done"]
    assert [key for key in bucket.names() if key.startswith("in/.") and key != f"in/{LOCK}"] == done


def test_a_store_without_conditional_writes_is_loaded_with_a_warning(bucket: Bucket, servers: Servers) -> None:
    def forget(method: str, path: str, headers: Headers) -> None:
        headers.pop("if-none-match", None)
        if method == "PUT" and "x-amz-copy-source" not in headers:
            headers.pop("if-match", None)

    bucket.gate.rule = forget
    log = bucket.write_log("in/a.gz", numbered(10))
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 0
    assert finished.says("the store ignores conditional writes", "W")
    assert contents(servers) == expected(log).items
    assert bucket.names() == ["in/.a.gz"]


# --- errors ---------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_told_quickly(bucket: Bucket, servers: Servers) -> None:
    with closed_port() as address:
        started = time.monotonic()
        environ = bucket.environ(AWS_ENDPOINT_URL=f"http://{address}")
        finished = run(PARALLEL, bucket.url("in/*"), *addresses(servers), environ=environ)
    assert finished.exit_code == 1
    assert finished.says(f"{bucket.url('in')}: the store can't be reached", "E")
    assert time.monotonic() - started < 20


def test_credentials_that_are_missing_or_wrong_are_told_and_never_shown(bucket: Bucket, servers: Servers) -> None:
    bucket.write_log("in/a.gz", numbered(10))
    environ = {name: value for name, value in bucket.environ().items() if "KEY" not in name}
    options = (*addresses(servers), "--log-level", "debug")
    finished = run(PARALLEL, bucket.url("in/*"), *options, environ=environ)
    assert finished.exit_code == 1
    assert finished.says(f"{bucket.url('in')}: no credentials", "E"), finished.log
    bucket.gate.rule = lambda *_: (403, "InvalidAccessKeyId")
    finished = run(PARALLEL, bucket.url("in/*"), *options, environ=bucket.environ())
    assert finished.exit_code == 1
    assert finished.says(f"{bucket.url('in')}: the store refuses it (InvalidAccessKeyId", "E")
    assert SECRET not in "".join(finished.log)


def test_a_delete_that_is_denied_is_told_and_put_right_once_it_is_allowed(bucket: Bucket, servers: Servers) -> None:
    log = bucket.write_log("in/a.gz", numbered(40))
    bucket.gate.rule = refusing("DELETE", "/a.gz")  # type: ignore[assignment]
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 1
    assert finished.file("a.gz")["reason"] == "rename_failed"
    assert "not deleted" in finished.file("a.gz")["detail"]
    assert contents(servers) == expected(log).items
    for server in servers.values():
        server.flush()

    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 1
    assert finished.file("a.gz")["reason"] == "not_renamable"
    assert contents(servers) == {}

    bucket.gate.rule = None
    assert load_bucket(PARALLEL, bucket, "in/*", servers).exit_code == 0
    assert bucket.names() == ["in/.a.gz"]
    assert contents(servers) == {}


def test_a_bucket_that_can_only_be_read_is_refused_before_anything_is_loaded(bucket: Bucket, servers: Servers) -> None:
    bucket.write_log("in/a.gz", numbered(40))
    bucket.gate.rule = refusing("PUT", "")  # type: ignore[assignment]
    finished = run(PARALLEL, bucket.url("in/*"), *addresses(servers), environ=bucket.environ())
    assert finished.exit_code == 1
    assert finished.says(f"{bucket.url('in')}: it can't be held", "E"), finished.log
    assert contents(servers) == {}


def test_a_copy_that_is_denied_leaves_the_file_as_it_was(bucket: Bucket, servers: Servers) -> None:
    bucket.write_log("in/a.gz", numbered(40))
    bucket.write_log("in/b.gz", numbered(40))
    bucket.gate.rule = refusing("PUT", "/.a.gz")  # type: ignore[assignment]
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 1
    assert finished.file("a.gz")["reason"] == "rename_failed"
    assert finished.file("b.gz")["reason"] == "earlier_file_pending"
    assert finished.says(bucket.url("in/a.gz"), "E")
    assert bucket.names() == ["in/a.gz", "in/b.gz"]


def test_an_object_that_vanished_is_an_error_and_holds_nothing_back(bucket: Bucket, servers: Servers) -> None:
    for name in "ab":
        bucket.write_log(f"in/{name}.gz", numbered(40, prefix=name))

    def vanish(method: str, path: str, headers: Headers) -> None:
        if method == "HEAD" and path.endswith("/a.gz"):
            bucket.delete("in/a.gz")

    bucket.gate.rule = vanish
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 1
    assert finished.statuses() == {"a.gz": "error", "b.gz": "done"}
    assert finished.says(f"{bucket.url('in/a.gz')}: there is no such object", "E")


@pytest.mark.parametrize("when", ["GET", "PUT"])
def test_an_object_that_is_replaced_meanwhile_is_loaded_again(bucket: Bucket, servers: Servers, when: str) -> None:
    bucket.write_log("in/a.gz", numbered(40))
    later = numbered(40, prefix="later")

    def replace(method: str, path: str, headers: Headers) -> None:
        if method == when and path.endswith("a.gz"):  # read, or copied
            bucket.gate.rule = None
            bucket.write_log("in/a.gz", later)

    bucket.gate.rule = replace
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 1
    assert finished.file("a.gz")["reason"] == {"GET": "changed", "PUT": "rename_failed"}[when]
    assert bucket.names() == ["in/a.gz"]
    assert load_bucket(PARALLEL, bucket, "in/*", servers).exit_code == 0
    assert contents(servers).items() >= expected(later).items.items()
    assert bucket.names() == ["in/.a.gz"]


def test_a_connection_that_breaks_is_made_again(bucket: Bucket, servers: Servers) -> None:
    log = numbered(100_000)
    bucket.write("in/a.tsv", log)
    cuts = iter((5_000, 1_500_000, 0))

    def cut(method: str, path: str, headers: Headers) -> None:
        if method == "GET" and path.endswith("a.tsv") and (after := next(cuts, None)) is not None:
            headers[CUT] = str(after)

    bucket.gate.rule = cut
    assert load_bucket(PARALLEL, bucket, "in/*", servers).exit_code == 0
    assert next(cuts, None) is None
    assert contents(servers) == expected(log).items


@pytest.mark.parametrize("answer", [None, (409, "ConditionalRequestConflict")], ids=["lost", "collided"])
def test_what_was_not_answered_or_met_another_request_is_asked_for_again(
    bucket: Bucket, servers: Servers, answer: tuple[int, str] | None
) -> None:
    """Whoever asks again for what was done is told that somebody did it: the lease is this run's all the same."""
    log = bucket.write_log("in/a.gz", numbered(40))
    lost: set[tuple[str, str]] = set()

    def lose(method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        if method not in ("PUT", "DELETE") or (method, path) in lost:
            return None
        lost.add((method, path))
        headers[LOST if answer is None else "x-test"] = "yes"
        return answer

    bucket.gate.rule = lose
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 0, finished.log
    assert len(lost) == 4  # the lease, the copy, both deletions
    assert finished.messages("WE") == []
    assert contents(servers) == expected(log).items
    assert bucket.names() == ["in/.a.gz"]


def test_a_connection_that_keeps_breaking_is_an_error(bucket: Bucket, servers: Servers) -> None:
    bucket.write("in/a.tsv", numbered(1000))
    bucket.write_log("in/b.gz", numbered(10))

    def cut(method: str, path: str, headers: Headers) -> None:
        if method == "GET" and path.endswith("a.tsv"):
            headers[CUT] = "100"

    bucket.gate.rule = cut
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.exit_code == 1
    assert finished.statuses() == {"a.tsv": "error", "b.gz": "done"}
    assert finished.file("a.tsv")["reason"] == "not_readable"


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loader", "method", "key"),
    [
        (PARALLEL, "GET", "/"),
        (PARALLEL, "HEAD", LOCK),
        (PARALLEL, "HEAD", "/a.gz"),
        (PARALLEL, "GET", "/a.gz"),
        (PARALLEL, "PUT", "/.a.gz"),
        (PARALLEL, "DELETE", "/a.gz"),
        (REFERENCE, "GET", "/a.gz"),
        (REFERENCE, "PUT", "/.a.gz"),
    ],
)
def test_a_signal_ends_a_run_in_time_whatever_the_store_keeps_waiting(
    bucket: Bucket, servers: Servers, loader: Loader, method: str, key: str
) -> None:
    bucket.write_log("in/a.gz", numbered(40))
    bucket.write_log("in/b.gz", line())
    waiting: list[str] = []

    def wait(asked: str, path: str, headers: Headers) -> tuple[int, str] | None:
        is_it = path.partition("?")[0].endswith(key) or (key == "/" and "list-type" in path)
        if asked != method or not is_it:
            return None
        waiting.append(path)
        time.sleep(12)
        return 503, "SlowDown"

    bucket.gate.rule = wait
    options = (*addresses(servers), "--timeout", "1")
    with Running(loader, bucket.url("in/*"), *options, environ=bucket.environ()) as running:
        wait_until(lambda: waiting)
        running.send(signal.SIGTERM)
        started = time.monotonic()
        finished = running.finish()
    assert finished.exit_code == 143, finished.log
    assert time.monotonic() - started < 6  # the timeout and two seconds, and three more for a busy machine
    assert "in/a.gz" in bucket.names()
