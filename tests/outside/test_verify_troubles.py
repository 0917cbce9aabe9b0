"""--verify where something is in its way: values that were too large, servers that do not answer."""

from __future__ import annotations

import time
from pathlib import Path

from tests.outside.loading import PARALLEL, Loader
from tests.outside.logs import huge_line, line, numbered
from tests.outside.memcached import Servers, closed_port, contents, everywhere, silent_server
from tests.outside.spec import TYPES
from tests.outside.verifying import both_engines, delete, loaded, verify
from tools.servers import MemcachedServer


@both_engines
def test_what_was_rejected_as_too_large_is_not_missing(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    """Of two such keys, one had a record before, which the server then dropped; the other got one later."""
    log = numbered(20) + line(dev_id="had") + huge_line(dev_id="had") + huge_line(dev_id="gets") + line(dev_id="gets")
    loaded(tmp_path, servers, log + huge_line("dvid"), rate="1")
    verdict = verify(loader, tmp_path / ".a.gz", servers)
    assert verdict.exit_code == 0
    assert verdict.found["idfa"] == {
        **dict.fromkeys(verdict.found["idfa"], 0),
        "checked": 9,
        "present": 6,
        "superseded": 2,
        "too_large": 1,
    }
    assert verdict.total("too_large") == 2
    assert verdict.named("missing") == []


@both_engines
def test_a_value_that_just_fits_is_missing_when_it_is_not_there(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    def sized(size: int) -> bytes:
        return line(dev_id=f"{size}", apps=",".join(["7"] * ((size - 18) // 2)))  # 2 bytes an id, 18 for coordinates

    sizes = range(2**19 - 78, 2**19 - 60, 2)
    with MemcachedServer.start("-I", "512k") as server:
        here = {**servers, "idfa": server}
        loaded(tmp_path, here, b"".join(map(sized, sizes)), rate="1")
        held = contents(here)
        assert 0 < len(held) < len(sizes)
        delete(here, *(key.decode() for key in held))
        verdict = verify(loader, tmp_path / ".a.gz", here)
    assert verdict.exit_code == 1
    assert verdict.found["idfa"]["missing"] == len(held)
    assert verdict.found["idfa"]["too_large"] == len(sizes) - len(held)


# --- servers that do not answer -----------------------------------------------------------------

HURRIED = ("--timeout", "0.2", "--connect-timeout", "0.2", "--retries", "1")


@both_engines
def test_a_server_that_is_down_is_told_and_the_others_are_compared(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    loaded(tmp_path, servers, numbered(400))
    with closed_port() as nowhere:
        verdict = verify(loader, tmp_path / ".a.gz", servers, *HURRIED, gaid=nowhere)
    assert verdict.exit_code == 1
    assert any(nowhere in message and "refused" in message for message in verdict.run.messages("E"))
    assert verdict.found["gaid"] == dict.fromkeys(verdict.found["gaid"], 0) | {"checked": 100, "unanswered": 100}
    assert verdict.total("present") == 300
    assert verdict.named("missing") == verdict.named("different") == []


def test_a_server_that_never_answers_is_tried_once_whatever_the_number_of_workers(
    tmp_path: Path, servers: Servers
) -> None:
    loaded(tmp_path, servers, numbered(2000))
    with silent_server() as (address, _):
        options = [*everywhere(address), *HURRIED, "--workers", "16"]
        started = time.monotonic()
        verdict = verify(PARALLEL, tmp_path / ".a.gz", servers, *options)
        assert time.monotonic() - started < 10  # one after the other, 16 workers would take 4 * 16 * 0.5 s
    assert (verdict.exit_code, verdict.total("unanswered")) == (1, 2000)
    (told,) = [message for message in verdict.run.messages("E") if "timed out" in message]
    assert all(name in told for name in TYPES)
