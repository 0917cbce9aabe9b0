"""What only some systems have is a help and never a need: here it is hidden from a load."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outside.loading import DEFAULT, REFERENCE, Finished, Loader, Running, own_environ, run
from tests.outside.logs import Inbox, line, make_inbox, make_old, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents, everywhere, silent_server
from tests.outside.spec import expected
from tests.outside.zstandard import zstd

both_commands = pytest.mark.parametrize("loader", [REFERENCE, DEFAULT], ids=["reference", "default"])

# Python runs this before anything else.
HIDE = """
import builtins, ctypes, errno, fcntl, os, sys

hidden = os.environ["HIDDEN"].split()
if "leases" in hidden:
    del fcntl.F_SETLEASE
if "leases refused" in os.environ["HIDDEN"]:
    real_fcntl = fcntl.fcntl
    def fcntl_without_leases(descriptor, command, argument=0):
        if command == 1024:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_fcntl(descriptor, command, argument)
    fcntl.F_SETLEASE = 1024
    fcntl.fcntl = fcntl_without_leases
if "locks" in hidden:
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock = flock
if "proc" in hidden:
    real_open = builtins.open
    def open_outside(file, *arguments, **others):
        if str(file).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", file)
        return real_open(file, *arguments, **others)
    builtins.open = open_outside
if "isal" in hidden:
    sys.modules["isal"] = None
if "numba" in hidden:
    sys.modules["numba"] = sys.modules["llvmlite"] = None
if "long names" in os.environ["HIDDEN"]:
    real_lstat = os.lstat
    def lstat(path, **others):
        if len(os.fsencode(os.path.basename(path))) > 20:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        return real_lstat(path, **others)
    os.lstat = lstat
"""


def environ_without(directory: Path, hidden: str) -> dict[str, str]:
    """Return the environment of a Python that lacks something."""
    (directory / "python").mkdir(exist_ok=True)
    (directory / "python/sitecustomize.py").write_text(HIDE)
    return {**own_environ(), "PYTHONPATH": str(directory / "python"), "HIDDEN": hidden}


@pytest.mark.parametrize(
    "hidden", ["leases proc isal numba", "leases refused", "proc"], ids=["everything", "leases refused", "proc"]
)
@both_commands
def test_a_load_needs_none_of_it(tmp_path: Path, servers: Servers, loader: Loader, hidden: str) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    logs = [numbered(400, prefix=f"{n}-") + b"rejected\n" for n in range(5)]
    packs: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress, zstd.compress, bytes]
    for number, pack in enumerate(packs):
        (inbox / f"{number}").write_bytes(pack(logs[number]))
    (inbox / "5").write_bytes(gzip.compress(logs[0])[:-30])
    make_old(inbox / "5")
    environ = environ_without(tmp_path, hidden)
    finished = run(loader, inbox / "*", *addresses(servers), environ=environ)
    assert finished.exit_code == 1
    assert names(inbox) == sorted(
        [*(f".{n}" for n in range(5)), *(f".{n}.rejects.tsv" for n in range(5)), ".5.damaged"]
    )
    assert contents(servers) == expected(*logs).items


@both_commands
def test_a_file_system_without_locks_is_named(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    inbox = make_inbox(tmp_path / "inbox", [line()])
    finished = run(loader, inbox.pattern, *addresses(servers), environ=environ_without(tmp_path, "locks"))
    assert finished.exit_code == 1
    assert finished.says(str(inbox.directory), "E")
    assert finished.says("lock", "E")
    assert inbox.waiting() == ["0.tsv.gz"]
    assert contents(servers) == {}


@both_commands
def test_a_file_system_of_short_names_is_known_before(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    logs = [write_gz(inbox / name, line(dev_id=name)) for name in ("a" * 5, "b" * 20, "c" * 19)]
    finished = run(loader, inbox / "*", *addresses(servers), environ=environ_without(tmp_path, "long names"))
    assert finished.exit_code == 1
    assert names(inbox) == [".aaaaa", "." + "c" * 19, "b" * 20]
    assert contents(servers) == expected(logs[0], logs[2]).items


def test_who_holds_a_directory_need_not_be_known(tmp_path: Path, servers: Servers) -> None:
    inbox = make_inbox(tmp_path / "inbox", [line()])
    with (
        silent_server() as (address, listening),
        Running(DEFAULT, inbox.pattern, *everywhere(address), "--timeout", "60"),
    ):
        listening.accept()[0].close()
        finished = run(DEFAULT, inbox.pattern, *addresses(servers), environ=environ_without(tmp_path, "proc"))
    assert finished.exit_code == 75
    assert finished.says(str(inbox.directory), "E")


# --- the compile cache --------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda code: b"", lambda code: code[: len(code) // 2]], ids=["empty", "half"])
def test_a_damaged_compile_cache_heals_itself(
    tmp_path: Path, servers: Servers, damage: Callable[[bytes], bytes], inbox: Inbox
) -> None:
    checked = run(DEFAULT, inbox.pattern, *addresses(servers), "--check")
    cached = re.search(r"engine: compiled, cached as (.+)", "\n".join(checked.messages()))
    if not cached:
        pytest.skip("nothing is compiled here")
    whole = Path(cached[1])
    (tmp_path / "cache/memcload").mkdir(parents=True)
    (tmp_path / "cache/memcload" / whole.name).write_bytes(damage(whole.read_bytes()))
    elsewhere = {name: str(tmp_path / "nothing") for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    (tmp_path / "nothing").mkdir()
    environ = {**own_environ(), **elsewhere, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def start(*options: str) -> Finished:
        return run(DEFAULT, inbox.pattern, *addresses(servers), *options, environ=environ)

    finished = start()
    assert finished.exit_code == 0
    assert len([text for text in finished.messages() if "ompiled" in text]) == 1
    for options in (("--verify", "--again"), ("--again", "--engine", "compiled")):
        finished = start(*options)
        assert finished.exit_code == 0
        assert not finished.says("ompiled the encoder")
