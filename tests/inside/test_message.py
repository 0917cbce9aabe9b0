"""A record through protobuf, and as the log of a dry run shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appsinstalled_pb2 import UserApps
from memcload.encode import message
from memcload.encode.message import prototest, show, show_records, to_message
from memcload.memcached.routing import Router
from memcload.records import AppsInstalled, serialize
from memcload.text import Text

doubles = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50), doubles, doubles)
def test_a_value_is_what_protobuf_makes_of_the_record(apps: list[int], lat: float, lon: float) -> None:
    record = AppsInstalled("idfa", "x", lat, lon, apps)
    value = serialize(record)
    assert value == to_message(record).SerializeToString()
    assert UserApps.FromString(value) == to_message(record)


def test_the_samples_survive_protobuf() -> None:
    prototest()


def test_a_sample_that_does_not_survive_protobuf_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "serialize", lambda record: serialize(record)[:-1])
    with pytest.raises(AssertionError, match="is not"):
        prototest()


def test_a_record_is_shown_with_its_server_key_and_message() -> None:
    record = AppsInstalled("idfa", "x", 1.5, -2.25, [1, 300])
    assert show("127.0.0.1:33013", record) == "127.0.0.1:33013 - idfa:x -> apps: 1 apps: 300 lat: 1.5 lon: -2.25"


def test_of_a_text_only_records_that_are_to_be_loaded_are_shown() -> None:
    text = b"idfa\tx\t1.5\t1.5\t1\r\n\nno record\ngaid\ty\t1\t1\t1\nidfa\tz\t2.5\t2.5\t2\n"
    assert show_records(Text.of(text), Router({"idfa": ["h:1"]})) == [
        "h:1 - idfa:x -> apps: 1 lat: 1.5 lon: 1.5",
        "h:1 - idfa:z -> apps: 2 lat: 2.5 lon: 2.5",
    ]


def test_a_record_is_shown_with_the_server_that_its_key_belongs_to() -> None:
    router = Router({"idfa": ["h:1", "h:2", "h:3"]}, "crc32")
    lines = [b"idfa\t%d\t1\t1\t1\n" % number for number in range(20)]
    servers = [router.partitions[router.partition_of("idfa", b"idfa:%d" % number) or 0].server for number in range(20)]
    assert [shown.partition(" ")[0] for shown in show_records(Text.of(b"".join(lines)), router)] == servers
    assert set(servers) == {"h:1", "h:2", "h:3"}
