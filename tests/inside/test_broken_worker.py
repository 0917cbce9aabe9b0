"""A worker that breaks ends the run with an error, and never leaves it hanging."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.outside.loading import LOG_LINE, PATIENCE, PROJECT
from tests.outside.logs import names, numbered, write_gz
from tests.outside.memcached import Servers, addresses

BREAK = """
import sys, threading
import memc_load_parallel as loader

make = loader.choose_encoder

class Broken:
    def __init__(self, encoder, calls):
        self.encoder, self.calls = encoder, calls

    def encode(self, block):
        if {when}:
            raise {error}
        return self.encoder.encode(block)

def broken_encoder(options):
    new, calls = make(options), []
    def make_one():
        if {error_at_start}:
            raise {error}
        return Broken(new(), calls)
    return make_one

loader.choose_encoder = broken_encoder
sys.exit(loader.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("workers", ["1", "4"])
@pytest.mark.parametrize(
    ("when", "error_at_start"),
    [("True", "False"), ("self.calls.append(0) or len(self.calls) > 20", "False"), ("False", "True")],
    ids=["first-block", "later-block", "start"],
)
@pytest.mark.parametrize("error", ["ZeroDivisionError('broken')", "MemoryError('broken')"])
def test_a_worker_that_breaks_ends_the_run_with_an_error(
    tmp_path: Path, servers: Servers, workers: str, when: str, error_at_start: str, error: str
) -> None:
    for name in ("a.gz", "b.gz"):
        write_gz(tmp_path / name, numbered(2000))
    program = BREAK.format(when=when, error_at_start=error_at_start, error=error)
    options = ["--pattern", str(tmp_path / "*"), *addresses(servers), "--workers", workers, "--block-size", "1000"]
    finished = subprocess.run(
        [sys.executable, "-c", program, *options, "--engine", "python"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = finished.stderr.splitlines()
    assert finished.returncode == 1
    assert [text for text in lines if not LOG_LINE.fullmatch(text)] == []
    assert [text for text in lines if "] E " in text and "broken" in text] != []
    assert names(tmp_path) == ["a.gz", "b.gz"]  # neither was loaded to its end
