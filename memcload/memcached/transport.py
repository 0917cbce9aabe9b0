"""One connection to a server: a request goes out while its reply comes in, under one deadline."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from memcload.cancel import Cancel
from memcload.memcached.deadline import Deadline
from memcload.memcached.protocol import BadReply
from memcload.memcached.replies import Reply

Buffer = bytes | bytearray | memoryview
Event = TypeVar("Event")

# memcached 1.6.18 reads up to 16 KiB from a TLS connection and then waits for the socket, whatever OpenSSL still holds.
# So what is sent at once over TLS has to fit there, with some bytes of a command that was begun before.
TLS_SEND_SIZE = 15_500

_READ_SIZE = 1 << 16
_MAX_WAIT = 0.05  # seconds; a run that is cancelled shortens deadlines
_MAX_BUFFERS = 512  # that are sent at once; Linux and macOS take 1024
_MAX_QUEUED = 1 << 21  # bytes of buffers that are made before they can be sent


class Closed(ConnectionError):
    """The server closed the connection."""

    def __init__(self) -> None:
        super().__init__("connection closed by the server")


class Channel:
    """Sends requests over a connected socket and reads their replies. For one thread at a time.

    Args:
        sock: a socket, or one that speaks TLS; it belongs to the channel from now on.
        timeout: seconds without any progress in sending, and from the end of a request to the end of its reply.
        cancel: once set, a request in flight may take `timeout` seconds from then.
    """

    def __init__(self, sock: socket.socket, timeout: float, cancel: Cancel | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._timeout = timeout
        self._cancel = cancel
        self._send_waits_for = select.POLLOUT  # over TLS a send may have to wait for what is received,
        self._receive_waits_for = 0  # and the other way round
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._polled = select.POLLIN  # what is waited for

    def exchange(self, buffers: Iterable[Buffer], reply: Reply[Event]) -> list[Event]:
        """Send a request, read its reply, and return the reply's events. After an error the channel is of no use.

        Args:
            buffers: the request; over TLS no buffer is sent together with the next.
            reply: what understands the reply.

        Raises:
            TimeoutError: there was no progress in time.
            OSError: the connection broke.
            BadReply, ErrorReply: what came is no reply to the request.
        """
        events: list[Event] = []
        request = _Request(buffers)
        left = request.buffers
        deadline = Deadline(self._timeout, self._timeout, self._cancel)
        is_readable = False
        broken: OSError | None = None
        while True:
            sent, data = 0, None
            if left and not broken:
                deadline.check()  # a process that was frozen meanwhile must not go on as if nothing had happened
                try:
                    sent = self._send(request)
                except (ConnectionError, ssl.SSLError) as error:
                    broken = error  # perhaps the server says why
            if sent:
                deadline.extend()
            if is_readable or broken or self._is_tls:
                data = self._receive()
            if data:
                events += reply.receive(data)
                if reply.is_complete:
                    if left:
                        raise BadReply("replied before the request was complete")
                    return events
            elif data is not None:
                raise Closed
            elif broken:
                raise broken
            if self._is_tls and (sent or data):
                deadline.check()
                continue  # poll knows nothing of what OpenSSL holds
            wants = select.POLLIN | self._receive_waits_for
            if left and not broken:
                wants |= self._send_waits_for
            is_readable = self._wait(wants, deadline)

    def is_stale(self) -> bool:
        """Return True if the server has closed the connection since the last reply. Raises OSError or BadReply."""
        if not self._is_tls and not self._poll.poll(0):
            return False
        try:
            data = self._receive()
        except OSError:
            return True
        if data:
            raise BadReply("sent more replies than requests")
        return data is not None

    def handshake(self, deadline: Deadline) -> None:
        """Agree on TLS. Raises OSError."""
        sock = self._sock
        assert isinstance(sock, ssl.SSLSocket)
        while True:
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)

    def end_requests(self) -> None:
        """Let the server know that no more requests come; what it has received it still works on."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def await_end(self) -> None:
        """Wait until the server has read all requests and has closed the connection. Raises TimeoutError."""
        deadline = Deadline(self._timeout, self._timeout, self._cancel)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while self._receive() != b"":
                deadline.check()
                self._wait(select.POLLIN, deadline)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._sock.close()

    # -- the socket

    def _send(self, request: _Request) -> int:
        """Send what can be sent now; return how many bytes that was."""
        self._send_waits_for = select.POLLOUT
        try:
            if self._is_tls:
                sent = self._sock.send(request.buffers[0][:TLS_SEND_SIZE])
            else:
                sent = self._sock.sendmsg(request.buffers)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0
        except ssl.SSLWantReadError:
            self._send_waits_for = 0
            return 0
        request.advance(sent)
        return sent

    def _receive(self) -> bytes | None:
        """Return bytes that were received, none of them if the connection has ended; None if there is nothing yet."""
        self._receive_waits_for = 0
        try:
            return self._sock.recv(_READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._receive_waits_for = select.POLLOUT
            return None
        except ssl.SSLEOFError:
            return b""

    def _wait(self, wants: int, deadline: Deadline) -> bool:
        """Wait until the socket can do something of what is wanted; return True if it is to be read."""
        if wants != self._polled:
            self._poll.modify(self._sock, wants)
            self._polled = wants
        while True:
            remaining = deadline.check()
            if self._cancel and remaining > _MAX_WAIT:
                remaining = _MAX_WAIT
            if ready := self._poll.poll(math.ceil(remaining * 1000)):
                return bool(ready[0][1] & ~select.POLLOUT)


class _Request:
    """What is still to be sent. It is made no sooner than it is needed.

    buffers: what is to be sent next
    """

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        self._coming: Iterator[Buffer] = iter(buffers)
        self.buffers: deque[memoryview] = deque()
        self._queued = 0
        self._fill()

    def advance(self, sent: int) -> None:
        """Note that some bytes were sent."""
        self._queued -= sent
        while sent:
            first = self.buffers.popleft()
            if sent < len(first):
                self.buffers.appendleft(first[sent:])
                break
            sent -= len(first)
        self._fill()

    def _fill(self) -> None:
        while self._queued < _MAX_QUEUED and len(self.buffers) < _MAX_BUFFERS:
            buffer = next(self._coming, None)
            if buffer is None:
                break
            if len(buffer):
                self.buffers.append(memoryview(buffer))
                self._queued += len(buffer)
