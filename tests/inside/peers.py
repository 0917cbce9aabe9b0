"""Servers that are odd: scripted ones, and front ends that stand before a real memcached and know less than it does."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tools.servers import FREE_PORTS

Talk = Callable[[socket.socket], None]
"""What a server does with a connection, which is closed afterwards."""


class Peer:
    """Listens, and lets `talk` deal with each connection in a thread. A context manager.

    connections: how many there were
    """

    def __init__(self, talk: Talk, path: Path | None = None) -> None:
        self._talk = talk
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.connections = 0
        if path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.address = f"unix:{path}"
        else:
            self._listener = _listen()
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Peer:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def close_connections(self) -> None:
        """Close the connections that there are, as a proxy does with those that are idle."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._sockets.append(sock)
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._talk(sock)


def _listen() -> socket.socket:
    for port in random.sample(FREE_PORTS, 20):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise OSError("no free port among 20 tried")


class Hangup(Exception):
    """Raised by a front end: it closes the connection."""


class Cut(Hangup):
    """Raised by a front end: it closes the connection after these bytes."""

    def __init__(self, last: bytes) -> None:
        super().__init__()
        self.last = last


class FrontEnd:
    """Reads commands one by one and passes them on to a real memcached.

    seen: how often each command was received, over all connections
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.seen: Counter[bytes] = Counter()

    def __call__(self, sock: socket.socket) -> None:
        """Serve one connection."""
        host, _, port = self._upstream.rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            self._passes(sock, sock.makefile("rb"), server, server.makefile("rb"))

    def _passes(self, client: socket.socket, requests: BinaryIO, server: socket.socket, replies: BinaryIO) -> None:
        with contextlib.suppress(Hangup):
            while line := requests.readline():
                words = line.split()
                word = words[0] if words else b""
                self.seen[word] += 1
                if (reply := self.answer(word, words, line)) is not None:
                    client.sendall(reply)
                    continue
                data = requests.read(self.size(word, words)) if word in (b"set", b"ms") else b""
                server.sendall(line + data)
                if word == b"ms" and b"q" in words and not any(flag.startswith(b"M") for flag in words[3:]):
                    continue
                try:
                    for part in self._reply(word, replies):
                        client.sendall(self.change(part))
                except Cut as cut:
                    client.sendall(cut.last)
                    return

    @staticmethod
    def size(word: bytes, words: list[bytes]) -> int:
        """Return how many bytes of data follow a command."""
        return int(words[4 if word == b"set" else 2]) + 2

    @staticmethod
    def _reply(word: bytes, replies: BinaryIO) -> Iterator[bytes]:
        line = replies.readline()
        if not line:
            raise Hangup
        yield line
        while word in (b"stats", b"get") and not line.startswith((b"END", b"ERROR")):
            if line.startswith(b"VALUE"):
                yield replies.read(int(line.split()[3]) + 2)
            line = replies.readline()
            yield line
        if line.startswith(b"VA "):
            yield replies.read(int(line.split()[1]) + 2)

    def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
        """Return the answer to a command that is not passed on; None for others. May raise Hangup."""
        return None

    def change(self, reply: bytes) -> bytes:
        """Return what becomes of a part of a reply."""
        return reply


class NoMeta(FrontEnd):
    """A server of before meta commands."""

    def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
        return None if word in (b"set", b"get", b"version", b"stats") else b"ERROR\r\n"


class OldMeta(FrontEnd):
    """memcached 1.6.0 to 1.6.9, whose `ms` has the length of the value as a flag: `ms key S5`."""

    def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
        if word == b"ms" and any(flag[:1] not in b"qkSTMFCIO" for flag in words[2:]):
            return b"CLIENT_ERROR invalid flag\r\n"  # and the value is read as commands
        if word == b"version":
            return b"VERSION 1.6.9\r\n"
        return None


class NoStats(FrontEnd):
    """A proxy that knows all commands but those about servers."""

    def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
        return b"ERROR\r\n" if word == b"stats" else None


class OwnStats(FrontEnd):
    """A proxy whose statistics are its own."""

    def __init__(self, upstream: str, stats: bytes) -> None:
        super().__init__(upstream)
        self._stats = stats

    def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
        return self._stats if word == b"stats" else None


class Picky(FrontEnd):
    """A proxy that closes the connection at every command that it does not know, as twemproxy does."""

    def answer(self, word: bytes, words: list[bytes], line: bytes) -> bytes | None:
        if word in (b"set", b"get", b"version"):
            return None
        raise Hangup


class SameProcess(FrontEnd):
    """A server in a container, whose process always has the same number, and here the same start as well."""

    def change(self, reply: bytes) -> bytes:
        if reply.startswith((b"STAT pid ", b"STAT time ", b"STAT uptime ")):
            return b" ".join(reply.split()[:2]) + b" 1\r\n"
        return reply


@contextmanager
def listening(command: Callable[[int], Sequence[str]]) -> Iterator[str]:
    """Start a program that listens on the port it is given; yield its address once it takes connections.

    Unlike what tools.servers starts, it need not answer just anybody.
    """
    for port in random.sample(FREE_PORTS, 5):
        with subprocess.Popen(command(port)) as process:
            try:
                if _takes_connections(process, port):
                    yield f"127.0.0.1:{port}"
                    return
            finally:
                process.kill()
    raise OSError("it does not listen on any of five ports")


def _takes_connections(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)  # so that a program whose port is taken has ended
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return process.poll() is None
    return False


def replying(*replies: bytes) -> Talk:
    """Answer each chunk that is received with the next of these replies, then with nothing."""

    def talk(sock: socket.socket) -> None:
        remaining = iter(replies)
        while sock.recv(1 << 16):
            sock.sendall(next(remaining, b""))

    return talk
