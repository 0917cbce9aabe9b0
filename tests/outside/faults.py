"""What can be wrong with a connection to memcached, for a `FaultyProxy` to do."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator

from tests.outside.proxy import CHUNK, Cut, Fault, FaultyProxy, NewFault, Reset


def delay(seconds: float) -> NewFault:
    """Every request comes later."""

    class Delay(Fault):
        def request(self, data: bytes) -> Iterator[bytes]:
            self.proxy.wait(seconds)
            yield data

    return Delay


def late(fault: NewFault, after: int) -> NewFault:
    """A connection is honest until `after` bytes of requests have passed."""

    class Late(Fault):
        def __init__(self, rng: random.Random, proxy: FaultyProxy) -> None:
            super().__init__(rng, proxy)
            self._later = fault(rng, proxy)
            self._remaining = after
            self.answers = True

        def request(self, data: bytes) -> Iterator[bytes]:
            self._remaining -= len(data)
            if self._remaining < 0:
                self.answers = self._later.answers
                yield from self._later.request(data)
            else:
                yield data

        def reply(self, data: bytes) -> Iterator[bytes]:
            yield from self._later.reply(data) if self._remaining < 0 else (data,)

    return Late


def trigger(after: int, action: Callable[[], None]) -> NewFault:
    """Something happens elsewhere, once, before more than `after` bytes of requests have passed in all."""

    class Trigger(Fault):
        def request(self, data: bytes) -> Iterator[bytes]:
            if self.proxy.is_due(after, len(data)):
                action()
            yield data

    return Trigger


def at(text: bytes, action: Callable[[], object]) -> NewFault:
    """Something happens elsewhere, once, before the first request with this text passes."""

    class At(Fault):
        def request(self, data: bytes) -> Iterator[bytes]:
            if text in data and self.proxy.is_due(0, 1):
                action()
            yield data

    return At


def every(size: int, action: Callable[[], object], *, most: int | None = None) -> NewFault:
    """Something happens elsewhere each time that another `size` bytes of requests have passed, `most` times."""
    passed = happened = 0
    lock = threading.Lock()

    class Every(Fault):
        def request(self, data: bytes) -> Iterator[bytes]:
            nonlocal passed, happened
            with lock:
                passed += len(data)
                is_due = passed > size * (happened + 1) and (most is None or happened < most)
                happened += is_due
            if is_due:
                action()
            yield data

    return Every


def held_until(event: threading.Event, *, seconds: float) -> NewFault:
    """Requests to store something wait for the event, but not longer than this."""

    class Held(Fault):
        def request(self, data: bytes) -> Iterator[bytes]:
            if data.startswith((b"ms ", b"set ")):
                event.wait(seconds)
            yield data

    return Held


def held_while(event: threading.Event) -> NewFault:
    """Nothing passes, in either direction, while the event is set."""

    class Held(Fault):
        def request(self, data: bytes) -> Iterator[bytes]:
            while event.is_set() and not self.proxy.is_closed:
                self.proxy.wait(0.05)
            yield data

        reply = request

    return Held


def cut(after: int) -> NewFault:
    """The connection is closed after `after` bytes of requests."""
    return _broken_after(after, Cut)


def reset(after: int) -> NewFault:
    """The connection is reset after `after` bytes of requests."""
    return _broken_after(after, Reset)


def _broken_after(after: int, end: type[Exception]) -> NewFault:
    class Broken(Fault):
        remaining = after

        def request(self, data: bytes) -> Iterator[bytes]:
            if len(data) > self.remaining:
                yield data[: self.remaining]
                raise end
            self.remaining -= len(data)
            yield data

    return Broken


class Blackhole(Fault):
    """The connection is accepted, and nothing is ever answered."""

    answers = False

    def request(self, data: bytes) -> Iterator[bytes]:
        yield from ()


class Garble(Fault):
    """Replies keep their line feeds, and make no sense."""

    def reply(self, data: bytes) -> Iterator[bytes]:
        yield bytes(byte if byte in b"\r\n" else self.rng.randrange(0x21, 0x100) for byte in data)


class Misspelled(Fault):
    """Replies to what was stored look like those of a server, and are not quite: never is one taken for another."""

    def reply(self, data: bytes) -> Iterator[bytes]:
        yield data.replace(b"MN\r\n", b"NM\r\n").replace(b"STORED\r\n", b"STORE\r\n")


class HalfReply(Fault):
    """The reply to a batch is cut in half, and the connection closed. Others pass, or none would get that far."""

    is_batch = False

    def request(self, data: bytes) -> Iterator[bytes]:
        self.is_batch |= data.startswith((b"ms ", b"set "))
        yield data

    def reply(self, data: bytes) -> Iterator[bytes]:
        if self.is_batch:
            yield data[: len(data) // 2]
            raise Cut
        yield data


class SingleBytes(Fault):
    """Replies are whole and true, but come byte by byte."""

    def reply(self, data: bytes) -> Iterator[bytes]:
        for byte in data:
            yield bytes([byte])


class Endless(Fault):
    """The answer to anything is garbage without an end."""

    def reply(self, data: bytes) -> Iterator[bytes]:
        while not self.proxy.is_closed:
            yield self.rng.randbytes(CHUNK).replace(b"\n", b" ")


def dribble(interval: float) -> NewFault:
    """Replies come a byte at a time, with a pause after each, and have no end."""

    class Dribble(Fault):
        def reply(self, data: bytes) -> Iterator[bytes]:
            while not self.proxy.is_closed:
                yield b"x"
                self.proxy.wait(interval)

    return Dribble


class KnowsNoMeta(Fault):
    """A memcached older than 1.6: ERROR to the line of a meta command, and to its value as another command.

    The real server says that itself, to a word that it does not know either.
    """

    known = re.compile(rb"(?:set|get|gets|delete|stats|version|flush_all)\b")

    def __init__(self, rng: random.Random, proxy: FaultyProxy) -> None:
        super().__init__(rng, proxy)
        self._unread = b""
        self._value_left = 0

    def request(self, data: bytes) -> Iterator[bytes]:
        self._unread += data
        while self._unread:
            if self._value_left:
                value, self._unread = self._unread[: self._value_left], self._unread[self._value_left :]
                self._value_left -= len(value)
                yield value
                continue
            line, end, rest = self._unread.partition(b"\n")
            if not end:
                return
            self._unread = rest
            if self.known.match(line):
                if line.startswith(b"set "):
                    self._value_left = int(line.split()[4]) + len(b"\r\n")
                yield line + end
            else:
                yield from self.unknown(line)

    def unknown(self, line: bytes) -> Iterator[bytes]:
        yield b"unknown\r\n"


class ClosesOnUnknown(KnowsNoMeta):
    """A proxy in front of memcached that closes the connection on every command it does not know."""

    known = re.compile(rb"(?:set|get|gets|delete|version)\b")

    def unknown(self, line: bytes) -> Iterator[bytes]:
        raise Cut
        yield b""  # this is a generator, like what it stands in for


class AnswersAndCloses(KnowsNoMeta):
    """A proxy in front of memcached that answers a command it does not know with an error, and then closes."""

    known = ClosesOnUnknown.known

    def unknown(self, line: bytes) -> Iterator[bytes]:
        yield b"unknown\r\n"
        raise Cut


class OldMeta(KnowsNoMeta):
    """memcached 1.6.0 to 1.6.9, whose `ms` has the length of its value as a flag: `ms key S5`.

    Any other `ms` is refused, and its value is read as commands.
    """

    known = re.compile(rb"(?!ms )")

    def unknown(self, line: bytes) -> Iterator[bytes]:
        yield b"touch key never\r\n"  # which the real server refuses, as the old one that line


class BreaksInBatch(KnowsNoMeta):
    """Such a server whose connection ends within a batch of records: some are stored, others are not."""

    passed = 0

    def request(self, data: bytes) -> Iterator[bytes]:
        for piece in super().request(data):
            self.passed += len(piece)
            if self.passed > 1500:
                raise Cut
            yield piece


class SamePid(Fault):
    """A server in a container: its process has the same number after a restart as before."""

    def reply(self, data: bytes) -> Iterator[bytes]:
        yield re.sub(rb"STAT pid \d+", b"STAT pid 1", data)


class TellsNoStats(Fault):
    """A proxy that speaks meta commands but does not say which servers are behind it."""

    def request(self, data: bytes) -> Iterator[bytes]:
        yield b"unknown\r\n" if data == b"stats\r\n" else data


class TellsOwnStats(Fault):
    """A proxy that tells its own process and time, as mcrouter does, and counts no items but servers."""

    def reply(self, data: bytes) -> Iterator[bytes]:
        data = re.sub(rb"STAT (?!pid |time |uptime )[^\n]*\n", b"", data)
        yield re.sub(rb"STAT pid [^\n]*\n", rb"\g<0>STAT num_servers 1\r\n", data)


class TellsNoStatsAndCloses(TellsNoStats):
    """Such a proxy that closes a connection after some requests."""

    passed = 0

    def request(self, data: bytes) -> Iterator[bytes]:
        for piece in super().request(data):
            self.passed += len(piece)
            if self.passed > 3000:
                raise Cut
            yield piece


def counting_evictions_as(name: bytes) -> NewFault:
    """The server counts what it evicts under another name."""

    class Renames(Fault):
        def reply(self, data: bytes) -> Iterator[bytes]:
            data = re.sub(rb"STAT %b \d+\r\n" % name, b"", data)
            yield re.sub(rb"STAT evictions (\d+)\r\n", rb"STAT evictions 0\r\nSTAT %b \1\r\n" % name, data)

    return Renames
