"""The compiled encoder makes what the Python encoder makes, byte for byte, of any bytes; and touches nothing else."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import cache
from itertools import islice
from random import Random
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memcload import records
from memcload.encode import compiled, layout
from memcload.encode.choice import choose_encoder
from memcload.encode.compiled import CompiledEncoder
from memcload.encode.encoder import Encoder, PythonEncoder
from memcload.encode.layout import Kernel
from memcload.memcached.batch import Batch
from memcload.memcached.routing import Router
from memcload.memcached.routing_rules import RoutingName
from memcload.records import DEVICE_TYPES, MAX_LINE_LENGTH
from memcload.text import Slice, Text
from tools.make_logs import log_lines

pytest.importorskip("numba")

ROUTINGS: tuple[RoutingName, ...] = get_args(RoutingName)


def router_of(count: int, routing: RoutingName = "rendezvous", only: tuple[str, ...] = DEVICE_TYPES) -> Router:
    """Return a router with `count` servers for each device type."""
    return Router(
        {name: [f"10.0.{name_at}.{at}:11211" for at in range(count)] for name_at, name in enumerate(only)}, routing
    )


ONE = router_of(1)
ROUTERS = {
    "one server": ONE,
    "two device types": router_of(1, only=("gaid", "dvid")),
    "three servers": router_of(3),
    "ten servers": router_of(10, "crc32"),
    "three servers of one device type": Router({"idfa": ["a:1", "b:1", "c:1"], "adid": ["d:1"]}, "crc32"),
}
routers = pytest.mark.parametrize("router", ROUTERS.values(), ids=list(ROUTERS))


@cache
def kernel_of(routing: RoutingName | None) -> Kernel:
    encoder = choose_encoder("compiled", ONE if routing is None else router_of(2, routing), 0, 0)()
    assert isinstance(encoder, CompiledEncoder)
    return encoder.kernel


@cache
def checked_kernel_of(routing: RoutingName | None) -> Kernel:
    from memcload.encode.build import checked_kernel

    return checked_kernel(routing)


def compiled_encoder(router: Router, ttl: int = 0) -> CompiledEncoder:
    return CompiledEncoder(kernel_of(router.routing if router.hashes_keys else None), router, ttl)


def checked_encoder(router: Router, ttl: int = 0) -> CompiledEncoder:
    """Return an encoder whose kernel raises IndexError at an index out of bounds."""
    return CompiledEncoder(checked_kernel_of(router.routing if router.hashes_keys else None), router, ttl)


def assert_same(texts: list[bytes], router: Router = ONE, ttl: int = 0) -> None:
    expected = PythonEncoder(router, ttl).encode(list(map(Text.of, texts)))
    for same in (list(map(Text.of, texts)), list(map(in_slices, texts))):
        assert compiled_encoder(router, ttl).encode(same) == expected
        assert checked_encoder(router, ttl).encode(same) == expected


def in_slices(lines: bytes) -> Text:
    """Return a text that lies in several buffers, each with something else around it."""
    slices = []
    for line in lines.split(b"\n")[:-1]:
        slices.append(Slice(b"idfa\ta\t0\t0\t7\n%b\nidfa\tb\t0\t0\t8\n" % line, 13, 14 + len(line)))
    return Text(slices)


device_types = st.sampled_from([b"idfa", b"gaid", b"adid", b"dvid", b"idfb", b"gai", b"", b"advid", b"idfaa"])
device_ids = st.one_of(
    st.text("0123456789abcdef", min_size=32, max_size=32).map(str.encode),
    st.binary(max_size=4),
    st.integers(240, 250).map(lambda length: b"~" * length),
)
coordinates = st.one_of(
    st.floats(-180, 180).map(lambda number: b"%.12g" % number),
    st.floats().map(lambda number: repr(number).encode()),
    st.from_regex(rb"[+-]?[0-9]{0,17}\.?[0-9]{0,17}", fullmatch=True),
    st.sampled_from([b"", b"-", b".", b"-0.0", b"5.", b".5", b"+1", b"1e5", b"00000000000000001", b"1_0", b"nan"]),
)
app_ids = st.one_of(
    st.integers(0, 9999).map(b"%d".__mod__),
    st.integers(0, 2**33).map(b"%d".__mod__),
    st.sampled_from([b"", b" 1", b"1 ", b"\r", b"0000", b"12:4", b"12/4", b"4294967295", b"4294967296", b"999999999"]),
)
lines = st.one_of(
    st.builds(
        lambda fields, apps, ending: b"\t".join([*fields, b",".join(apps)]) + ending + b"\n",
        st.tuples(device_types, device_ids, coordinates, coordinates),
        st.lists(app_ids, max_size=9),
        st.sampled_from([b"", b"", b"\r", b"\t", b",", b"\r\r"]),
    ),
    st.binary(max_size=30).map(lambda line: line + b"\n"),
)
texts_of_lines = st.lists(st.lists(lines, max_size=6).map(b"".join), max_size=3)


@settings(max_examples=60, deadline=None)
@given(texts_of_lines, st.sampled_from(list(ROUTERS.values())))
@example([b"\t" * 40 + b"\n"], ONE)
@example([b"idfa\tx\t1\t1\t" + b"1234," * 4 + b"12\n"], ONE)
def test_lines_of_the_right_shape_nearly(texts: list[bytes], router: Router) -> None:
    assert_same(texts, router)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(content: bytes) -> None:
    assert_same([content + b"\n"])


@routers
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lines_of_the_real_shape_with_bytes_changed(router: Router, seed: int) -> None:
    random = Random(seed)
    text = bytearray(b"".join(islice(log_lines(seed, malformed=0.05), 40)))
    for _ in range(random.randrange(40)):
        text[random.randrange(len(text) - 1)] = random.choice(b"\t\n\r ,.-+e0123456789\x00\xff")
    assert_same([bytes(text)], router)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_key_has_the_same_server_whatever_encodes_it(routing: RoutingName, count: int) -> None:
    router = router_of(count, routing)
    ids = [b"%0*x" % (length, 7919 * length**9 % 16**length) for length in range(1, 246)]
    text = b"".join(b"%b\t%b\t1\t1\t1\n" % (name.encode(), device_id) for device_id in ids for name in DEVICE_TYPES)
    encoded = compiled_encoder(router).encode([Text.of(text)])
    assert encoded == PythonEncoder(router, 0).encode([Text.of(text)])
    assert all(batch.count for batch in encoded.batches)


BORDERS = [
    b"",
    b"\n",
    b"\n\n\r\n \n",
    b"idfa\tx\t0\t0\t1\n" * 1000,  # the shortest records grow most
    b"idfa\tx\t0\t0\t1\n" * 1000 + b"idfa\t" + b"x" * 250 + b"\n",  # and then one more is begun
    b"idfa\tx\t0\t0\t1\n" * 1000 + b"idfa\t\n",
    b"idfa\t" + b"x" * 245 + b"\t0\t0\t1\n",
    b"idfa\t" + b"x" * 246 + b"\t0\t0\t1\n",
    b"idfa\tx\t0\t0\t" + b"1," * 489 + b"1\n",  # a value of 998 bytes
    b"idfa\tx\t0\t0\t" + b"1," * 490 + b"1\n",  # of 1000 bytes
    b"idfa\tx\t0\t0\t" + b"128," + b"1," * 488 + b"1\n",  # of 999 bytes
    b"idfa\tx\t0\t0\t" + b"9," * (MAX_LINE_LENGTH // 2 - 10) + b"9\n",
    b"idfa\tx\t0\t0\t" + b"9" * (MAX_LINE_LENGTH - 11) + b"\n",
    b"idfa\tx\t0\t0\t" + b"9" * MAX_LINE_LENGTH + b"\n",
    b"idfa\tx\t" + b"0" * MAX_LINE_LENGTH + b"\n",
    b"i\nid\nidf\nidfa\nidfa\t\nidfa\tx\nidfa\tx\t\nidfa\tx\t1\t\nidfa\tx\t1\t1\t\nidfa\tx\t1\t1\t1,\n",
    b"".join(b"idfa\tx\t0.%0*d\t-%0*d.5\t1\n" % (digits, 3, digits, 7) for digits in range(1, 19)),
    b"".join(b"idfa\tx\t1\t1\t%b,%b\n" % (b"9" * digits, b"1" * digits) for digits in range(1, 13)),
    b"idfa\tx\t1\t1\t1\r\n" * 3 + b"idfa\tx\t1\t1\t1\r\r\n" + b"idfa\tx\t1\t1\t1234,\r\n" + b"idfa\tx\t1\t1\t1\r",
]


@routers
@pytest.mark.parametrize("ttl", [0, 2592001])
@pytest.mark.parametrize("text", BORDERS, ids=lambda text: f"{text[:16]!r} {len(text)}")
def test_borders(text: bytes, ttl: int, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1e10)  # of which an expiry may be made, with a digit more than today
    assert_same([text and text.rstrip(b"\n") + b"\n"], router, ttl)


def test_odd_and_common_lines_are_in_order_and_know_their_numbers() -> None:
    text = b"idfa\tx\t1\t1\t 1\ngaid\ty\t1\t1\t1\nidfa\tx\t1\t1\t2\nno record\n\n" * 500
    assert_same([text, b"", text[:14], text])
    encoded = compiled_encoder(ONE).encode([Text.of(text), Text.of(text[:14])])
    assert list(encoded.batches[0].lines)[-3:] == [2495, 2497, 0]
    assert [text.records[:2] for text in encoded.texts] == [[1000, 500], [1, 0]]


def test_a_device_type_that_is_not_to_be_loaded_is_skipped_whatever_its_line_holds() -> None:
    text = b"gaid\tx\t1\t1\t1\ngaid\t\ngaid\tno record\ngaid\n idfa\tx\t1\t1\t1\nidfa\tx\t1\t1\t1\n"
    router = router_of(1, only=("idfa",))
    assert_same([text], router)
    (found,) = compiled_encoder(router).encode([Text.of(text)]).texts
    assert (found.skipped, found.lines, found.records, [reject.line for reject in found.rejects]) == (4, 6, [1], [4])


def test_a_text_is_whole_lines() -> None:
    with pytest.raises(ValueError, match="whole lines"):
        compiled_encoder(ONE).encode([Text.of(b"idfa\tx\t1\t1\t1")])


def test_an_encoder_is_used_again_and_its_batches_stay_as_they_are() -> None:
    encoder, reference = compiled_encoder(ONE), PythonEncoder(ONE, 0)
    texts = [[Text.of(b"".join(islice(log_lines(count), count)))] for count in (1, 500, 3, 2000, 0)]
    assert [encoder.encode(text) for text in texts] == [reference.encode(text) for text in texts]


@pytest.mark.parametrize("routing", ROUTINGS)
def test_threads_do_not_disturb_each_other(routing: RoutingName) -> None:
    router = router_of(3, routing)
    texts = [[Text.of(b"".join(islice(log_lines(seed), 2000)))] for seed in range(2)]
    expected = [PythonEncoder(router, 0).encode(text) for text in texts]
    wrong = []

    def encode(number: int) -> None:
        encoder = compiled_encoder(router)
        for _ in range(20):
            if encoder.encode(texts[number]) != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=encode, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("ttl", [0, 60])
def test_lookups_are_the_same(ttl: int) -> None:
    text = b"".join(islice(log_lines(7), 3000)) + b"idfa\tx\t0\t0\t" + b"1," * 500 + b"1\nidfa\ty\t0\t0\t1\n"
    python = PythonEncoder(ONE, ttl)
    for encoder in (compiled_encoder(ONE, ttl), checked_encoder(ONE, ttl)):
        for batch in encoder.encode([Text.of(text)]).batches:
            for part in (batch, *batch.slices(max_count=600), *batch.slices(max_bytes=1)):
                assert list(encoder.lookups(part)) == list(python.lookups(part))


def test_there_is_nothing_to_look_up_in_an_empty_batch() -> None:
    assert list(compiled_encoder(ONE).lookups(Batch(0, b"", [], []))) == []


@pytest.mark.parametrize(
    ("rule", "value"), [("MAX_KEY_LENGTH", 30), ("MAX_APP_ID", 9998), ("MAX_APP_ID", 500), ("MAX_LINE_LENGTH", 100)]
)
def test_a_rule_that_changes_reaches_a_kernel_that_is_there(
    rule: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"".join(islice(log_lines(5), 200)) + b"idfa\tx\t1\t1\t1,9998,9999,501,500,9999,1\n"
    before = compiled_encoder(ONE).encode([Text.of(text)])
    monkeypatch.setattr(records, rule, value)
    monkeypatch.setattr(layout, rule, value)
    monkeypatch.setattr(records, "_DEVICE_ID", re.compile(rb"[\x21-\x7e]{1,%d}" % (records.MAX_KEY_LENGTH - 5)))
    assert compiled_encoder(ONE).encode([Text.of(text)]) == PythonEncoder(ONE, 0).encode([Text.of(text)]) != before


def test_an_index_out_of_bounds_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"idfa\tx\t0\t0\t1\n" * 1000
    monkeypatch.setattr(compiled, "_row_bytes", lambda length, flags_length: length + length // 2)
    with pytest.raises(IndexError):
        checked_encoder(ONE).encode([Text.of(text)])


@routers
def test_nothing_is_touched_out_of_bounds(router: Router) -> None:
    encoder: Encoder = checked_encoder(router)
    for text in _odd_texts(Random(1), 2000):
        encoder.encode([Text.of(text)])  # raises IndexError


def _odd_texts(random: Random, count: int) -> Iterator[bytes]:
    common = list(islice(log_lines(1), 200))
    for number in range(count):
        text = bytearray(b"".join(random.choices(common, k=random.randrange(1, 4))))
        del text[random.randrange(len(text)) :]
        for _ in range(random.randrange(4)):
            if text:
                text[random.randrange(len(text))] = random.randrange(256)
        if number % 5 == 0:
            text += random.choice([b"\t" * 50, b"idfa", b"idfa\t", b"idfa\tx\t1", b"idfa\tx\t1\t1\t123", b"1234,"])
        yield bytes(text) + b"\n"
