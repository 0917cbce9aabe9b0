"""Logs in an object store: found, loaded in their order and renamed as on a disk, by one run at a time."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.outside.loading import (
    DEFAULT,
    PARALLEL,
    PROJECT,
    Finished,
    Loader,
    both_loaders,
    load,
    own_environ,
    run,
    with_report,
)
from tests.outside.logs import line, log_of_few_devices, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.object_store import SECRET, Bucket
from tests.outside.spec import expected


def load_bucket(
    loader: Loader, bucket: Bucket, pattern: str, servers: Servers, *options: str, **environ: str
) -> Finished:
    """Load what a pattern means in a bucket, and read the report."""
    options = (*addresses(servers), "--report", "-", *options)
    return with_report(run(loader, bucket.url(pattern), *options, environ=bucket.environ(**environ)))


def loaded(finished: Finished, bucket: Bucket) -> list[str]:
    """Return the keys of the objects in a report, in its order."""
    return [entry["path"].removeprefix(bucket.url("")) for entry in finished.report["files"]]


# --- found, loaded, renamed -----------------------------------------------------------------------


@both_loaders
def test_objects_are_loaded_in_the_order_of_their_names_and_renamed(
    bucket: Bucket, servers: Servers, loader: Loader
) -> None:
    rng = random.Random(5)
    keys = [f"in/{number:02}.tsv.gz" for number in range(9)]
    logs = [log_of_few_devices(rng, number, lines=200) for number in range(9)]
    for key, log in sorted(zip(keys, logs, strict=True), key=lambda _: rng.random()):
        bucket.write_log(key, log)

    finished = load_bucket(loader, bucket, "in/*.tsv.gz", servers, "--max-error-rate", "0.1")

    assert finished.exit_code == 0
    assert contents(servers) == expected(*logs).items
    assert loaded(finished, bucket) == keys
    assert [entry["renamed_to"] for entry in finished.report["files"]] == [
        bucket.url(key.replace("in/", "in/.")) for key in keys
    ]
    rejects = [f"in/.{number:02}.tsv.gz.rejects.tsv" for number in range(9)]
    assert bucket.names() == sorted([*(key.replace("in/", "in/.") for key in keys), *rejects])
    assert [bucket.read(key) for key in rejects] == [expected(log).rejects_file for log in logs]
    assert [gzip.decompress(bucket.read(key.replace("in/", "in/."))) for key in keys] == logs

    again = load_bucket(loader, bucket, "in/*.tsv.gz", servers)
    assert (again.exit_code, again.report["files"]) == (0, [])
    assert again.says("No file matches")


def test_whatever_a_name_holds_it_is_that_object_which_is_loaded_and_renamed(bucket: Bucket, servers: Servers) -> None:
    keys = ["in/a[1].gz", "in/b*.gz", "in/c?.gz", "in/d e+f%20&g=h.gz", "in/é🙂.gz", "in/#1.gz", "in/'\"<x>.gz"]
    logs = {key: bucket.write_log(key, numbered(8, prefix=f"x{number}") + b"?\n") for number, key in enumerate(keys)}
    similar = ["in/a1.gzip", "in/b1.gzip", "in/c1.gzip", "in/d e f &g=h.gzip"]
    for key in similar:
        bucket.write(key, b"of no concern")

    finished = load_bucket(PARALLEL, bucket, "in/*.gz", servers, "--max-error-rate", "0.5")

    assert finished.exit_code == 0, finished.log
    assert contents(servers) == expected(*logs.values()).items
    done = [key.replace("in/", "in/.") for key in keys]
    assert bucket.names() == sorted([*similar, *done, *(f"{key}.rejects.tsv" for key in done)])


def test_nothing_is_ever_overwritten(bucket: Bucket, servers: Servers) -> None:
    taken = ["in/.a.gz", "in/.a.gz.1", "in/.b.gz.damaged", "in/.a.gz.rejects.tsv"]
    for key in taken:
        bucket.write(key, key.encode())
    bucket.write_log("in/a.gz", numbered(50) + b"wrong\n")
    whole = gzip.compress(numbered(50, prefix="b"))
    bucket.write("in/b.gz", whole[:-20])

    finished = load_bucket(PARALLEL, bucket, "in/*.gz", servers, "--max-error-rate", "0.5")

    assert finished.exit_code == 1
    assert finished.statuses() == {"a.gz": "done", "b.gz": "damaged"}
    assert [bucket.read(key) for key in taken] == [key.encode() for key in taken]
    assert set(bucket.names()) - set(taken) == {"in/.a.gz.2", "in/.b.gz.damaged.1", "in/.a.gz.rejects.tsv.1"}
    assert bucket.read("in/.a.gz.rejects.tsv.1") == b"51\tcolumns\twrong\n"
    assert bucket.read("in/.b.gz.damaged.1") == whole[:-20]


def test_an_object_that_is_young_and_cut_off_is_damaged_and_not_still_being_written(
    bucket: Bucket, servers: Servers
) -> None:
    bucket.write("in/a.gz", gzip.compress(numbered(50))[:-20])
    bucket.write("in/b.tsv", numbered(50)[:-1])
    finished = load_bucket(PARALLEL, bucket, "in/*", servers)
    assert finished.statuses() == {"a.gz": "damaged", "b.tsv": "done"}


def test_rejected_lines_can_be_saved_on_this_machine(bucket: Bucket, servers: Servers, tmp_path: Path) -> None:
    bucket.write_log("in/a.gz", b"wrong\n" + numbered(500))
    assert load_bucket(PARALLEL, bucket, "in/*.gz", servers, "--rejects", str(tmp_path)).exit_code == 0
    assert (tmp_path / ".a.gz.rejects.tsv").read_bytes() == b"1\tcolumns\twrong\n"
    assert bucket.names() == ["in/.a.gz"]


def test_done_objects_are_loaded_again_and_verified(bucket: Bucket, servers: Servers) -> None:
    logs = [log_of_few_devices(random.Random(number), number) for number in range(3)]
    for number, log in enumerate(logs):
        bucket.write_log(f"in/{('.a.gz', '.a.gz.1', 'a.gz')[number]}", log)
    finished = load_bucket(PARALLEL, bucket, "in/*.gz", servers, "--again")
    assert finished.exit_code == 0
    assert loaded(finished, bucket) == ["in/.a.gz", "in/.a.gz.1", "in/a.gz"]
    assert contents(servers) == expected(*logs).items
    assert bucket.names() == ["in/.a.gz", "in/.a.gz.1", "in/.a.gz.2", "in/.a.gz.rejects.tsv"]
    verified = run(
        PARALLEL, bucket.url("in/.a.gz*"), *addresses(servers), "--verify", "--only", "idfa", environ=bucket.environ()
    )
    assert verified.exit_code == 0


def test_a_large_object_is_read_to_its_end(bucket: Bucket, servers: Servers) -> None:
    log = numbered(30_000)
    bucket.write("in/a.tsv", log + (b" " * (1 << 20) + b"\n") * 40)
    finished = load_bucket(DEFAULT, bucket, "in/*", servers)
    assert finished.exit_code == 0
    assert finished.file("a.tsv")["blank"] == 40
    assert contents(servers) == expected(log).items


def test_an_archive_that_says_it_is_gzip_on_its_way_is_read_as_it_is(bucket: Bucket, servers: Servers) -> None:
    """As tools for web sites store them; clients for the web would unpack it, and count the wrong bytes."""
    log, where = numbered(5000), {"Bucket": bucket.name, "Key": "in/a.gz"}
    bucket.system.call_s3("put_object", **where, Body=gzip.compress(log), ContentEncoding="gzip")
    assert load_bucket(PARALLEL, bucket, "in/*", servers).statuses() == {"a.gz": "done"}
    assert contents(servers) == expected(log).items


def test_a_check_sees_the_objects_and_whether_they_can_be_held(bucket: Bucket, servers: Servers) -> None:
    bucket.write_log("in/a.gz", numbered(40))
    options = (*addresses(servers), "--check")
    finished = run(PARALLEL, bucket.url("in/*"), *options, environ=bucket.environ())
    assert finished.exit_code == 0, finished.log
    assert finished.says(f"the oldest is {bucket.url('in/a.gz')}")
    assert finished.says(f"no other run holds {bucket.url('in')}")
    assert bucket.names() == ["in/a.gz"]
    assert contents(servers) == {}

    bucket.gate.rule = lambda method, *_: (403, "AccessDenied") if method == "PUT" else None
    finished = run(PARALLEL, bucket.url("in/*"), *options, environ=bucket.environ())
    assert finished.exit_code == 1
    assert finished.says(f"lock: {bucket.url('in')}: it can't be held", "E")
    assert finished.says("the store refuses it (AccessDenied", "E")


def test_files_of_this_machine_can_be_named_by_a_url(tmp_path: Path, servers: Servers) -> None:
    log = write_gz(tmp_path / "a.gz", numbered(50))
    assert load(PARALLEL, f"file://{tmp_path}/*.gz", servers).exit_code == 0
    assert contents(servers) == expected(log).items
    assert names(tmp_path) == [".a.gz"]


# --- wrong patterns -------------------------------------------------------------------------------


def test_a_bucket_that_does_not_exist_is_an_error_and_no_success(
    bucket: Bucket, servers: Servers, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics.prom"
    pattern, options = f"s3://{bucket.name}x/*.gz", (*addresses(servers), "--metrics", str(metrics))
    finished = run(PARALLEL, pattern, *options, environ=bucket.environ())
    assert finished.exit_code == 1
    assert finished.says(f"s3://{bucket.name}x: there is no such bucket; check the pattern {pattern}", "E")
    assert "last_success" not in metrics.read_text()


@pytest.mark.parametrize("pattern", [f"s3://AKIATEST:{SECRET}@bucket/*.gz", "s3://AKIATEST:a/b+c=@bucket/*.gz"])
def test_a_password_in_a_pattern_is_refused_and_not_shown(pattern: str) -> None:
    finished = run(PARALLEL, pattern)
    assert finished.exit_code == 2
    assert "it has a password in it" in finished.log[-1]
    assert pattern.split(":")[2].split("@")[0] not in "".join(finished.log)


@pytest.mark.parametrize(
    ("pattern", "missing", "says"),
    [
        ("s3://b/*.gz", "s3fs", "a library that s3:// needs is not installed: pip install '.[s3]' in the checkout"),
        ("s3://b/*.gz", "fsspec", "a library that s3:// needs is not installed: pip install '.[s3]' in the checkout"),
        (
            "gs://b/*.gz",
            "fsspec",
            "a library that gs:// needs is not installed: install fsspec and its library for gs:// "
            "(gcsfs for gs://, adlfs for abfs://)",
        ),
        ("nonsense://in/*.gz", "s3fs", "nonsense:// is no kind of store that fsspec knows; check the pattern"),
    ],
)
def test_a_store_that_nothing_installed_reaches_is_wrong_usage(
    tmp_path: Path, pattern: str, missing: str, says: str
) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('no {missing}', name='{missing}')")
    finished = run(PARALLEL, pattern, environ={**own_environ(), "PYTHONPATH": str(tmp_path)})
    assert finished.exit_code == 2
    assert finished.messages("WE") == [f"{pattern}: {says}"]


def test_who_loads_from_a_disk_does_not_wait_for_the_libraries_of_stores(tmp_path: Path) -> None:
    write_gz(tmp_path / "a.gz", line())
    script = (
        "import sys, memc_load_parallel as m; m.main(['--dry', '--pattern', sys.argv[1]]);"
        "sys.exit(any(name in sys.modules for name in ('fsspec', 's3fs')))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "*")]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, check=False, timeout=60).returncode == 0
