"""--metrics: a text file that Prometheus understands and that keeps what has to be kept from run to run."""

from __future__ import annotations

import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.outside.loading import REFERENCE, Finished, Loader, Running, both_loaders, load
from tests.outside.logs import line, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, closed_port, everywhere, silent_server
from tests.outside.spec import TYPES
from tools.servers import MemcachedServer

Metrics = Mapping[tuple[str, str], float]


def read(path: Path) -> Metrics:
    """Return each value by its name and the values of its labels, but for addresses: a device type has one server."""
    return {(sample.name, "/".join(labels(sample))): sample.value for sample in samples(path)}


def labels(sample: Sample) -> list[str]:
    return [value for label, value in sample.labels.items() if label not in ("address", "server")]


def samples(path: Path) -> Iterator[Sample]:
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        yield from family.samples


def load_with_metrics(
    loader: Loader, directory: Path, servers: Servers, *options: str, **other: str
) -> tuple[Finished, Metrics]:
    """Load what is in the directory and read the metrics, which are beside it."""
    path = directory.parent / "memc_load.prom"
    finished = load(loader, directory / "*.gz", servers, "--metrics", str(path), *options, **other)
    return finished, read(path)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    directory = tmp_path / "inbox"
    directory.mkdir()
    return directory


# --- what it tells ------------------------------------------------------------------------------


@both_loaders
def test_the_metrics_tell_what_the_report_tells(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(396) + b"columns\n" + line("ifda") + line(apps="x") + line(apps="y"))
    write_gz(inbox / "b.gz", numbered(99) + line(apps="1,x"))
    before = time.time()
    finished, metrics = load_with_metrics(loader, inbox, servers, "--max-error-rate", "0.02")

    assert finished.exit_code == 0
    assert before <= metrics["memc_load_last_run_timestamp_seconds", ""] <= time.time()
    assert (
        metrics["memc_load_last_success_timestamp_seconds", ""] == metrics["memc_load_last_run_timestamp_seconds", ""]
    )
    assert metrics["memc_load_exit_code", ""] == 0
    assert metrics["memc_load_duration_seconds", ""] == pytest.approx(finished.report["seconds"], abs=0.001)
    assert counts(metrics, "memc_load_files") == {"done": 2}
    assert counts(metrics, "memc_load_records") == {
        "stored/": 496,
        "rejected/columns": 1,
        "rejected/device_type": 1,
        "rejected/apps": 2,
    }
    assert metrics["memc_load_partial_records", ""] == 1
    for name in TYPES:
        device = finished.report["devices"][name]
        for what in ("retries", "evictions", "restarts"):
            assert metrics[f"memc_load_server_{what}", name] == device[what] == 0
        assert metrics["memc_load_server_stored_records", name] == device["stored"] > 0
        assert metrics["memc_load_server_failed_records", name] == 0


def counts(metrics: Metrics, name: str) -> dict[str, float]:
    """Return what is not 0 of a metric, by its labels."""
    return {labels: value for (of, labels), value in metrics.items() if of == name and value}


@both_loaders
def test_every_series_is_there_even_if_nothing_happened(inbox: Path, servers: Servers, loader: Loader) -> None:
    _, nothing = load_with_metrics(loader, inbox, servers)
    write_gz(inbox / "a.gz", numbered(20) + b"rejected\n")
    _, something = load_with_metrics(loader, inbox, servers)
    assert set(nothing) == set(something)  # so that rules about them never lack their data
    assert counts(nothing, "memc_load_files") == counts(nothing, "memc_load_records") == {}


@both_loaders
def test_trouble_with_a_server_is_told_by_its_device_type(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(40))
    write_gz(inbox / "b.gz", numbered(40, prefix="other"))
    with closed_port() as nowhere:
        finished, metrics = load_with_metrics(loader, inbox, servers, "--retries", "1", adid=nowhere)
    assert finished.exit_code == metrics["memc_load_exit_code", ""] == 1
    assert counts(metrics, "memc_load_files") == {"pending": 2}
    assert counts(metrics, "memc_load_records") == {"stored/": 60, "failed/": 20}
    assert counts(metrics, "memc_load_server_failed_records") == {"adid": 20}
    assert set(counts(metrics, "memc_load_server_retries")) == {"adid"}


def test_evictions_are_told_by_their_device_type(inbox: Path, servers: Servers) -> None:
    apps = ",".join(["4294967295"] * 10_000)
    write_gz(inbox / "a.gz", b"".join(line(dev_id=f"device{number}", apps=apps) for number in range(100)))
    with MemcachedServer.start("-m", "2") as small:
        finished, metrics = load_with_metrics(REFERENCE, inbox, servers, idfa=small.address)
    evictions = finished.report["devices"]["idfa"]["evictions"]
    assert counts(metrics, "memc_load_server_evictions") == {"idfa": evictions}
    assert evictions > 0


# --- its format ---------------------------------------------------------------------------------


@both_loaders
def test_the_file_keeps_the_conventions(inbox: Path, servers: Servers, loader: Loader) -> None:
    """See https://prometheus.io/docs/practices/naming/."""
    write_gz(inbox / "a.gz", numbered(20))
    load_with_metrics(loader, inbox, servers)
    text = (inbox.parent / "memc_load.prom").read_text()
    families = list(text_string_to_metric_families(text))
    for family in families:
        assert family.name.startswith("memc_load_")
        assert family.type == "gauge"
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
        assert not re.search(r"_(ms|milliseconds|minutes|mb|kb|percent)\b", family.name)
        assert family.documentation.endswith(".")
        if "time" in family.name or "duration" in family.name:
            assert family.name.endswith("_seconds")
    all_names = [family.name for family in families]
    assert len(all_names) == len(set(all_names)) == text.count("# HELP ") == text.count("# TYPE ")
    assert text.endswith("\n")
    assert not any(sample.timestamp for family in families for sample in family.samples)  # the collector refuses them


@both_loaders
def test_the_file_can_be_read_by_another_user_and_nothing_else_is_left(
    inbox: Path, servers: Servers, loader: Loader
) -> None:
    load_with_metrics(loader, inbox, servers)
    assert names(inbox.parent) == ["inbox", "memc_load.prom"]
    assert (inbox.parent / "memc_load.prom").stat().st_mode & 0o777 == 0o644


def test_whoever_reads_the_file_reads_all_of_it(inbox: Path, servers: Servers) -> None:
    path = inbox.parent / "memc_load.prom"
    load_with_metrics(REFERENCE, inbox, servers)
    texts: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            texts.add(path.read_text())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(5):
            load_with_metrics(REFERENCE, inbox, servers)
    finally:
        ended.set()
        watcher.join()
    assert len(texts) > 1
    assert {len(list(text_string_to_metric_families(text))) for text in texts} == {
        len(list(text_string_to_metric_families(path.read_text())))
    }


# --- from run to run ----------------------------------------------------------------------------

SUCCESS = ("memc_load_last_success_timestamp_seconds", "")
RUN = ("memc_load_last_run_timestamp_seconds", "")


@both_loaders
def test_the_last_success_outlives_runs_that_are_none(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(20))
    _, good = load_with_metrics(loader, inbox, servers)
    write_gz(inbox / "b.gz", numbered(20))
    previous = good[RUN]
    with closed_port() as nowhere:
        for _ in range(2):
            finished, failed = load_with_metrics(loader, inbox, servers, "--retries", "0", gaid=nowhere)
            assert finished.exit_code == 1
            assert failed[SUCCESS] == good[SUCCESS]
            assert failed[RUN] > previous
            previous = failed[RUN]
    _, mended = load_with_metrics(loader, inbox, servers)
    assert mended[SUCCESS] == mended[RUN] > previous


@both_loaders
def test_a_dry_run_is_no_success(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(20))
    _, dry = load_with_metrics(loader, inbox, servers, "--dry")
    assert SUCCESS not in dry
    _, good = load_with_metrics(loader, inbox, servers)
    write_gz(inbox / "b.gz", numbered(20))
    _, dry = load_with_metrics(loader, inbox, servers, "--dry")
    assert dry[SUCCESS] == good[SUCCESS] < dry[RUN]


@both_loaders
def test_before_the_first_success_none_is_told(inbox: Path, servers: Servers, loader: Loader) -> None:
    write_gz(inbox / "a.gz", numbered(20))
    with closed_port() as nowhere:
        _, failed = load_with_metrics(loader, inbox, servers, "--retries", "0", gaid=nowhere)
    assert SUCCESS not in failed


@pytest.mark.parametrize(
    "old",
    [
        b"",
        b"\xff\xfe\0",
        b"memc_load_last_success_timestamp_seconds",
        b"memc_load_last_success_timestamp_seconds x\n",
        b"# TYPE memc_load_last_success_timestamp_seconds gauge\n",
        b'memc_load_last_success_timestamp_seconds{a="} 1\n',
        b"{} 1\n# HELP\n# TYPE\n# TYPE a b c d\n",
        b"# TYPE a gauge\n# TYPE a counter\na 1\n",
        b'a{b="c",b="d",} 1 2 3\n',
        b"\n".join(bytes(text) for text in itertools.permutations(b'{}"=\\')),
    ],
)
def test_an_old_file_that_is_none_is_replaced(inbox: Path, servers: Servers, old: bytes) -> None:
    path = inbox.parent / "memc_load.prom"
    write_gz(inbox / "a.gz", numbered(20))
    path.write_bytes(old)
    with closed_port() as nowhere:
        finished, metrics = load_with_metrics(REFERENCE, inbox, servers, "--retries", "0", gaid=nowhere)
    assert finished.exit_code == 1
    assert SUCCESS not in metrics
    assert counts(metrics, "memc_load_files") == {"pending": 1}


@both_loaders
def test_a_stopped_run_writes_its_metrics(inbox: Path, loader: Loader) -> None:
    path = inbox.parent / "memc_load.prom"
    write_gz(inbox / "a.gz", numbered(20))
    with silent_server() as (address, listening):
        options = [*everywhere(address), "--timeout", "0.3", "--retries", "0", "--metrics", str(path)]
        with Running(loader, inbox / "*", *options) as running:
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(1)
                running.send(signal.SIGTERM)
                assert running.finish().exit_code == 143
    metrics = read(path)
    assert metrics["memc_load_exit_code", ""] == 143
    assert SUCCESS not in metrics
    assert counts(metrics, "memc_load_files") == {"pending": 1}


@both_loaders
def test_metrics_that_can_not_be_written_fail_the_run_after_the_load(
    inbox: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(inbox / "a.gz", numbered(20))
    path = inbox / "missing" / "memc_load.prom"
    finished = load(loader, inbox / "*", servers, "--metrics", str(path))
    assert (finished.exit_code, finished.statuses()) == (1, {"a.gz": "done"})
    assert finished.messages("E") == [f"can't write the metrics {path}: No such file or directory"]


@both_loaders
def test_a_run_that_another_holds_off_leaves_the_metrics_alone(inbox: Path, servers: Servers, loader: Loader) -> None:
    path = inbox.parent / "memc_load.prom"
    write_gz(inbox / "a.gz", numbered(20))
    path.write_text("# of the run before\n")
    with silent_server() as (address, listening):
        with Running(loader, inbox / "*", *everywhere(address), "--timeout", "600") as holder:
            holder.wait_for("Processing")
            with Running(loader, inbox / "*", *addresses(servers), "--metrics", str(path)) as other:
                assert other.finish().exit_code == os.EX_TEMPFAIL
        listening.close()
    assert path.read_text() == "# of the run before\n"
