"""The generated logs have the real shape, and a seed means the same lines everywhere."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from memcload.records import InvalidLine, parse_appsinstalled
from tools.make_logs import FAULTS, log_lines, write_logs

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "appsinstalled"
REAL_SHAPE = re.compile(
    rb"(idfa|gaid|adid|dvid)\t[0-9a-f]{32}\t-?[0-9]{1,2}\.[0-9]{10}\t-?[0-9]{1,3}\.[0-9]{10}"
    rb"\t[0-9]{1,4}(,[0-9]{1,4}){0,101}\n"
)


def verdict(line: bytes) -> str:
    """Return what the loader makes of a line: "stored", "partial" or the reason of its rejection."""
    try:
        return "partial" if parse_appsinstalled(line.removesuffix(b"\n")).dropped else "stored"
    except InvalidLine as error:
        return error.reason


def test_lines_have_the_real_shape() -> None:
    lines = list(islice(log_lines(seed=1), 2000))
    assert [line for line in lines if not REAL_SHAPE.fullmatch(line)] == []
    app_counts = {line.count(b",") + 1 for line in lines}
    assert min(app_counts) == 1
    assert max(app_counts) == 102
    device_types = Counter(line[:4] for line in lines)
    assert all(400 < count < 600 for count in device_types.values())


def test_a_seed_means_the_same_lines_on_every_python() -> None:
    lines = b"".join(islice(log_lines(seed=2017, malformed=0.1, repeat_keys=0.1), 1000))
    assert hashlib.sha256(lines).hexdigest() == "7940c555c2100ed5957cb8bb2d4d30596c202c47773547acc0c1bd9acbf9129d"
    assert b"".join(islice(log_lines(seed=2018, malformed=0.1, repeat_keys=0.1), 1000)) != lines


def test_the_wanted_fraction_is_malformed() -> None:
    verdicts = Counter(map(verdict, islice(log_lines(seed=1, malformed=0.1), 10_000)))
    assert verdicts.keys() == {"stored", *(fault for fault, _, _ in FAULTS)}
    assert 0.09 < 1 - verdicts["stored"] / 10_000 < 0.11


def test_every_fault_gets_the_verdict_it_is_named_for() -> None:
    lines = islice(log_lines(seed=1, malformed=1.0), len(FAULTS))
    assert [verdict(line) for line in lines] == [fault for fault, _, _ in FAULTS]


def test_the_wanted_fraction_repeats_a_device_with_other_values() -> None:
    lines = list(islice(log_lines(seed=1, repeat_keys=0.2), 10_000))
    devices = {tuple(line.split(b"\t")[:2]) for line in lines}
    assert 0.19 < 1 - len(devices) / 10_000 < 0.21
    assert len(set(lines)) == 10_000


def test_the_files_are_one_log_cut_by_the_minute(tmp_path: Path) -> None:
    paths = write_logs(tmp_path / "new", files=3, lines=1500, seed=1)
    assert [path.name for path in paths] == [
        "20170929000000.tsv.gz",
        "20170929000100.tsv.gz",
        "20170929000200.tsv.gz",
    ]
    lines = [line for path in paths for line in gzip.decompress(path.read_bytes()).splitlines(keepends=True)]
    assert lines == list(islice(log_lines(seed=1), 4500))


def test_the_same_log_is_written_with_the_same_bytes(tmp_path: Path) -> None:
    (once,) = write_logs(tmp_path / "once", files=1, lines=100, seed=1)
    (again,) = write_logs(tmp_path / "again", files=1, lines=100, seed=1)
    assert once.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("minute", [0, 1, 2])
def test_a_committed_sample_is_mostly_good(minute: int) -> None:
    sample = SAMPLES / f"201709290{minute:03}00.tsv.gz"
    verdicts = Counter(map(verdict, gzip.decompress(sample.read_bytes()).splitlines()))
    rejected = verdicts.total() - verdicts["stored"] - verdicts["partial"]
    assert verdicts.total() == 1000
    assert 0 < rejected < 10


def test_the_committed_samples_are_those_of_make_data(tmp_path: Path) -> None:
    made = write_logs(tmp_path, files=3, lines=1000, seed=2017, malformed=0.008, repeat_keys=0.05)
    for path in made:
        # Other versions of zlib pack other bytes; the lines are what counts.
        assert gzip.decompress((SAMPLES / path.name).read_bytes()) == gzip.decompress(path.read_bytes())
