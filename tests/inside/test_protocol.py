"""Bytes in, events out: what each kind of reply means, wherever it is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import replies
from memcload.memcached.protocol import (
    BadReply,
    Difference,
    ErrorReply,
    Refusal,
    SpeaksTls,
    authentication,
    classic_gets,
    classic_set,
    keys_of_meta_gets,
    meta_get,
    meta_set,
    meta_set_flags,
    meta_set_prefix,
    split_meta_set,
    value_reply,
)
from memcload.memcached.replies import (
    BatchReply,
    LookupReplies,
    OneLine,
    ProbeReply,
    Reply,
    SetReplies,
    StatsReply,
    VersionReply,
)

TOO_LARGE = b"SERVER_ERROR object too large for cache"
NO_MEMORY = b"SERVER_ERROR out of memory storing object"
VALUES = [b"one", b"", b"\r\nEN\r\n"]
WANTED = b"".join(map(value_reply, VALUES))

NewReply = Callable[[], Reply[Any]]


def batch() -> Reply[int]:
    return BatchReply(3)


def sets() -> Reply[Refusal]:
    return SetReplies(3)


def lookup() -> Reply[Difference]:
    return LookupReplies(3, WANTED)


COMPLETE: list[tuple[NewReply, bytes, list[Any]]] = [
    (batch, b"MN\r\n", []),
    (batch, b"NS \r\nMN\r\n", [1]),
    (batch, TOO_LARGE + b"\r\n" + NO_MEMORY + b"\r\nMN\r\n", [2]),
    (sets, b"STORED\r\n" * 3, []),
    (sets, b"STORED\nSTORED\nSTORED\n", []),
    (sets, b"STORED\r\n%b\r\nSTORED\r\n" % TOO_LARGE, [Refusal(1, True, TOO_LARGE.decode())]),
    (
        sets,
        b"NOT_STORED\r\nSTORED\r\n%b\r\n" % NO_MEMORY,
        [Refusal(0, False, "NOT_STORED"), Refusal(2, False, NO_MEMORY.decode())],
    ),
    (OneLine, b"STORED\r\n", [b"STORED"]),
    (VersionReply, b"VERSION 1.6.18\r\n", [b"1.6.18"]),
    (StatsReply, b"STAT pid 1\r\nSTAT a b c\r\nEND\r\n", [(b"pid", b"1"), (b"a", b"b c")]),
    (StatsReply, b"END\r\n", []),
    (lookup, WANTED, []),
    (lookup, b"EN\r\n" * 3, [Difference(n, "missing") for n in range(3)]),
    (lookup, b"END\r\n" * 3, [Difference(n, "missing") for n in range(3)]),
    (lookup, b"VA 3\r\none\r\nEN\r\nVA 6\r\n\r\nEN\r\n\r\n", [Difference(1, "missing")]),
    (lookup, b"VA 3\r\ntwo\r\nVA 0\r\n\r\nVA 2\r\nEN\r\n", [Difference(0, "different"), Difference(2, "different")]),
    (lookup, b"VALUE a 0 3\r\none\r\nEND\r\nEND\r\nVALUE c 0 6\r\n\r\nEN\r\n\r\nEND\r\n", [Difference(1, "missing")]),
    (lookup, b"VALUE a 0 1\r\n1\r\nEND\r\nVALUE b 9 0 7\r\n\r\nEND\r\nEND\r\n", [
        Difference(0, "different"), Difference(2, "missing")]),
    (ProbeReply, b"CLIENT_ERROR invalid mode for ms M token\r\nEN\r\nMN\r\n", [True]),
    (ProbeReply, b"CLIENT_ERROR invalid flag\r\nMN\r\nEN\r\nMN\r\n", [False]),
    (ProbeReply, b"ERROR\r\n" * 4, [False]),
    (ProbeReply, b"CLIENT_ERROR unauthenticated\r\n" * 4, [False]),
]  # fmt: skip

WRONG: list[tuple[NewReply, bytes, type[Exception], str]] = [
    (batch, b"MN\r\nMN\r\n", BadReply, "more replies than requests"),
    (batch, b"MN\r\nM", BadReply, "more replies than requests"),
    (batch, b"NS \r\n" * 4, BadReply, "more replies than requests"),
    (batch, b"x" * 5000, BadReply, "line that is too long"),
    (sets, b"STORED\r\n" * 4, BadReply, "more replies than requests"),
    (sets, b"HELLO\r\n", BadReply, "'HELLO'"),
    (sets, b"CLIENT_ERROR bad data chunk\r\n", ErrorReply, "bad data chunk"),
    (VersionReply, b"ERROR Too many open connections\r\n", ErrorReply, "Too many open connections"),
    (VersionReply, b"CLIENT_ERROR unauthenticated\r\n", ErrorReply, "unauthenticated"),
    (VersionReply, b"HTTP/1.1 400 Bad Request\r\n", BadReply, "HTTP"),
    (VersionReply, b"VERSION 1\r\nVERSION 1\r\n", BadReply, "more replies than requests"),
    (StatsReply, b"ERROR\r\n", ErrorReply, "^ERROR$"),
    (StatsReply, b"STAT a b\r\n" * 3000, BadReply, "stats without an end"),
    (StatsReply, b"STAT pid %b\r\nEND\r\n" % (b"1" * 5000), BadReply, "line that is too long"),
    (VersionReply, b"VERSION %b\r\n" % (b"1" * 5000), BadReply, "line that is too long"),
    (StatsReply, b"END\r\nEND\r\n", BadReply, "more replies than requests"),
    (lookup, WANTED + b"E", BadReply, "more replies than requests"),
    (lookup, b"EN\r\n" * 4, BadReply, "more replies than requests"),
    (lookup, b"VA\r\n", BadReply, "'VA'"),
    (lookup, b"VA -1\r\n", BadReply, "'VA -1'"),
    (lookup, b"VA 11111111111\r\n", BadReply, "'VA 11"),
    (lookup, b"VALUE a 0\r\n", BadReply, "'VALUE a 0'"),
    (lookup, b"VALUE a 0 3\r\none\r\nVALUE\r\n", BadReply, "VALUE"),
    (lookup, b"SERVER_ERROR out of memory\r\n", ErrorReply, "out of memory"),
    (lookup, b"VA 3" + b" " * 5000, BadReply, "line that is too long"),
]


def fed(reply: Reply[Any], pieces: Sequence[bytes]) -> list[Any]:
    events: list[Any] = []
    for piece in pieces:
        assert not reply.is_complete
        events += reply.receive(piece)
    return events


def merged(events: list[Any]) -> list[Any]:
    """Add up numbers of refusals: how many make one event depends on the cuts."""
    return [sum(events)] if events and type(events[0]) is int else events


def receive_in_pieces(reply: Reply[Any], data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        reply.receive(data[at : at + size])


@pytest.mark.parametrize(("new", "data", "events"), COMPLETE)
def test_a_reply_is_understood_wherever_it_is_cut(new: NewReply, data: bytes, events: list[Any]) -> None:
    for cut in range(1, len(data) + 1):
        reply = new()
        assert merged(fed(reply, [data[:cut], data[cut:]] if data[cut:] else [data])) == events
        assert reply.is_complete
    reply = new()
    assert merged(fed(reply, [data[at : at + 1] for at in range(len(data))])) == events
    assert reply.is_complete


@pytest.mark.parametrize(("new", "data", "events"), COMPLETE)
def test_a_reply_is_complete_with_its_last_byte_and_nothing_may_follow(
    new: NewReply, data: bytes, events: list[Any]
) -> None:
    for cut in range(len(data)):
        reply = new()
        reply.receive(data[:cut])
        assert not reply.is_complete
    for surplus in (b"x", b"\r\n", b"MN\r\n"):
        reply = new()
        with pytest.raises((BadReply, ErrorReply)):
            reply.receive(data + surplus)
        reply = new()
        reply.receive(data)
        with pytest.raises((BadReply, ErrorReply)):
            reply.receive(surplus)


@pytest.mark.parametrize(("new", "data", "error", "says"), WRONG)
def test_what_is_no_reply_is_an_error_that_says_what_came(
    new: NewReply, data: bytes, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        new().receive(data)
    for size in (1, 7):
        with pytest.raises((BadReply, ErrorReply)):
            receive_in_pieces(new(), data, size)


def test_nothing_is_kept_of_what_was_understood() -> None:
    reply = BatchReply(1_000_000)
    for _ in range(1000):
        assert reply.receive(b"NS \r\n" * 100) == [100]
    large = LookupReplies(1, value_reply(b"x"))
    large.receive(b"VA 100000000\r\n")
    for _ in range(100):
        assert large.receive(bytes(1_000_000)) == []
    assert large.receive(b"\r\n") == [Difference(0, "different")]


def test_an_alert_shows_a_server_that_wants_tls() -> None:
    with pytest.raises(SpeaksTls):
        VersionReply().receive(b"\x15\x03\x03\x00\x02\x02\x46")


# --- commands -----------------------------------------------------------------------------------

KEYS = st.binary(min_size=1, max_size=250).map(lambda key: bytes(0x21 + byte % 94 for byte in key))
DATA = st.binary(max_size=1200) | st.sampled_from([b"", b"\r\n", b"MN\r\n", b"ms key 5\r\nvalue\r\n"])


@given(KEYS, DATA, st.sampled_from([0, 1, 30 * 24 * 3600, 31 * 24 * 3600]))
def test_a_meta_set_splits_into_key_and_value(key: bytes, value: bytes, ttl: int) -> None:
    assert split_meta_set(meta_set(key, value, meta_set_flags(ttl))) == (key, value)


def test_the_commands_are_those_of_the_protocol() -> None:
    assert meta_set(b"k", b"v", meta_set_flags(0)) == b"ms k 001 q\r\nv\r\n"
    assert meta_set(b"k", b"v" * 1000, meta_set_flags(60)) == b"ms k 1000 T60 q\r\n" + b"v" * 1000 + b"\r\n"
    assert meta_set(b"idfa:1", b"", b" q\r\n").startswith(meta_set_prefix("idfa"))
    assert classic_set(b"k", b"\r\n", 60) == b"set k 0 60 2\r\n\r\n\r\n"
    assert keys_of_meta_gets(meta_get(b"a") + meta_get(b"v")) == [b"a", b"v"]
    assert classic_gets([b"a", b"b"]) == b"get a\r\nget b\r\n"
    assert authentication(b"user", b"a:b c") == b"set auth 0 -1 10\r\nuser a:b c\r\n"


@pytest.mark.parametrize("kind", [replies.batch, replies.sets, replies.same_values, replies.other_values])
def test_a_byte_of_a_long_reply_costs_no_more_than_one_of_a_short_reply(
    kind: Callable[[int], tuple[Reply[Any], bytes]],
) -> None:
    short = min(replies.nanoseconds_a_byte(*kind(20_000), 1) for _ in range(5))
    long = min(replies.nanoseconds_a_byte(*kind(400_000), 1) for _ in range(2))
    assert long < 5 * short  # and not 20 times
