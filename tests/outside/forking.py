"""Start a loader by a fork of a process that has imported what it imports: most of a start is spared.

It is a process like any other, with arguments, an environment, streams, a session and an end of its own; only Python
and the modules are there already. Run as a program, this file is the process that is forked:

    python forking.py SCRIPT MODULE...
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

FLAGS = ("-W", "error::ResourceWarning")  # Python's, for every loader
IS_POSSIBLE = hasattr(os, "pidfd_open")
PATIENCE = 60.0  # seconds for a process to begin
_ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("MEMC_LOAD_")}
_origins: list[tuple[subprocess.Popen[bytes], socket.socket]] = []


def can_fork(environ: Mapping[str, str]) -> bool:
    """Return True if a process that is forked here would be like one that is started in this environment.

    What differs may only be variables that neither Python nor any module looks at while it is imported.
    """
    others = {name for name, _ in _ENVIRON.items() ^ environ.items() if not name.startswith("AWS_")}
    return IS_POSSIBLE and others <= {"PYTEST_CURRENT_TEST"}


class Forked:
    """A process that was forked, with what `subprocess.Popen` has for one that was started."""

    def __init__(
        self,
        script: Path,
        modules: Sequence[str],
        arguments: Sequence[str],
        environ: Mapping[str, str],
        directory: str | Path,
    ) -> None:
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output, log = os.pipe(), os.pipe()
        with theirs:
            socket.send_fds(_origin(script, tuple(modules)), [b"x"], [theirs.fileno(), output[1], log[1]])
        os.close(output[1])
        os.close(log[1])
        self.stdout, self.stderr = open(output[0], "rb"), open(log[0], "rb")  # noqa: SIM115
        self._end.sendall(json.dumps([[str(script), *arguments], dict(environ), str(directory)]).encode())
        self._end.settimeout(PATIENCE)
        self.pid = int(self._end.recv(20))

    def poll(self) -> int | None:
        """Return the exit code, or None while the process is there."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code. Raises TimeoutExpired."""
        with self._lock:
            if self.returncode is None:
                self._end.settimeout(timeout)
                try:
                    self.returncode = int(self._end.recv(20))
                except (TimeoutError, BlockingIOError):
                    assert timeout is not None
                    raise subprocess.TimeoutExpired("a loader", timeout) from None
                self._end.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the process a signal, if it is still there; another thread may be waiting for its end."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def _origin(script: Path, modules: tuple[str, ...]) -> socket.socket:
    """Return where to ask for a fork of a process that has imported what the script imports, and these modules."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, *FLAGS, __file__, str(script), *modules]
        process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=_ENVIRON)
    _origins.append((process, ours))
    return ours


def end_origins() -> None:
    """End the processes that were forked."""
    _origin.cache_clear()
    while _origins:
        process, ours = _origins.pop()
        ours.close()
        process.wait()


# --- the process that is forked -------------------------------------------------------------------


def _modules_of(script: str) -> list[str]:
    """Return what a script has imported when it has looked at a log of one line."""
    reader, writer = os.pipe()
    with tempfile.NamedTemporaryFile() as log, open(reader) as found:
        log.write(b"idfa\t1\t1\t1\t1\n")
        log.flush()
        if not os.fork():
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 0)
            os.dup2(nothing, 2)
            sys.argv = [script, "--dry", "--pattern", log.name]
            with contextlib.suppress(BaseException):
                runpy.run_path(script, run_name="__main__")
            os.write(writer, "\n".join(sys.modules).encode())
            os._exit(0)
        os.close(writer)
        names = found.read().split()
        os.wait()
    return names


def _wait_for_a_fork() -> list[str]:
    """Fork for everyone who asks. Return in each child, with its arguments; the parent ends here."""
    with socket.socket(fileno=os.dup(0)) as asked, selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not asked:
                    _tell_the_end(selector, key)
                    continue
                _, given, _, _ = socket.recv_fds(asked, 1, 3)
                if not given:
                    sys.exit()
                pid = os.fork()
                if not pid:
                    for other in selector.get_map().values():
                        if other.fileobj is not asked:
                            os.close(other.fd)
                            os.close(other.data[1])
                    return _become(*given)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, given[0]))
                for descriptor in given[1:]:
                    os.close(descriptor)


def _tell_the_end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    selector.unregister(key.fileobj)
    os.close(key.fd)
    pid, end = key.data
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # nobody waits for it any more
        os.write(end, b"%d" % os.waitstatus_to_exitcode(status))
    os.close(end)


def _become(end: int, output: int, log: int) -> list[str]:
    """Make this process one that was started as it is asked for; return its arguments."""
    os.setsid()  # so that what it starts can be killed with it
    with socket.socket(fileno=end) as asked:
        arguments, environ, directory = json.loads(asked.recv(1 << 20))
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environ)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((nothing, 0), (output, 1), (log, 2)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        asked.send(b"%d" % os.getpid())
    assert isinstance(arguments, list)
    return arguments


def main() -> None:
    """Be the process that is forked, and each that it is forked into."""
    script, *modules = sys.argv[1:]
    sys.path[0] = os.path.dirname(script)
    for name in (*_modules_of(script), *modules):
        if name != "__main__":
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    gc.freeze()  # what is there will stay: no child has to look at it
    sys.argv = _wait_for_a_fork()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
