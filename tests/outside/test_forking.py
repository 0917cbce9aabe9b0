"""A loader that is forked is in the same state as one that is started: else the tests would hold something else."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.outside.forking import IS_POSSIBLE, can_fork
from tests.outside.loading import Running, own_environ

pytestmark = pytest.mark.skipif(not IS_POSSIBLE, reason="this system's processes are all started")

TELLS = """
import json, os, random, resource, signal, sys, threading, warnings
print(json.dumps({
    "arguments": sys.argv, "name": __name__, "file": __file__, "path": sys.path, "flags": list(sys.flags),
    "warnings": [(kind, category.__name__) for kind, _, category, _, _ in warnings.filters],
    "environ": dict(os.environ), "directory": os.getcwd(), "descriptors": sorted(os.listdir("/proc/self/fd")),
    "leads": os.getpid() == os.getsid(0) == os.getpgid(0), "threads": threading.active_count(),
    "limits": [resource.getrlimit(number) for number in range(16)], "umask": os.umask(0), "nice": os.nice(0),
    "streams": [(stream.encoding, stream.errors, stream.line_buffering, stream.isatty())
                for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "handlers": [str(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()],
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "read": sys.stdin.read(),
}))
sys.exit(7)
"""


def told(script: Path, environ: Mapping[str, str], *prefix: str) -> dict[str, Any]:
    """Return what a script says of the process that it is in."""
    with Running((str(script), "--one"), "*", "--two", environ=environ, prefix=prefix) as running:
        assert isinstance(running.process, subprocess.Popen) == bool(prefix)
        finished = running.finish()
    assert (finished.exit_code, finished.log) == (7, [])
    found: dict[str, Any] = json.loads(finished.output)
    return found


def test_a_process_that_is_forked_finds_what_one_finds_that_is_started(tmp_path: Path) -> None:
    script = tmp_path / "tells.py"
    script.write_text(TELLS)
    environ = {**own_environ(), "AWS_REGION": "nowhere"}
    assert told(script, environ) == told(script, environ, "env")


def test_others_that_run_are_not_disturbed(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text("import os, time; os.write(1, b'x'); time.sleep(60 * (os.environ['AWS_REGION'] == 'long'))")
    with Running((str(script),), None, environ={**own_environ(), "AWS_REGION": "long"}) as long:
        for _ in range(3):
            with Running((str(script),), None, environ={**own_environ(), "AWS_REGION": "short"}) as short:
                assert short.finish().output == "x"
        assert long.process.poll() is None
        long.send(signal.SIGTERM)
        assert long.finish().exit_code == -signal.SIGTERM


def test_an_environment_that_python_itself_may_read_is_that_of_a_start() -> None:
    assert can_fork(own_environ())
    for name in ("PYTHONHASHSEED", "LC_ALL", "TZ", "LD_PRELOAD", "MEMC_LOAD_TTL"):
        assert not can_fork({**own_environ(), name: "C"})
    assert not can_fork({})
