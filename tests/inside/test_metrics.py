"""The metrics of a run: a text file that Prometheus understands and that keeps what has to be kept from run to run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from memcload.file_load import FileLoad
from memcload.outcome import Verdict
from memcload.output.metrics import write_metrics
from memcload.output.results import Results
from tests.inside.results import make_file, make_results

PROJECT = Path(__file__).resolve().parents[2]
RUN, SUCCESS, LOADED = (f"memc_load_last_{what}_timestamp_seconds" for what in ("run", "success", "loaded_file"))
PENDING = Verdict("pending", "records_failed", holds_back=True)

Metrics = Mapping[str, float]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memc_load.prom"


def write(results: Results, path: Path) -> Metrics:
    """Write metrics and read them: each value by its name and the values of its labels."""
    write_metrics(results, str(path))
    return {
        "/".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_everything_has_its_metric(path: Path) -> None:
    files = [make_file(stored=5, failed=2, rejected=3, partial=1), make_file(verdict=PENDING)]
    results = make_results(2, files, exit_code=1)
    server = results.servers["host1:1"]
    server.retries, server.evictions, server.restarts, server.detects_restarts = 7, 8, 9, False
    metrics = write(results, path)
    assert metrics["memc_load_exit_code"] == 1
    assert metrics["memc_load_duration_seconds"] == 12.3456
    assert metrics["memc_load_files/done"] == metrics["memc_load_files/pending"] == 1
    assert metrics["memc_load_files/damaged"] == 0
    assert metrics["memc_load_records/stored/"] == 5
    assert metrics["memc_load_records/failed/"] == 2
    assert metrics["memc_load_records/rejected/apps"] == 3
    assert metrics["memc_load_records/rejected/key"] == 0
    assert metrics["memc_load_partial_records"] == 1
    of_server = {
        name: metrics[f"memc_load_server_{name}/idfa/host1:1"] for name in ("retries", "evictions", "restarts")
    }
    assert of_server == {"retries": 7, "evictions": 8, "restarts": 9}
    assert metrics["memc_load_server_stored_records/idfa/host1:1"] == 5
    assert metrics["memc_load_server_failed_records/idfa/host1:1"] == 2
    assert metrics["memc_load_server_stored_records/dvid/host8:1"] == 0
    assert metrics["memc_load_server_detects_restarts/idfa/host1:1"] == 0
    assert metrics["memc_load_server_detects_restarts/dvid/host8:1"] == 1


def test_every_series_is_there_even_if_nothing_happened(path: Path) -> None:
    nothing = write(make_results(), path)
    something = write(make_results(1, [make_file(stored=5, rejected=1), make_file(verdict=PENDING)]), path)
    assert set(something) == set(nothing)  # so that rules about them never lack their data


# --- from run to run ----------------------------------------------------------------------------


def test_a_run_without_success_keeps_the_time_of_the_last_one(path: Path) -> None:
    before = time.time()
    good = write(make_results(1, [make_file()]), path)
    assert before <= good[SUCCESS] == good[RUN] <= time.time()
    failed = good
    for results in (make_results(exit_code=1), make_results(dry=True), make_results(exit_code=143)):
        previous, failed = failed, write(results, path)
        assert failed[SUCCESS] == good[SUCCESS]
        assert failed[LOADED] == good[LOADED]
        assert failed[RUN] > previous[RUN]
    better = write(make_results(), path)
    assert better[SUCCESS] == better[RUN]
    assert better[LOADED] == good[LOADED]


def test_the_last_file_was_loaded_when_it_was_finalized(path: Path) -> None:
    now = time.monotonic()
    early, late, pending = make_file(), make_file(), make_file(verdict=PENDING)
    early.started, late.started, pending.started = now - 1000, now - 100, now
    metrics = write(make_results(1, [early, late, pending], exit_code=1), path)
    assert metrics[LOADED] == pytest.approx(time.time() - 100 + late.seconds, abs=5)
    assert SUCCESS not in metrics


@pytest.mark.parametrize("files", [[], [make_file(verdict=PENDING)], [make_file(verdict=Verdict("dry"))]])
def test_before_a_file_was_loaded_no_time_is_told(path: Path, files: Sequence[FileLoad]) -> None:
    assert write(make_results(1, files, exit_code=1), path)[LOADED] == 0


@pytest.mark.parametrize(
    "old",
    [
        b"",
        b"\xff\xfe\0",
        SUCCESS.encode(),
        b"%b x\n" % SUCCESS.encode(),
        b"%b 1e\n" % SUCCESS.encode(),
        b'%b{a="b"} 1\n' % SUCCESS.encode(),
        b"# %b 1\n" % SUCCESS.encode(),
        b"x%b 1\n" % SUCCESS.encode(),
        b"\n" * (1 << 20) + b"%b 1\n" % SUCCESS.encode(),
    ],
    ids=lambda old: repr(old[:60]),
)
def test_an_old_file_that_tells_nothing_is_replaced(path: Path, old: bytes) -> None:
    path.write_bytes(old)
    assert SUCCESS not in write(make_results(exit_code=1), path)


def test_a_pipe_gets_the_metrics_and_is_not_read(path: Path) -> None:
    os.mkfifo(path)
    holder = os.open(path, os.O_RDWR)
    write_metrics(make_results(exit_code=1), str(path))
    text = os.read(holder, 65536)
    os.close(holder)
    assert text.startswith(b"# HELP memc_load_")
    assert text.endswith(b"\n")


# --- its surroundings ---------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
def test_several_processes_of_prometheus_are_no_concern_of_ours(tmp_path: Path, exists: bool) -> None:
    shared = tmp_path / "shared"
    if exists:
        shared.mkdir()
    program = (
        "from tests.inside.results import make_results; from memcload.output.metrics import write_metrics\n"
        f"write_metrics(make_results(), {str(tmp_path / 'metrics')!r})"
    )
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    subprocess.run([sys.executable, "-c", program], env=environ, timeout=30, check=True, cwd=PROJECT)
    assert sorted(os.listdir(tmp_path)) == ["metrics", "shared"] if exists else ["metrics"]
    assert not exists or os.listdir(shared) == []
    assert "memc_load_exit_code 0.0" in (tmp_path / "metrics").read_text()
