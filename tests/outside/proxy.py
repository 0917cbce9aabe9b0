"""A small TCP proxy that stands before a real memcached and does harm, the same harm for the same seed.

What reached the server before a connection is cut or reset has been worked on when its client learns of the
end: the proxy ends its own side first, waits until the server has let go, and then turns to the client.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from tools.servers import FREE_PORTS

CHUNK = 1 << 16
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER


class Cut(Exception):
    """Raised by a fault: the connection ends here, in good order."""


class Reset(Exception):
    """Raised by a fault: the connection ends here, with a reset."""


class Fault:
    """What is wrong with one connection. This one is honest: everything passes."""

    answers = True  # at least with the end of the connection, when the client ends it

    def __init__(self, rng: random.Random, proxy: FaultyProxy) -> None:
        self.rng = rng
        self.proxy = proxy

    def request(self, data: bytes) -> Iterator[bytes]:
        """Yield what the server gets of what the client sent. May raise Cut or Reset."""
        yield data

    def reply(self, data: bytes) -> Iterator[bytes]:
        """Yield what the client gets of what the server sent. May raise Cut or Reset."""
        yield data


NewFault = Callable[[random.Random, "FaultyProxy"], Fault]


class FaultyProxy:
    """A proxy on 127.0.0.1 for `upstream`, by default an honest one. A context manager; leaving it ends it.

    fault: what is wrong with connections; it may be changed at any time, for those that come later
    faulty: how many connections there is something wrong with, the others are honest; None for all
    most: how many connections are taken before all others are refused; None for any number
    idle: after how many seconds without a request a connection is closed; None for never
    """

    def __init__(
        self,
        upstream: str,
        fault: NewFault = Fault,
        *,
        seed: int = 0,
        faulty: int | None = None,
        most: int | None = None,
        idle: float | None = None,
    ) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self.fault = fault
        self._rng = random.Random(seed)
        self._faulty = faulty
        self._capacity = most
        self._idle = idle
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._requested = 0
        self._has_triggered = False
        self.connections = 0
        self._listener = _listen()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Whether the proxy has come to its end."""
        return self._closed.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond the end of the proxy."""
        self._closed.wait(seconds)

    def is_due(self, after: int, more: int) -> bool:
        """Tell, once, that with `more` bytes of requests there were over `after` of them in all."""
        with self._lock:
            self._requested += more
            is_due = self._requested > after and not self._has_triggered
            self._has_triggered |= is_due
        return is_due

    def drain(self) -> None:
        """Wait until all connections have ended, and what was delayed has come through."""
        for thread in self._threads[1:]:
            thread.join()

    def break_connections(self) -> None:
        """End all connections there are, on both sides."""
        with self._lock:
            for sock in self._sockets:
                _end(sock)

    def close(self) -> None:
        """End everything, and wait until it has ended."""
        self._closed.set()
        _end(self._listener)
        self.break_connections()
        for thread in self._threads:
            thread.join()

    # -- connections

    def _start(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while self._capacity is None or self.connections < self._capacity:
                client, _ = self._listener.accept()
                self.connections += 1
                is_honest = self._faulty is not None and self.connections > self._faulty
                fault = (Fault if is_honest else self.fault)(random.Random(self._rng.random()), self)
                self._start(self._serve, client, fault)

    def _serve(self, client: socket.socket, fault: Fault) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._upstream) as server:
            with self._lock:
                if self.is_closed:
                    return
                self._sockets |= {client, server}
            try:
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.settimeout(self._idle)
                requests = self._start(self._pass_requests, client, server, fault)
                self._pass_replies(server, client, fault)
                if not self._is_to_be_reset(client):
                    _end(client)
                requests.join()
            finally:
                with self._lock:
                    self._sockets -= {client, server}

    @staticmethod
    def _is_to_be_reset(sock: socket.socket) -> bool:
        """Return True if closing the socket resets the connection; shutting it down first would not."""
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == _RESET_AT_CLOSE

    def _pass_requests(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        with contextlib.suppress(OSError):
            try:
                while data := client.recv(CHUNK):
                    for piece in fault.request(data):
                        server.sendall(piece)
            except Reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            except (Cut, OSError):
                pass
            if fault.answers:
                server.shutdown(socket.SHUT_WR)  # it closes once it has worked on all of it

    def _pass_replies(self, server: socket.socket, client: socket.socket, fault: Fault) -> None:
        """Pass replies on until the server closes; what can't be passed on any more is read all the same."""
        is_over = False
        with contextlib.suppress(OSError):
            while data := server.recv(CHUNK):
                try:
                    for piece in () if is_over else fault.reply(data):
                        client.sendall(piece)
                except (Cut, OSError):
                    is_over = True
                    server.shutdown(socket.SHUT_WR)


def _listen() -> socket.socket:
    for port in random.sample(FREE_PORTS, 20):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise OSError("no free port among 20 tried")


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
