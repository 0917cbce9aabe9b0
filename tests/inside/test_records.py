"""What a line means: which are records, which are rejected and why, and what bytes a record becomes."""

from __future__ import annotations

import math
import struct
import time
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appsinstalled_pb2 import UserApps
from memcload.records import (
    DEVICE_TYPES,
    AppsInstalled,
    InvalidLine,
    is_blank,
    parse_appsinstalled,
    serialize,
    strip_line_ending,
)

GOOD = b"idfa\te7e1a50c0ec2747ca56cd9e1558c0d7c\t67.7835424444\t-22.8044005471\t7942,8519,4232"
MIB = 1 << 20
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def reason(line: bytes) -> str:
    """Return why a line is rejected, or "" where it is a record."""
    try:
        parse_appsinstalled(line)
    except InvalidLine as error:
        return error.reason
    return ""


def with_column(number: int, content: bytes) -> bytes:
    """Return the good line with another content of one column."""
    columns = GOOD.split(b"\t")
    columns[number] = content
    return b"\t".join(columns)


def bits(number: float) -> bytes:
    return struct.pack("<d", number)


# --- a record -----------------------------------------------------------------------------------


def test_a_good_line_is_a_record() -> None:
    assert parse_appsinstalled(GOOD) == AppsInstalled(
        dev_type="idfa",
        dev_id="e7e1a50c0ec2747ca56cd9e1558c0d7c",
        lat=67.7835424444,
        lon=-22.8044005471,
        apps=[7942, 8519, 4232],
        dropped=0,
    )


@pytest.mark.parametrize("name", ["idfa", "gaid", "adid", "dvid"])
def test_the_key_is_the_device_type_and_the_device_id(name: str) -> None:
    assert parse_appsinstalled(with_column(0, name.encode())).key == f"{name}:{GOOD.split()[1].decode()}".encode()


# --- line endings and blank lines ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"a\n", b"a"),
        (b"a\r\n", b"a"),
        (b"a", b"a"),
        (b"a\r\r\n", b"a\r"),
        (b"a\n\n", b"a\n"),
        (b"\ra\n", b"\ra"),
        (b" a \n", b" a "),
        (b"\ta\t\n", b"\ta\t"),
        (b"\n", b""),
        (b"", b""),
    ],
)
def test_a_line_loses_its_ending_and_nothing_else(line: bytes, text: bytes) -> None:
    assert strip_line_ending(line) == text


@pytest.mark.parametrize("line", [b"", b" ", b"\t", b"\r", b"\v", b"\f", b"\t\t\t\t", b" \t\r\v\f", b" " * (2 * MIB)])
def test_a_line_of_ascii_white_space_is_blank(line: bytes) -> None:
    assert is_blank(line)


@pytest.mark.parametrize("line", [b"x", b" x ", b"\x00", b"\x1c", b"\x85", b"\xa0", b"\xc2\xa0", "\u2003".encode()])
def test_any_other_line_is_not_blank(line: bytes) -> None:
    assert not is_blank(line)


def test_a_lone_carriage_return_ends_no_line() -> None:
    assert reason(GOOD + b"\r" + GOOD) == "columns"


# --- columns, device type, key ------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"\t\t\t",
        GOOD.rpartition(b"\t")[0],
        GOOD + b"\t",
        b"\t" + GOOD,
        GOOD + b"\t7942",
        GOOD.replace(b"\t", b" "),
        GOOD.replace(b"\t", b"\t\t"),
    ],
)
def test_a_record_has_exactly_five_columns(line: bytes) -> None:
    assert reason(line) == "columns"


@pytest.mark.parametrize("content", [b"", b"IDFA", b"idf", b"idfaa", b" idfa", b"idfa ", b"\xef\xbb\xbfidfa", b"\x00"])
def test_a_device_type_is_one_of_four_exactly(content: bytes) -> None:
    assert reason(with_column(0, content)) == "device_type"


def test_a_key_of_250_bytes_is_the_longest() -> None:
    assert len(parse_appsinstalled(with_column(1, b"f" * 245)).key) == 250
    assert reason(with_column(1, b"f" * 246)) == "key"


def test_a_device_id_is_of_visible_ascii() -> None:
    for form in (b"%c", b"a%c", b"%cb", b"a%cb"):
        allowed = [byte for byte in range(256) if not reason(with_column(1, form % byte))]
        assert allowed == list(range(0x21, 0x7F))


def test_a_device_has_an_id() -> None:
    assert reason(with_column(1, b"")) == "key"


# --- coordinates --------------------------------------------------------------------------------

DECIMALS = [
    *b"0 -0 +0 00 007 1 -1 +1 .5 -.5 5. +5. 1.5 -22.8044005471 123.456 -91 1000 67.7835424444".split(),
    *b"1e3 1E3 1e+3 1e-3 1.e3 .1e3 -1.5e-03 0e9999 1e-9999 1e308 1e23 8.5e22 0.1 0.30000000000000004".split(),
    *b"1.7976931348623157e308 1.7976931348623158e308 179769313486231580793728971405301199e273".split(),
    *b"4.9e-324 2.4703282292062327e-324 2.4703282292062328e-324 2.2250738585072011e-308".split(),
    *b"9007199254740993 9007199254740992.5000000000000001 123456789012345678901234567890".split(),
    *b"67.783542444400000000000000000000000000001 999999999999999 9999999999999999 0.000000000000001".split(),
    b"0." + b"0" * 400 + b"1e401",
]
NO_DECIMALS = [
    *b"nan NaN -nan inf -inf Infinity 1_0 0x1p3 0x10 0b1 1e999 -1e999 1.7976931348623159e308".split(),
    *b"1,5 1.2.3 +-1 --1 + - . -. +. e5 .e5 1e 1e+ 1e1.5 1e5e5 1e_5 5- 1f 1d 1j 1\x00 \xff 67.78\xc2\xb0".split(),
    *[b"", b" ", b" 1", b"1 ", b"\r1", b"1\r", b"1\v", b"1 0"],
    *[digit.encode() for digit in ("\N{ARABIC-INDIC DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}", "\N{MINUS SIGN}1", "½")],
]


@pytest.mark.parametrize("text", DECIMALS)
def test_a_coordinate_is_the_correctly_rounded_double_of_a_decimal(text: bytes) -> None:
    record = parse_appsinstalled(b"\t".join((b"gaid", b"1", text, text, b"1")))
    assert bits(record.lat) == bits(record.lon) == bits(float(text))
    assert record.lat == rounded(text.decode())


@pytest.mark.parametrize("column", [2, 3])
@pytest.mark.parametrize("text", NO_DECIMALS)
def test_nothing_else_is_a_coordinate(text: bytes, column: int) -> None:
    assert reason(with_column(column, text)) == "coordinates"


@UNHURRIED
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(-0.0)
def test_a_printed_double_is_read_back_with_the_same_bits(number: float) -> None:
    for text in (repr(number), f"{number:.17g}", f"{number:.20e}", f"{number:.400f}"):
        assert bits(parse_appsinstalled(with_column(2, text.encode())).lat) == bits(number) == bits(float(text))


@given(st.from_regex(r"\A[+-]?([0-9]{1,19}\.?[0-9]{0,19}|\.[0-9]{1,19})([eE][+-]?[0-9]{1,3})?\Z"))
@settings(UNHURRIED, max_examples=50)
def test_a_decimal_of_any_shape_has_the_bits_of_float(text: str) -> None:
    line = with_column(3, text.encode())
    if math.isfinite(float(text)):
        assert bits(parse_appsinstalled(line).lon) == bits(float(text))
    else:
        assert reason(line) == "coordinates"


# --- apps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "apps"),
    [
        (b"0", [0]),
        (b"1,2,3", [1, 2, 3]),
        (b"3,1,2,1,3,3", [3, 1, 2, 1, 3, 3]),
        (b"007,000,0000000000000042", [7, 0, 42]),
        (b"4294967295,04294967295,00000000000004294967295", [4294967295, 4294967295, 4294967295]),
        (b"127,128,16383,16384,2097151,2097152", [127, 128, 16383, 16384, 2097151, 2097152]),
        (b" 1,2 , 3 ,\r4\r,\v5\v,\f6\f, \r\v\f7\f\v\r ", [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_app_ids_are_kept_in_their_order_with_repeats(content: bytes, apps: list[int]) -> None:
    record = parse_appsinstalled(with_column(4, content))
    assert (record.apps, record.dropped) == (apps, 0)


@pytest.mark.parametrize(
    "app",
    [
        *b"-1 +1 1.0 1e3 0x1f 1_0 com.example 1;2 1\x00 \x001 1\xa0 \x851".split(),
        *b"4294967296 04294967296 99999999999 18446744073709551617".split(),
        *[b"", b" ", b"1 2", b"\x1c1", b"\xb2", b"1\xb2", b"9" * 5000],
        *[text.encode() for text in ("\N{ARABIC-INDIC DIGIT ONE}", "²", "\u20031")],
    ],
)
def test_an_id_that_is_no_uint32_is_dropped_and_the_record_kept(app: bytes) -> None:
    for content in (app + b",7942", b"7942," + app):
        record = parse_appsinstalled(with_column(4, content))
        assert (record.apps, record.dropped) == ([7942], 1)
    assert reason(with_column(4, app)) == "apps"


def test_a_record_without_any_valid_id_is_rejected() -> None:
    assert reason(with_column(4, b",".join([b"x", b"", b"-1", b"4294967296"]))) == "apps"


def test_every_dropped_id_is_counted() -> None:
    assert parse_appsinstalled(with_column(4, b",,1,x,2,")).dropped == 4


# --- length -------------------------------------------------------------------------------------


def test_a_line_of_one_mebibyte_is_the_longest() -> None:
    line = GOOD + b",1" * ((MIB - len(GOOD)) // 2)
    line += b" " * (MIB - len(line))
    assert len(line) == MIB
    assert len(parse_appsinstalled(line).apps) > 500_000
    assert reason(line + b" ") == "line_too_long"


def test_the_line_ending_is_no_part_of_the_length() -> None:
    line = GOOD + b" " * (MIB - len(GOOD))
    assert reason(strip_line_ending(line + b"\r\n")) == reason(strip_line_ending(line + b"\n")) == ""
    assert reason(strip_line_ending(line + b" \r\n")) == "line_too_long"


@pytest.mark.parametrize(
    ("column", "content", "expected"),
    [
        (2, b"1" * 10**6, "coordinates"),
        (2, b"1" * 10**6 + b"x", "coordinates"),
        (2, b"0" * 10**6 + b"x", "coordinates"),
        (3, b"1." + b"1" * 10**6 + b"x", "coordinates"),
        (3, b"." + b"1" * 10**6 + b"x", "coordinates"),
        (3, b"1e" + b"1" * 10**6 + b"x", "coordinates"),
        (2, b"1e" + b"1" * 10**6, "coordinates"),
        (2, b"0." + b"7" * 10**6, ""),
        (3, b"0." + b"0" * 10**6 + b"1e1000000", ""),
        (4, b"9" * 10**6, "apps"),
        (4, b"0" * 10**6 + b"1", ""),
        (4, b"1" + b" " * 10**6 + b"x", "apps"),
        (1, b"f" * 10**6, "key"),
    ],
)
def test_a_megabyte_in_one_column_takes_no_noticeable_time(column: int, content: bytes, expected: str) -> None:
    started = time.process_time()
    assert reason(with_column(column, content)) == expected
    assert time.process_time() - started < 0.5


# --- the order of the rules ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"x" * (MIB + 1), "line_too_long"),
        (b"ifda\t\tnan\tx\tnone\tmore", "columns"),
        (b"ifda\t\tnan\tx\tnone", "device_type"),
        (b"idfa\t\tnan\tx\tnone", "key"),
        (b"idfa\t1\tnan\tx\tnone", "coordinates"),
        (b"idfa\t1\t1\tx\tnone", "coordinates"),
        (b"idfa\t1\t1\t1\tnone", "apps"),
        (b"idfa\t1\t1\t1\t1", ""),
    ],
)
def test_the_first_rule_that_fails_names_the_reason(line: bytes, expected: str) -> None:
    assert reason(line) == expected


# --- the rules written a second time, straight from their sentences -----------------------------


def rounded(text: str) -> float | None:
    """Return the double nearest to an ASCII decimal by exact arithmetic, None for any other text."""
    position, sign = 0, 1.0
    if text[:1] in ("+", "-"):
        position, sign = 1, -1.0 if text[0] == "-" else 1.0
    digits, fraction_digits, has_point = "", 0, False
    while position < len(text) and (text[position] in "0123456789" or (text[position] == "." and not has_point)):
        if text[position] == ".":
            has_point = True
        else:
            digits += text[position]
            fraction_digits += has_point
        position += 1
    exponent = 0
    if position < len(text) and text[position] in "eE":
        position += 1
        negative = text[position : position + 1] == "-"
        position += text[position : position + 1] in ("+", "-")
        if position == len(text):
            return None
        while position < len(text) and text[position] in "0123456789":
            exponent = min(exponent * 10 + "0123456789".index(text[position]), 10_000)
            position += 1
        exponent = -exponent if negative else exponent
    if position < len(text) or not digits:
        return None
    try:
        size = float(Fraction(int(digits)) * Fraction(10) ** (exponent - fraction_digits))
    except OverflowError:
        return None
    return math.copysign(size, sign)


def verdict(line: bytes) -> object:
    """Return what becomes of a line: the reason of its rejection, or all that is stored of it."""
    if len(line) > 1_048_576:
        return "line_too_long"
    columns = line.decode("latin-1").split("\t")
    if len(columns) != 5:
        return "columns"
    dev_type, dev_id, *coordinates, apps_column = columns
    if dev_type not in ("idfa", "gaid", "adid", "dvid"):
        return "device_type"
    if not dev_id or any(ord(c) < 0x21 or ord(c) > 0x7E for c in dev_id) or len(f"{dev_type}:{dev_id}") > 250:
        return "key"
    lat, lon = (rounded(text) for text in coordinates)
    if lat is None or lon is None:
        return "coordinates"
    apps, dropped = [], 0
    for text in apps_column.split(","):
        digits = text.strip(" \r\n\v\f")
        if digits and set(digits) <= set("0123456789") and int(digits) <= 4294967295:
            apps.append(int(digits))
        else:
            dropped += 1
    if not apps:
        return "apps"
    return f"{dev_type}:{dev_id}".encode(), [bits(lat), bits(lon)], apps, dropped


def parsed(line: bytes) -> object:
    """Return what the loaders make of a line, in the words of `verdict`."""
    try:
        record = parse_appsinstalled(line)
    except InvalidLine as error:
        return error.reason
    return record.key, [bits(record.lat), bits(record.lon)], record.apps, record.dropped


def mostly(usual: st.SearchStrategy[bytes], *others: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(usual, usual, st.sampled_from(others), st.binary(max_size=6))


DECIMAL_COLUMN = mostly(
    st.one_of(
        st.from_regex(rb"\A[+-]?[0-9]{1,3}\.[0-9]{10}\Z"),
        st.from_regex(rb"\A[+-]?[0-9]{0,20}\.?[0-9]{0,20}([eE][+-]?[0-9]{0,4})?\Z"),
        st.text("0123456789.eE+-_ ", max_size=8).map(str.encode),
    ),
    *DECIMALS,
    *NO_DECIMALS,
)
APP = mostly(
    st.integers(0, 1 << 33).map(b"%d".__mod__),
    b"",
    b" 1",
    b"2\r",
    b"4294967295",
    b"4294967296",
    b"0" * 20 + b"7",
    b"-1",
)
NEAR_RECORDS = st.tuples(
    mostly(st.sampled_from([name.encode() for name in DEVICE_TYPES]), b"IDFA", b"idfa "),
    mostly(st.from_regex(rb"\A[!-~]{1,40}\Z"), b"", b"f" * 245, b"f" * 246, b"a b"),
    DECIMAL_COLUMN,
    DECIMAL_COLUMN,
    st.lists(APP, max_size=8).map(b",".join),
).map(b"\t".join)
NEAR_LINES = st.one_of(
    NEAR_RECORDS,
    st.tuples(NEAR_RECORDS, st.sampled_from([b"\t", b"\t1", b"\r", b" ", b"\x00", b","])).map(b"".join),
    st.tuples(NEAR_RECORDS, st.integers(0, 80)).map(lambda pair: pair[0][pair[1] :]),
)


@settings(UNHURRIED, max_examples=200)
@given(
    st.one_of(
        NEAR_LINES, NEAR_LINES, st.binary(), st.lists(st.binary(max_size=5), min_size=5, max_size=5).map(b"\t".join)
    )
)
@example(GOOD)
def test_every_line_gets_the_verdict_of_the_rules(line: bytes) -> None:
    assert parsed(line) == verdict(line)


# --- the value ----------------------------------------------------------------------------------


def test_the_value_is_the_one_of_the_protobuf_library() -> None:
    record = parse_appsinstalled(GOOD)
    value = UserApps(apps=record.apps, lat=record.lat, lon=record.lon).SerializeToString()
    assert serialize(record) == value


@UNHURRIED
@given(
    st.lists(st.integers(0, 4294967295) | st.integers(0, 10_001), min_size=1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
)
@example([0, 127, 128, 9999, 10_000, 4294967295, 0], -0.0, 5e-324)
def test_the_value_of_any_record_is_the_one_of_the_protobuf_library(apps: list[int], lat: float, lon: float) -> None:
    value = serialize(AppsInstalled("idfa", "1", lat, lon, apps))
    assert value == UserApps(apps=apps, lat=lat, lon=lon).SerializeToString()
    message = UserApps.FromString(value)
    assert (list(message.apps), bits(message.lat), bits(message.lon)) == (apps, bits(lat), bits(lon))


@settings(UNHURRIED, max_examples=50)
@given(NEAR_RECORDS)
def test_what_is_stored_reads_back_as_what_the_line_says(line: bytes) -> None:
    if not reason(line):
        record = parse_appsinstalled(line)
        message = UserApps.FromString(serialize(record))
        assert (list(message.apps), message.lat, message.lon) == (record.apps, record.lat, record.lon)
