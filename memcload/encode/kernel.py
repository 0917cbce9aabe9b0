r"""The source of the kernel, for Numba: lines of the common shape become commands in the rows of their partitions.

The kernel takes only lines of the common shape; at any other it stops, LineReader decides about that line, and the
kernel goes on behind it. So it defines nothing; what it makes equals what PythonEncoder makes, byte for byte.

Nothing is read or written out of bounds, for these reasons: a text ends in `\n`, no loop of the kernel passes a
`\n`, and rows are as long as compiled.py proves that they have to be. Tests run this source with every index checked.

Numba comes with this module: only what compiles imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from memcload.memcached.routes import make_route
from memcload.memcached.routes.layout import Compile
from memcload.memcached.routing_rules import RoutingName

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int32]
Function = Callable[..., Any]

_TAB, _LINE_FEED, _CARRIAGE_RETURN, _SPACE, _COMMA, _POINT, _PLUS, _MINUS, _ZERO = b"\t\n\r ,.+-0"


def _put(out: Bytes, q: int, word: int) -> None:
    """Write eight bytes. (The compiler makes one store of them.)"""
    for k in range(8):
        out[q + k] = word >> (8 * k)


def _get(text: Bytes, p: int) -> Any:
    """Read four bytes. (The compiler makes one load of them.)"""
    return np.uint32(
        np.uint32(text[p])
        | np.uint32(text[p + 1]) << np.uint32(8)
        | np.uint32(text[p + 2]) << np.uint32(16)
        | np.uint32(text[p + 3]) << np.uint32(24)
    )


def _coordinate(text: Bytes, p: int, rules: Any) -> tuple[Any, int]:
    """Return the bits of the double that begins at p, and where the next field begins: 0 if it is not common.

    An integer below 2**53 divided by a power of ten up to 10**22 is correctly rounded (William D. Clinger, "How to
    Read Floating Point Numbers Accurately", 1990).
    """
    negative = text[p] == _MINUS
    if negative or text[p] == _PLUS:
        p += 1
    number: Any = np.int64(0)
    start = p
    digit = np.uint8(text[p] - _ZERO)
    while digit <= 9:
        number = number * 10 + digit
        p += 1
        digit = np.uint8(text[p] - _ZERO)
    digits = p - start
    decimals = 0
    if text[p] == _POINT:
        p += 1
        start = p
        digit = np.uint8(text[p] - _ZERO)
        while digit <= 9:
            number = number * 10 + digit
            p += 1
            digit = np.uint8(text[p] - _ZERO)
        decimals = p - start
        digits += decimals
    if text[p] != _TAB or digits == 0 or digits > rules.coordinate_digits:
        return 0, 0
    magnitude = np.float64(number) / rules.powers_of_ten[decimals]
    return np.float64(-magnitude if negative else magnitude).view(np.int64), p + 1


def make_encode(compile: Compile, routing: RoutingName | None) -> Function:
    """Compile the function that encodes.

    Args:
        compile: Numba's `njit(…)`.
        routing: the rule that chooses among a device type's servers; None where there is nothing to choose.
    """
    get, put, coordinate = compile(_get), compile(_put), compile(_coordinate)
    route = None if routing is None else make_route(routing, compile)

    def encode(
        text: Bytes,
        rules: Any,
        progress: Any,
        rows: Any,
        commands: Bytes,
        ends: Numbers,
        lines: Numbers,
        table: npt.NDArray[np.uint32],
    ) -> None:
        """Encode lines of the common shape until the text ends or another line begins.

        A line that turns out not to be common leaves `progress` and `rows` as they were.
        """
        position, line = progress.position, progress.line
        device_types, prefixes, prefix_length = rules.device_types, rules.prefixes, rules.prefix_length
        flags, flags_length = rules.flags, rules.flags_length
        flag_words = (flags_length + 7) // 8
        apps_tag, app_id_digits = rules.apps_tag, rules.app_id_digits
        end = len(text)
        end_of_words = end if app_id_digits >= 4 else 0
        if position < 0 or prefix_length < 0 or flags_length < 0:
            return  # never; but knowing it, the compiler drops the tests for negative indices below
        while position + 5 <= end:
            p = position
            word = get(text, p)
            device = 0
            while device < len(device_types) and device_types[device] != word:
                device += 1
            if device == len(device_types) or text[p + 4] != _TAB:
                break
            p += 5
            partition = rules.first_partitions[device]
            if partition < 0:  # not to be loaded, valid or not
                while text[p] != _LINE_FEED:
                    p += 1
                progress.skipped += 1
                position = p + 1
                line += 1
                continue

            # device id
            id_start = p
            if route is not None:
                while 0x21 <= text[p] <= 0x7E:
                    p += 1
                partition += route(text, id_start, p, device, table)
                p = id_start
            row = rows[partition]
            out = commands[partition]
            q = row.length
            if q < 0:  # never, as above
                break
            put(out, q, prefixes[device])
            q += prefix_length
            byte = text[p]
            while 0x21 <= byte <= 0x7E:
                out[q] = byte
                q += 1
                p += 1
                byte = text[p]
            if byte != _TAB or p == id_start or p - id_start > rules.device_id_length:
                break
            p += 1
            length_at = q + 1  # three digits, to be written when the length of the value is known
            out[q] = _SPACE
            q += 4
            for k in range(flag_words):
                put(out, q + 8 * k, flags[k])
            q += flags_length
            value_at = q

            latitude, p = coordinate(text, p, rules)
            if p == 0:
                break
            longitude, p = coordinate(text, p, rules)
            if p == 0:
                break

            # app ids, each of them a tag and a varint
            while True:
                if p + 4 < end_of_words and text[p + 4] == _COMMA:
                    # Most ids have four digits: these are tested and converted together, as bytes of a word.
                    word = get(text, p)
                    word = np.uint32(word ^ np.uint32(0x30303030))
                    if (word | np.uint32(word + np.uint32(0x06060606))) & np.uint32(0xF0F0F0F0) == 0:
                        pairs = np.uint32((word * np.uint32(10) + (word >> np.uint32(8))) & np.uint32(0x00FF00FF))
                        app = np.uint32((pairs * np.uint32(100) + (pairs >> np.uint32(16))) & np.uint32(0xFFFF))
                        out[q] = apps_tag
                        if app < 0x80:
                            out[q + 1] = app
                            q += 2
                        else:
                            out[q + 1] = app | np.uint32(0x80)
                            out[q + 2] = app >> np.uint32(7)
                            q += 3
                        p += 5
                        continue
                app_start = p
                app = np.uint32(0)
                digit = np.uint8(text[p] - _ZERO)
                while digit <= 9:
                    app = np.uint32(app * np.uint32(10) + digit)
                    p += 1
                    digit = np.uint8(text[p] - _ZERO)
                byte = text[p]
                if p == app_start or p - app_start > app_id_digits:
                    byte = np.uint8(0)  # not common
                    break
                out[q] = apps_tag
                q += 1
                while app >= 0x80:
                    out[q] = app | np.uint32(0x80)
                    q += 1
                    app >>= np.uint32(7)
                out[q] = app
                q += 1
                p += 1
                if byte != _COMMA:
                    break
            if byte == _CARRIAGE_RETURN:
                byte = text[p]
                p += 1
            if byte != _LINE_FEED or p - position > rules.line_length:
                break

            out[q] = rules.lat_tag
            put(out, q + 1, latitude)
            out[q + 9] = rules.lon_tag
            put(out, q + 10, longitude)
            q += 18
            length = q - value_at
            if length > 999:  # the room that was left does not hold it
                break
            out[length_at] = _ZERO + length // 100
            out[length_at + 1] = _ZERO + length // 10 % 10
            out[length_at + 2] = _ZERO + length % 10
            out[q] = _CARRIAGE_RETURN
            out[q + 1] = _LINE_FEED
            q += 2
            count = row.count
            if count < 0:  # never, as above
                break
            ends[partition, count] = q
            lines[partition, count] = line
            row.length = q
            row.count = count + 1
            position = p
            line += 1
        progress.position = position
        progress.line = line

    return compile(encode)


def make_look_up(compile: Compile) -> Function:
    """Compile the function that makes lookups."""
    put = compile(_put)

    def look_up(
        commands: Bytes,
        ends: Numbers,
        first: int,
        count: int,
        words: Any,
        requests: Bytes,
        replies: Bytes,
        lengths: Any,
    ) -> None:
        """Make the requests for the keys of `count` records from `first` on, and the replies to expect."""
        q, r = 0, 0
        p = np.int64(ends[first - 1] if first > 0 else 0)
        for record in range(first, first + count):
            p += words.key_at
            put(requests, q, words.request)
            q += words.request_length
            while commands[p] != _SPACE:
                requests[q] = commands[p]
                p += 1
                q += 1
            put(requests, q, words.request_end)
            q += words.request_end_length
            p += 1
            put(replies, r, words.reply)
            r += words.reply_length
            while commands[p] == _ZERO:
                p += 1
            while commands[p] != _SPACE:
                replies[r] = commands[p]
                p += 1
                r += 1
            while commands[p] != _LINE_FEED:
                p += 1
            p += 1
            put(replies, r, words.reply_end)
            r += words.reply_end_length
            while p < ends[record]:  # the value, and what ends it
                replies[r] = commands[p]
                p += 1
                r += 1
        lengths.requests = q
        lengths.replies = r

    return compile(look_up)
