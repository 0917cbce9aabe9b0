r"""The compiled encoder: lines of the common shape become batches without the interpreter and its lock.

Numba compiles the kernel at its first use and keeps the result on disk. The kernel takes only lines of the
common shape; at any other it stops, the reference parser decides about that line, and the kernel goes on
behind it. So it defines nothing; what it makes equals what PythonEncoder makes, byte for byte.

Nothing is read or written out of bounds, for these reasons: a block ends in `\n`, no loop of the kernel
passes a `\n`, and _capacity() is the most that the lines of a block can grow to.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from memc_client import END_OF_BATCH, INQUIRY_SIZE, Batch, Inquiry, meta_set_flags, meta_set_prefix
from memcload.encoder import EncodedBlock, encode_line
from memcload.records import DEVICE_TYPES, MAX_KEY_LENGTH
from memcload.tally import BlockResult

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

_SHORTEST_RECORD = len(b"idfa\tx\t0\t0\t1\n")
_PREFIX_LENGTH = len(meta_set_prefix("idfa"))
_MAX_DEVICE_ID = MAX_KEY_LENGTH - len("idfa:")
_MAX_DIGITS = 15  # of a coordinate; so many are exact in a double
_POWERS_OF_TEN = np.array([10.0**exponent for exponent in range(_MAX_DIGITS + 1)])


def _capacity(block_length: int, flags_length: int) -> int:
    """Return the most bytes that a batch made of a block can have.

    A record's line of n bytes becomes at most n + 26 + flags_length bytes: app ids grow by one byte in
    all (the last has no comma), the coordinates from 4 bytes to 18, and a command has 8 + 1 + 7 + 2 bytes
    beside its key, flags and value, where the line has 7. In a block there are lines that are no shorter
    than the shortest record.
    """
    lines = block_length // _SHORTEST_RECORD + 1
    return block_length + lines * (26 + flags_length) + len(END_OF_BATCH)


def _buffers(capacity: int) -> Bytes:
    """Return a buffer for each device type. Of this memory only what is written to becomes real.

    (NumPy would ask for huge pages, and get megabytes where kilobytes are written.)
    """
    return np.frombuffer(mmap.mmap(-1, len(DEVICE_TYPES) * capacity), np.uint8).reshape(len(DEVICE_TYPES), capacity)


@njit(nogil=True, cache=True)
def _encode_common(
    block: Bytes, position: int, prefixes: Bytes, flags: Bytes, out: Bytes, lengths: Numbers, counts: Numbers
) -> int:
    """Encode the lines of the common shape from `position` on; return where the first other one begins.

    block: whole lines. prefixes, out, lengths, counts: one row or element for each device type, in the
    order of DEVICE_TYPES: how its commands begin, where they go, how many bytes and how many of them
    are there. A line that turns out not to be common leaves `lengths` and `counts` as they were.
    """
    end = block.shape[0]
    coordinates = np.empty(2, np.float64)
    coordinate_bytes = coordinates.view(np.uint8)
    if position < 0:  # never; but knowing it, the compiler drops the tests for negative indices below
        return position
    while position < end:
        p = position

        # device type: four bytes that end a prefix, before its colon
        lane = 0
        while lane < prefixes.shape[0] and not (
            block[p] == prefixes[lane, _PREFIX_LENGTH - 5]
            and block[p + 1] == prefixes[lane, _PREFIX_LENGTH - 4]
            and block[p + 2] == prefixes[lane, _PREFIX_LENGTH - 3]
            and block[p + 3] == prefixes[lane, _PREFIX_LENGTH - 2]
        ):
            lane += 1
        if lane == prefixes.shape[0]:
            return position
        if block[p + 4] != ord("\t"):
            return position
        p += 5
        commands = out[lane]
        q = lengths[lane]
        if q < 0:  # never, as above
            return position
        for k in range(_PREFIX_LENGTH):
            commands[q + k] = prefixes[lane, k]
        q += _PREFIX_LENGTH

        # device id
        id_start = p
        byte = block[p]
        while 0x21 <= byte <= 0x7E:
            commands[q] = byte
            q += 1
            p += 1
            byte = block[p]
        if byte != ord("\t") or p == id_start or p - id_start > _MAX_DEVICE_ID:
            return position
        p += 1
        length_at = q + 1  # three digits, to be written when the length of the value is known
        commands[q] = ord(" ")
        q += 4
        for k in range(flags.shape[0]):
            commands[q + k] = flags[k]
        q += flags.shape[0]
        value_at = q

        # Coordinates: an integer below 2**53 divided by a power of ten up to 10**22 is correctly rounded
        # (William D. Clinger, "How to Read Floating Point Numbers Accurately", 1990).
        for k in range(2):
            negative = block[p] == ord("-")
            if negative or block[p] == ord("+"):
                p += 1
            number = np.int64(0)
            digits = 0
            fraction_digits = 0
            digit = np.uint8(block[p] - ord("0"))
            while digit <= 9:
                number = number * 10 + digit
                digits += 1
                p += 1
                digit = np.uint8(block[p] - ord("0"))
            if block[p] == ord("."):
                p += 1
                digit = np.uint8(block[p] - ord("0"))
                while digit <= 9:
                    number = number * 10 + digit
                    fraction_digits += 1
                    p += 1
                    digit = np.uint8(block[p] - ord("0"))
                digits += fraction_digits
            if block[p] != ord("\t") or digits == 0 or digits > _MAX_DIGITS:
                return position
            p += 1
            magnitude = np.float64(number) / _POWERS_OF_TEN[fraction_digits]
            coordinates[k] = -magnitude if negative else magnitude

        # app ids, each of them a tag and a varint
        while True:
            if p + 4 < end and block[p + 4] == ord(","):
                # Most ids have four digits: these are tested and converted together, as bytes of a word.
                word = (
                    np.uint32(block[p])
                    | np.uint32(block[p + 1]) << np.uint32(8)
                    | np.uint32(block[p + 2]) << np.uint32(16)
                    | np.uint32(block[p + 3]) << np.uint32(24)
                )
                word = np.uint32(word ^ np.uint32(0x30303030))
                if (word | np.uint32(word + np.uint32(0x06060606))) & np.uint32(0xF0F0F0F0) == 0:
                    pairs = np.uint32((word * np.uint32(10) + (word >> np.uint32(8))) & np.uint32(0x00FF00FF))
                    app = np.uint32((pairs * np.uint32(100) + (pairs >> np.uint32(16))) & np.uint32(0xFFFF))
                    commands[q] = 0x08
                    if app < 0x80:
                        commands[q + 1] = app
                        q += 2
                    else:
                        commands[q + 1] = app | np.uint32(0x80)
                        commands[q + 2] = app >> np.uint32(7)
                        q += 3
                    p += 5
                    continue
            id_start = p
            app = np.uint32(block[p]) - np.uint32(ord("0"))
            if app > 9:
                return position
            p += 1
            figure = np.uint32(block[p]) - np.uint32(ord("0"))
            while figure <= 9:
                app = np.uint32(app * np.uint32(10) + figure)
                p += 1
                figure = np.uint32(block[p]) - np.uint32(ord("0"))
            if p - id_start > 9:  # it may be more than 32 bits
                return position
            commands[q] = 0x08
            q += 1
            while app >= 0x80:
                commands[q] = app | np.uint32(0x80)
                q += 1
                app >>= np.uint32(7)
            commands[q] = app
            q += 1
            byte = block[p]
            p += 1
            if byte == ord(","):
                continue
            if byte == ord("\n"):
                break
            if byte == ord("\r") and block[p] == ord("\n"):
                p += 1
                break
            return position

        commands[q] = 0x11
        for k in range(8):
            commands[q + 1 + k] = coordinate_bytes[k]
        commands[q + 9] = 0x19
        for k in range(8):
            commands[q + 10 + k] = coordinate_bytes[8 + k]
        q += 18
        length = q - value_at
        if length > 999:  # the room that was left does not hold it
            return position
        commands[length_at] = ord("0") + length // 100
        commands[length_at + 1] = ord("0") + length // 10 % 10
        commands[length_at + 2] = ord("0") + length % 10
        commands[q] = ord("\r")
        commands[q + 1] = ord("\n")
        lengths[lane] = q + 2
        counts[lane] += 1
        position = p
    return position


@njit(nogil=True, cache=True)
def _inquire(commands: Bytes, position: int, count: int, requests: Bytes, replies: Bytes) -> tuple[int, int, int]:
    """Make the requests for the keys of so many commands from `position` on, and the replies to expect.

    Returns where the next command begins, and the lengths of the requests and of the replies.
    """
    p, q, r = position, 0, 0
    for _ in range(count):
        # ms KEY LENGTH q\r\n -> mg KEY v\r\n, VA LENGTH\r\n
        p += 3
        requests[q] = ord("m")
        requests[q + 1] = ord("g")
        requests[q + 2] = ord(" ")
        q += 3
        while commands[p] != ord(" "):
            requests[q] = commands[p]
            p += 1
            q += 1
        requests[q] = ord(" ")
        requests[q + 1] = ord("v")
        requests[q + 2] = ord("\r")
        requests[q + 3] = ord("\n")
        q += 4
        p += 1
        replies[r] = ord("V")
        replies[r + 1] = ord("A")
        replies[r + 2] = ord(" ")
        r += 3
        while commands[p] == ord("0"):
            p += 1
        length = 0
        while commands[p] != ord(" "):
            length = length * 10 + commands[p] - ord("0")
            replies[r] = commands[p]
            p += 1
            r += 1
        while commands[p] != ord("\n"):
            p += 1
        p += 1
        replies[r] = ord("\r")
        replies[r + 1] = ord("\n")
        r += 2
        for _ in range(length + 2):
            replies[r] = commands[p]
            p += 1
            r += 1
    return p, q, r


class CompiledEncoder:
    """Encodes blocks with the kernel, into buffers that it keeps."""

    def __init__(self, ttl: int, only: Sequence[str] = DEVICE_TYPES) -> None:
        self._only = only
        self._flags = meta_set_flags(ttl)
        self._flag_bytes = np.frombuffer(self._flags, np.uint8)
        self._prefixes = np.array([list(meta_set_prefix(name)) for name in DEVICE_TYPES], np.uint8)
        self._out = _buffers(1)

    def encode(self, block: bytes) -> EncodedBlock:
        """Encode a block of whole lines. The batches are valid until the next call."""
        if block and not block.endswith(b"\n"):
            raise ValueError("a block consists of whole lines")
        capacity = _capacity(len(block), len(self._flags))
        if self._out.shape[1] < capacity:
            self._out = _buffers(capacity)
        lengths = np.zeros(len(DEVICE_TYPES), np.int64)
        counts = np.zeros(len(DEVICE_TYPES), np.int64)
        lines = np.frombuffer(block, np.uint8)
        result = BlockResult(0, self._only)
        others = 0  # lines that are no records
        position = 0
        while True:
            position = _encode_common(lines, position, self._prefixes, self._flag_bytes, self._out, lengths, counts)
            if position == len(block):
                break
            line_end = block.index(b"\n", position)
            line = block[position:line_end]
            position = line_end + 1
            encoded = encode_line(line, int(counts.sum()) + others, self._flags, result)
            if encoded is None:
                others += 1
                continue
            lane, command = DEVICE_TYPES.index(encoded[0]), encoded[1]
            start = lengths[lane]
            lengths[lane] += len(command)
            counts[lane] += 1
            self._out[lane, start : lengths[lane]] = np.frombuffer(command, np.uint8)
        result.lines = int(counts.sum()) + others
        return EncodedBlock(
            {name: self._batch(lane, counts[lane], lengths[lane]) for lane, name in enumerate(DEVICE_TYPES)}, result
        )

    def inquire(self, batch: Batch) -> Iterator[Inquiry]:
        """Yield the questions whether a server holds the records of a batch."""
        commands = np.frombuffer(batch.commands, np.uint8)
        requests = np.empty(INQUIRY_SIZE * (MAX_KEY_LENGTH + 8), np.uint8)
        replies = np.empty(len(commands), np.uint8)
        position = 0
        for start in range(0, batch.count, INQUIRY_SIZE):
            count = min(INQUIRY_SIZE, batch.count - start)
            position, asked, answered = _inquire(commands, position, count, requests, replies)
            yield Inquiry(count, requests[:asked].tobytes(), replies[:answered].tobytes())

    def _batch(self, lane: int, count: np.int64, length: np.int64) -> Batch:
        end = int(length) + len(END_OF_BATCH)
        self._out[lane, length:end] = np.frombuffer(END_OF_BATCH, np.uint8)
        return Batch(int(count), self._out[lane, :end].data)
