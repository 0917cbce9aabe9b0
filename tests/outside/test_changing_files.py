"""Files that vanish, grow or are replaced while they are read."""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.faults import trigger
from tests.outside.loading import (
    DEFAULT,
    REFERENCE,
    Loader,
    all_loaders,
    in_small_blocks,
    load,
    own_environ,
    run,
    with_report,
)
from tests.outside.logs import Inbox, line, make_inbox, write_gz
from tests.outside.memcached import Servers, addresses, contents
from tests.outside.proxy import FaultyProxy
from tests.outside.spec import expected
from tests.outside.trials import MIDDLE, hurried_load


@in_small_blocks
def test_a_file_that_vanishes_while_it_is_read_is_an_error_and_the_others_go_on(
    inbox: Inbox, servers: Servers, loader: Loader
) -> None:
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, (inbox.directory / "0.tsv.gz").unlink)) as watch:
        finished = hurried_load(loader, inbox, servers, gaid=watch.address)
    assert finished.exit_code == 1
    assert finished.statuses() == {"0.tsv.gz": "error", "1.tsv.gz": "done", "2.tsv.gz": "done"}
    assert contents(servers) == expected(*inbox.logs).items


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(gzip.compress(line("dvid", "late")))


def replace(path: Path) -> None:
    write_gz(path.with_suffix(".new"), line("dvid", "other"))
    path.with_suffix(".new").rename(path)


@in_small_blocks
@pytest.mark.parametrize("change", [grow, replace])
def test_a_file_that_changes_while_it_is_read_stays_pending(
    inbox: Inbox, servers: Servers, loader: Loader, change: Callable[[Path], None]
) -> None:
    path = inbox.directory / "0.tsv.gz"
    with FaultyProxy(servers["gaid"].address, trigger(MIDDLE, lambda: change(path))) as watch:
        finished = hurried_load(loader, inbox, servers, gaid=watch.address)
    assert finished.exit_code == 1
    assert set(finished.statuses().values()) == {"pending"}
    late_key = b"dvid:late" if change is grow else b"dvid:other"
    assert hurried_load(loader, inbox, servers).exit_code == 0
    assert late_key in contents(servers)
    assert inbox.waiting() == []


READ_ERROR = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The disk fails when a file whose name ends in BAD_NAME is read beyond its first BAD_AFTER bytes. */
ssize_t read(int descriptor, void *buffer, size_t size) {
    static ssize_t (*real)(int, void *, size_t);
    static long passed;
    char link[64], path[4096];
    if (!real) real = dlsym(RTLD_NEXT, "read");
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    const char *name = getenv("BAD_NAME");
    if (length > 0 && name && (size_t)length >= strlen(name)) {
        path[length] = 0;
        if (!strcmp(path + length - strlen(name), name)) {
            if (passed >= atol(getenv("BAD_AFTER"))) { errno = EIO; return -1; }
            ssize_t got = real(descriptor, buffer, size < 4096 ? size : 4096);
            if (got > 0) passed += got;
            return got;
        }
    }
    return real(descriptor, buffer, size);
}
"""


@pytest.fixture
def bad_disk(tmp_path: Path) -> dict[str, str]:
    """The environment in which the disk fails in the middle of 0.tsv.gz."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/proc/self/fd").exists():
        pytest.skip("a bad disk is made with a C compiler, on Linux")
    (tmp_path / "bad.c").write_text(READ_ERROR)
    library = tmp_path / "bad.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "bad.c", "-ldl"], check=True)
    return {**own_environ(), "LD_PRELOAD": str(library), "BAD_NAME": "/0.tsv.gz", "BAD_AFTER": "600000"}


@all_loaders
def test_a_file_that_cannot_be_read_to_its_end_is_an_error_and_holds_later_files_back(
    tmp_path: Path, servers: Servers, loader: Loader, bad_disk: dict[str, str]
) -> None:
    noise = random.Random(1)
    first = b"".join(line(dev_id=f"{noise.getrandbits(128):032x}", apps=f"{n}") for n in range(40_000))
    inbox = make_inbox(tmp_path / "inbox", [line("gaid", apps="1") + first, line("gaid", apps="2")])
    options = [*addresses(servers), "--report", "-", "--block-size", "100000"]
    if loader is REFERENCE:
        options = options[:-2]
    finished = with_report(run(loader, inbox.pattern, *options, environ=bad_disk))
    assert (finished.exit_code, finished.statuses()) == (1, {"0.tsv.gz": "error", "1.tsv.gz": "pending"})
    assert finished.says("nput/output error", "E")
    assert 0 < finished.file("0.tsv.gz")["records"] < 40_000
    assert inbox.renamed() == []  # or a load of the first file would bring back an older record
    assert load(DEFAULT, inbox.pattern, servers).exit_code == 0
    assert contents(servers) == expected(*inbox.logs).items
