"""The generated logs have the real shape, and a seed means the same lines everywhere."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import Counter
from itertools import islice
from pathlib import Path

from memcload.records import InvalidLine, parse_appsinstalled
from tools.make_logs import FAULTS, log_lines, write_logs

REAL_SHAPE = re.compile(
    rb"(idfa|gaid|adid|dvid)\t[0-9a-f]{32}\t(-?[0-9]{1,3}[0-9.e-]*)\t(-?[0-9]{1,3}[0-9.e-]*)\t([0-9]{1,4}(?:,[0-9]{1,4})*)\n"
)


def verdict(line: bytes) -> str:
    """Return what the loader makes of a line: "stored", "partial" or the reason of its rejection."""
    try:
        return "partial" if parse_appsinstalled(line.removesuffix(b"\n")).dropped else "stored"
    except InvalidLine as error:
        return error.reason


def test_lines_have_the_real_shape() -> None:
    lines = list(islice(log_lines(seed=1), 5000))
    device_types: Counter[bytes] = Counter()
    coordinates: list[bytes] = []
    app_lists: list[list[bytes]] = []
    for line in lines:
        shape = REAL_SHAPE.fullmatch(line)
        assert shape, line
        device_types[shape[1]] += 1
        coordinates += shape[2], shape[3]
        app_lists.append(shape[4].split(b","))

    assert all(1150 < count < 1350 for count in device_types.values())
    assert len({line[:37] for line in lines}) == len(lines)  # no device twice
    assert all(b"%.12g" % float(text) == text for text in coordinates)  # 12 significant digits
    for degrees in (list(map(float, coordinates[0::2])), list(map(float, coordinates[1::2]))):
        assert -180 <= min(degrees) < -175 < 175 < max(degrees) <= 180
    assert {len(apps) for apps in app_lists} == set(range(1, 101))
    assert all(len(set(apps)) == len(apps) for apps in app_lists)  # no app twice
    assert {int(app) for apps in app_lists for app in apps} == set(range(10_000))


def test_lines_have_the_real_size() -> None:
    lines = list(islice(log_lines(seed=2), 10_000))
    text = b"".join(lines)
    assert 310 < len(text) / len(lines) < 318
    assert 150 < len(gzip.compress(text, 6)) / len(lines) < 160  # as gzip packs it


def test_a_seed_means_the_same_lines_on_every_python() -> None:
    lines = b"".join(islice(log_lines(seed=2017, malformed=0.1, repeat_keys=0.1), 1000))
    assert hashlib.sha256(lines).hexdigest() == "d569cd112c325315e193b9bd0dd6312def345773e406239fa9e2c05395473fa9"
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
