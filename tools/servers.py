"""Real memcached servers as local processes, for the demo, the tests and the benchmarks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from memcload.records import DEVICE_TYPES

# Set up for a load, as docs/operations.md says: a hash table for up to 1.5 million items, so that it does not grow
# while it is filled (8 MB), and up to 200 requests of a connection at a time.
LOAD_OPTIONS = ("-m", "1024", "-o", "hashpower=20", "-R", "200")

# Below the ports that systems hand out to clients: a client that keeps connecting to a port of that range
# while its server is down may end up connected to itself.
FREE_PORTS = range(20_000, 32_000)
START_TIMEOUT = 10.0
REPLY_TIMEOUT = 5.0


class ServerError(RuntimeError):
    """A memcached could not be started, or doesn't answer; the message says what to do."""


class MemcachedServer:
    """One memcached process that listens on 127.0.0.1 or a Unix socket.

    It is made by `start`, stopped by `stop` or by leaving a `with` block, and never outlives this Python
    process.

    Attributes:
        address: what a client connects to, `127.0.0.1:PORT` or `unix:PATH`; the same after `restart`.
        process: the running process, or the last one after `stop` or `kill`.

    """

    address: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, *options: str, port: int | None = None, socket: Path | None = None) -> MemcachedServer:
        """Start a server and return it once it answers.

        Args:
            options: more command line options for memcached, such as `"-m", "1024"`.
            port: the TCP port to listen on; any free one by default.
            socket: the Unix socket to listen on instead of a port.

        Raises:
            ServerError: memcached is not installed, the port is taken or an option is wrong.

        """
        if socket is not None:
            return cls(f"unix:{socket}", options)
        if port is not None:
            return cls(f"127.0.0.1:{port}", options)
        for candidate in random.sample(FREE_PORTS, 20):
            try:
                return cls(f"127.0.0.1:{candidate}", options)
            except _AddressTakenError:
                continue
        raise ServerError(f"no free port among 20 tried between {FREE_PORTS.start} and {FREE_PORTS.stop}")

    def __init__(self, address: str, options: tuple[str, ...]) -> None:
        self.address = address
        self._options = options
        self._launch()

    def __enter__(self) -> MemcachedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there; a frozen one is."""
        return self.process.poll() is None

    def client(self) -> AbstractContextManager[Client]:
        """Return a new client of this server for a `with` block, which closes it."""
        return connect(self.address)

    def stop(self) -> None:
        """End the server, frozen or not, and wait until it is gone. Does nothing when it is already."""
        # memcached has nothing to save: there is no gentler way to end it.
        self.kill()

    def kill(self) -> None:
        """Kill the server, as a crash would, and wait until it is gone. Does nothing when it is already."""
        # The guard goes first: it must not live to kill an unrelated process that was given the same id.
        for process in (self._guard, self.process):
            process.kill()
            process.wait()
        if self._guard.stdin:
            self._guard.stdin.close()

    def restart(self) -> None:
        """Kill the server and start it again at the same address: it answers, and has lost everything."""
        self.kill()
        self._launch()

    def freeze(self) -> None:
        """Halt the server: its connections stay open and nothing is answered until `thaw`."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # a busy machine takes its time to stop all threads

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self.process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Make the server drop every item.

        Raises:
            ServerError: the server doesn't answer.

        """
        try:
            with self.client() as client:
                client.flush_all(noreply=False)
        except (OSError, MemcacheError) as error:
            raise ServerError(f"memcached at {self.address} doesn't answer: {error}") from error

    def _launch(self) -> None:
        """Start the process and wait until it answers."""
        program = shutil.which("memcached")
        if program is None:
            raise ServerError(
                "memcached is not installed: install the package memcached with the system's package manager"
            )
        host, _, place = self.address.partition(":")
        listen = ["-s", place] if host == "unix" else ["-l", host, "-p", place]
        # As root, memcached starts only with -u. It stays root: another user could not make a socket in a
        # directory of root's.
        user = ["-u", "root"] if os.geteuid() == 0 else []
        with tempfile.TemporaryFile() as errors:
            # In a session of its own: Ctrl-C must not reach the server before the program that started it.
            self.process = subprocess.Popen(
                [program, *listen, *user, *self._options],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            self._guard = _guard(self.process.pid)
            deadline = time.monotonic() + START_TIMEOUT
            while not self._answers():
                if self.running and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                self.kill()
                errors.seek(0)
                message = errors.read().decode(errors="replace").strip()
                taken = self.process.returncode == os.EX_OSERR
                raise (_AddressTakenError if taken else ServerError)(
                    f"memcached did not start at {self.address}: {message or 'no answer'}"
                )

    def _answers(self) -> bool:
        """Return True if this very process answers, and not another that had the port before."""
        return server_pid(self.address) == self.process.pid


class _AddressTakenError(ServerError):
    """Something else listens there already."""


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills the process when this Python process ends, however it ends.

    The shell waits for the end of a pipe that only this process holds open, so that even SIGKILL closes it.
    """
    return subprocess.Popen(
        ["sh", "-c", 'read -r _; kill -KILL "$1"', "guard", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def connect(address: str) -> AbstractContextManager[Client]:
    """Return a client of the memcached at `address` for a `with` block, which closes it."""
    return closing(Client(address, connect_timeout=REPLY_TIMEOUT, timeout=REPLY_TIMEOUT))


def server_pid(address: str) -> int | None:
    """Return the process id that the memcached at `address` reports, or None when none answers there."""
    try:
        with connect(address) as client:
            return int(client.stats()[b"pid"])
    except (OSError, MemcacheError, KeyError):
        return None


@contextmanager
def four_servers(*options: str) -> Iterator[dict[str, MemcachedServer]]:
    """Start a server for each device type on free ports, and stop them all at the end of the `with` block.

    Args:
        options: more command line options for each memcached.

    Yields:
        The servers by device type.

    Raises:
        ServerError: memcached is not installed or an option is wrong.

    """
    with ExitStack() as stack:
        yield {name: stack.enter_context(MemcachedServer.start(*options)) for name in DEVICE_TYPES}
