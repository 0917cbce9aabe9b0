"""Reads replies as they come: bytes in, events out, no sockets.

A request is answered by one kind of reply, and there is a class for each. Its `receive` takes the next bytes, cut
anywhere, and returns the events that they complete. `is_complete` turns true with the last byte of the reply; bytes
beyond that are an error, since no request caused them. What was looked at once is never looked at again, and what was
understood is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, Protocol, TypeVar

from memcload.memcached.protocol import BadReply, Difference, ErrorReply, Refusal, SpeaksTls, shown

_MAX_LINE = 2048  # bytes of a reply line; memcached's own are much shorter
_MAX_STATS = 2000  # lines; memcached's own are about a hundred
_MAX_DIGITS = 10  # of a value's length
_PROBE_REFUSED = b"CLIENT_ERROR"
_TLS_ALERT = b"\x15\x03"  # how a TLS server says that it does not understand

Event_co = TypeVar("Event_co", covariant=True)


class Reply(Protocol[Event_co]):
    """The reply to one request."""

    @property
    def is_complete(self) -> bool:
        """True once the last byte of the reply was received."""
        ...

    def receive(self, data: bytes) -> Sequence[Event_co]:
        """Take the next bytes; return the events that they complete. Raises BadReply or ErrorReply."""
        ...


class _LineReply(Generic[Event_co]):
    """A reply that is made of lines."""

    def __init__(self) -> None:
        self._begun = bytearray()  # a line whose end is not there yet
        self.is_complete = False

    def receive(self, data: bytes) -> Sequence[Event_co]:
        """Take the next bytes; return the events that they complete."""
        if self.is_complete and data:
            raise _too_many()
        begun = self._begun
        end = data.rfind(b"\n")
        events: Sequence[Event_co] = ()
        if end < 0:
            begun += data
        else:
            text = bytes(begun) + data[:end]
            begun[:] = data[end + 1 :]
            lines = text.replace(b"\r\n", b"\n").removesuffix(b"\r").split(b"\n")
            if len(text) > _MAX_LINE and max(map(len, lines)) > _MAX_LINE:
                raise _too_long()
            events = self._read(lines)
            if self.is_complete and begun:
                raise _too_many()
        if len(begun) > _MAX_LINE:
            raise _too_long()
        return events

    def _read(self, lines: list[bytes]) -> Sequence[Event_co]:
        """Return the events in these lines; set `is_complete` where the last of them ends the reply."""
        raise NotImplementedError


class BatchReply(_LineReply[int]):
    """The reply to `count` quiet meta sets and the command that ends them. Its events are numbers of refusals.

    Which records they are about is not known: some of memcached's error lines do not name their key.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._remaining = count

    def _read(self, lines: list[bytes]) -> list[int]:
        refusals = len(lines)
        if b"MN" in lines:
            refusals -= 1
            if lines.index(b"MN") != refusals:
                raise _too_many()
            self.is_complete = True
        self._remaining -= refusals
        if self._remaining < 0:
            raise _too_many()
        return [refusals] if refusals else []


class SetReplies(_LineReply[Refusal]):
    """The replies to `count` classic sets, a line each. Its events are the refusals among them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        self._position = 0
        self.is_complete = not count

    def _read(self, lines: list[bytes]) -> list[Refusal]:
        refusals = []
        if len(lines) > self._count - self._position:
            raise _too_many()
        for position, line in enumerate(lines, self._position):
            if line != b"STORED":
                refusals.append(_refusal(position, line))
        self._position += len(lines)
        self.is_complete = self._position == self._count
        return refusals


class OneLine(_LineReply[bytes]):
    """A reply of one line, which is its event."""

    def _read(self, lines: list[bytes]) -> list[bytes]:
        if len(lines) > 1:
            raise _too_many()
        self.is_complete = True
        return lines


class VersionReply(OneLine):
    """The reply to VERSION. Its event is the version."""

    def receive(self, data: bytes) -> Sequence[bytes]:
        """Take the next bytes; return the version when it is complete. Raises SpeaksTls."""
        if not self._begun and data.startswith(_TLS_ALERT):
            raise SpeaksTls
        return super().receive(data)

    def _read(self, lines: list[bytes]) -> list[bytes]:
        word, _, version = super()._read(lines)[0].partition(b" ")
        if word == b"VERSION":
            return [version]
        raise _error(lines[0])


class StatsReply(_LineReply[tuple[bytes, bytes]]):
    """The reply to STATS. Its events are names with their values."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    @property
    def has_begun(self) -> bool:
        """True if the server has begun to report its statistics."""
        return self._count > 0 or self._begun.startswith(b"STAT")

    def _read(self, lines: list[bytes]) -> list[tuple[bytes, bytes]]:
        stats = []
        for line in lines:
            if self.is_complete:
                raise _too_many()
            word, _, rest = line.partition(b" ")
            if word == b"STAT":
                name, _, value = rest.partition(b" ")
                stats.append((name, value))
            elif word == b"END":
                self.is_complete = True
            else:
                raise _error(line)
        self._count += len(lines)
        if self._count > _MAX_STATS:
            raise BadReply("sent stats without an end")
        return stats


class ProbeReply(_LineReply[bool]):
    """The reply to PROBE. Its event says whether the server understands the commands that batches are made of."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[bytes] = []

    @property
    def has_begun(self) -> bool:
        """True if the server has begun to show that it understands."""
        return (self._seen[0] if self._seen else self._begun).startswith(_PROBE_REFUSED)

    def _read(self, lines: list[bytes]) -> list[bool]:
        self._seen += lines
        understood = len(self._seen) > 1 and self._seen[0].startswith(_PROBE_REFUSED) and self._seen[1] == b"EN"
        if len(self._seen) < (3 if understood else 4):
            return []
        if len(self._seen) > (3 if understood else 4):
            raise _too_many()
        self.is_complete = True
        return [understood and self._seen[2] == b"MN"]


class LookupReplies:
    """The replies to lookups by meta gets or classic gets. Its events are differences to the expected replies.

    While everything is as expected, what comes is only compared. From the first byte that differs on, the replies are
    taken apart.

    Args:
        count: how many keys were looked up.
        expected: the replies to meta gets if the server holds every record as it should.
    """

    def __init__(self, count: int, expected: bytes) -> None:
        self._count = count
        self._expected = expected
        self._compared = 0  # bytes that are as expected, while everything is
        self._parser: _ValueParser | None = None
        self.is_complete = not count

    def receive(self, data: bytes) -> Sequence[Difference]:
        """Take the next bytes; return the differences that they complete."""
        if self._parser is None:
            if data and self._expected.startswith(data, self._compared):
                self._compared += len(data)
                self.is_complete = self._compared == len(self._expected)
                return ()
            if self.is_complete and data:
                raise _too_many()
            self._parser = _ValueParser(self._count, self._expected)
            self._parser.receive(self._expected[: self._compared])
        differences = self._parser.receive(data)
        self.is_complete = self._parser.is_complete
        return differences


class _ValueParser:
    """Takes the replies to lookups apart and compares them, value by value, with the expected ones."""

    def __init__(self, count: int, expected: bytes) -> None:
        self._remaining = count
        self._expected = memoryview(expected)
        self._wanted_at = 0  # where in `expected` the reply to the current lookup begins
        self._position = 0
        self._line = bytearray()  # a line whose end is not there yet
        self._value_left = 0  # bytes of the current value, with its line end, that are still to come
        self._value_at = 0  # where in `expected` they should be found
        self._is_different = False
        self._needs_end = False  # a value in answer to a classic get is followed by a line of its own
        self.is_complete = not count

    def receive(self, data: bytes) -> list[Difference]:
        differences: list[Difference] = []
        view = memoryview(data)
        at = 0
        while at < len(data):
            if self.is_complete:
                raise _too_many()
            if self._value_left:
                part = view[at : at + self._value_left]
                at += len(part)
                self._compare(part)
                if not self._value_left and not self._needs_end:
                    self._finish("different" if self._is_different else None, differences)
                continue
            end = data.find(b"\n", at, at + _MAX_LINE)
            self._line += view[at : end + 1] if end >= 0 else view[at:]
            at = end + 1 if end >= 0 else len(data)
            if len(self._line) > _MAX_LINE:
                raise _too_long()
            if end >= 0:
                line = bytes(self._line).rstrip(b"\r\n")
                self._line.clear()
                self._read(line, differences)
        return differences

    def _read(self, line: bytes, differences: list[Difference]) -> None:
        if self._needs_end:
            if line != b"END":
                raise _error(line)
            self._needs_end = False
            self._finish("different" if self._is_different else None, differences)
        elif line in (b"EN", b"END"):
            self._finish("missing", differences)
        else:
            words = line.split(b" ")
            length = words[1] if words[0] == b"VA" and len(words) > 1 else b""
            if words[0] == b"VALUE" and len(words) > 3:
                length = words[3]
            if not (length.isdigit() and len(length) <= _MAX_DIGITS):
                raise _error(line)
            self._needs_end = words[0] == b"VALUE"
            self._expect(int(length))

    def _expect(self, length: int) -> None:
        wanted, wanted_end = self._wanted()
        self._value_left = length + 2
        self._value_at = wanted
        self._is_different = wanted_end - wanted != self._value_left

    def _wanted(self) -> tuple[int, int]:
        """Return where in `expected` the value of the current lookup begins and ends, with its line end."""
        header = bytes(self._expected[self._wanted_at : self._wanted_at + len("VA \r\n") + _MAX_DIGITS])
        line = header[: header.index(b"\r\n")]
        value = self._wanted_at + len(line) + 2
        return value, value + int(line.split(b" ")[1]) + 2

    def _compare(self, part: memoryview) -> None:
        self._value_left -= len(part)
        if not self._is_different:
            self._is_different = part != self._expected[self._value_at : self._value_at + len(part)]
            self._value_at += len(part)

    def _finish(self, kind: Literal["missing", "different"] | None, differences: list[Difference]) -> None:
        if kind:
            differences.append(Difference(self._position, kind))
        self._wanted_at = self._wanted()[1]
        self._position += 1
        self._remaining -= 1
        self.is_complete = not self._remaining


def _refusal(position: int, line: bytes) -> Refusal:
    """Make a refusal of the reply to a `set`."""
    if not line.startswith((b"SERVER_ERROR", b"NOT_STORED")):
        raise _error(line)
    return Refusal(position, b"too large" in line, shown(line))


def _error(line: bytes) -> Exception:
    """Return the exception for a line that is not a reply to the request."""
    if line.startswith((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")):
        return ErrorReply(line)
    return _nonsense(line)


def _nonsense(line: bytes) -> BadReply:
    return BadReply(f"sent a reply that is not memcached's: {shown(line[:40])!r}")


def _too_many() -> BadReply:
    return BadReply("sent more replies than requests")


def _too_long() -> BadReply:
    return BadReply("sent a reply line that is too long")
