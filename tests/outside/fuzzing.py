"""Lines that nobody would write, in files that somebody might: made, loaded and compared with the specification.

The same seed gives the same lines, files and options.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.outside.loading import REFERENCE, Finished, Loader, load
from tests.outside.memcached import Servers, contents
from tests.outside.spec import LONGEST_LINE, TYPES, Expected, expected

_FIXED_NAME = "{:03}.tsv"

_NUMBERS = (
    *("0", "-0", "+0.0", "1", "5.", ".5", "-.5", "+5.e3", "1e5", "1E+05", "1e-5", "67.7835424444", "-22.8044005471"),
    *("1e308", "1.7976931348623157e308", "1.7976931348623159e308", "1e309", "-1e400", "1e-400", "0e999999"),
    *("4.9e-324", "2.5e-324", "2.4e-324", "2.2250738585072011e-308", "2.2250738585072014e-308"),
    *("9007199254740993", "9007199254740992.5", "0.1", "0.30000000000000004", "123456789012345", "1234567890123456"),
    *("1e22", "1e23", "8.5e22", "0.000000000000000000000001", "100000000000000000000000", "00000000000000000000001.50"),
    *("", ".", "-", "+", "e5", "1e", "1e+", "--1", "+-1", "1.2.3", "1_0", "1 ", " 1", "1,5", "0x1p3", "0x10"),
    *("nan", "NaN", "inf", "-inf", "Infinity", "1e5.5", "1d5", "1f"),
    *("1\r", "\x0b1", "\u0661", "1\x00", "1e9999999999999"),
)
_APPS = (
    *("0", "1", "127", "128", "16383", "16384", "2097151", "2097152", "268435455", "268435456", "4294967295"),
    *("4294967296", "9999999999", "10000000000", "99999999999999999999", "00000000007", "000000000000004294967295"),
    *("", " ", "-1", "+1", "1.0", "1e3", "0x1f", "1_0", "com.example", "\u0661"),
    *("1 2", " 1", "2 ", "\x0b3\x0c", "4\r", "\r5"),
    *("\x1c6", "7\x85", "8\xa0", "9\x00", "0" * 5000 + "7", "1" + "0" * 5000, "\u2003" + "1"),
)
_TYPES = (*TYPES, "IDFA", "idf", "idfa ", " idfa", "", "imei", "\ufeffidfa", "idfa:1")
_IDS = (
    *("1rfw452y52g2gq4g", "e7e1a50c0ec2747ca56cd9e1558c0d7c", "!", "~", ":", "%", "\\", '"', "x" * 244, "x" * 245),
    *("x" * 246, "x" * 250, "", " ", "a b", " a", "a\r", "a\x0b", "\x7f", "é", "a\x00", "a\x1f", "mn", "q", "O1"),
)
_BLANKS = (b"", b" ", b"\t", b"\t\t\t\t", b"\r", b" \r", b"\x0b\x0c", b"\t \t")
_NOT_QUITE_BLANKS = (b"\x00", b"\x85", b"\xa0", b"\x1c", b"\xe2\x80\x83", b"\xef\xbb\xbf")
_ENDINGS = (b"\n", b"\n", b"\n", b"\r\n", b"\r\r\n")
_SPLICES = (b"\t", b",", b"\r", b" ", b"\x00", b"\xff", b"-", b"e", b".", b"0", b"\x1f\x8b", b"\r\nmn\r\n", b"\x0b")


def common_line(rng: Random, devices: int) -> bytes:
    """Return a line of the shape that real logs have."""
    apps = ",".join(str(rng.randrange(10_000)) for _ in range(rng.randint(1, 30)))
    device = f"{rng.choice(TYPES)}\tdevice{rng.randrange(devices)}"
    return f"{device}\t{rng.uniform(-90, 90):.10f}\t{rng.uniform(-180, 180):.10f}\t{apps}".encode()


def odd_line(rng: Random) -> bytes:
    """Return a line of five columns, each of which is odd now and then."""

    def number() -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return rng.choice(_NUMBERS)
        if kind == 1:
            return repr(rng.uniform(-180, 180))
        if kind == 2:
            return f"{rng.randrange(10 ** rng.randint(1, 25))}e{rng.randint(-340, 320)}"
        return f"{rng.uniform(-1000, 1000):.{rng.randint(0, 30)}f}"

    dev_type = rng.choice(_TYPES) if rng.random() < 0.1 else rng.choice(TYPES)
    dev_id = rng.choice(_IDS) if rng.random() < 0.3 else f"{rng.randrange(1 << 20):x}"
    apps = [rng.choice(_APPS) if rng.random() < 0.5 else str(rng.getrandbits(34)) for _ in range(rng.randint(1, 5))]
    return "\t".join((dev_type, dev_id, number(), number(), ",".join(apps))).encode()


def mutated(rng: Random, line: bytes) -> bytes:
    """Return a line with some of its bytes changed, left out, put in, doubled or moved."""
    result = bytearray(line)
    for _ in range(rng.randint(1, 3)):
        start = rng.randint(0, len(result))
        end = min(len(result), start + rng.choice((0, 1, 1, 2, 10)))
        kind = rng.randrange(5)
        if kind == 0 and start < len(result):
            result[start] = rng.randrange(256)
        elif kind == 1:
            del result[start:end]
        elif kind == 2:
            result[start:start] = rng.choice(_SPLICES)
        elif kind == 3:
            result[start:start] = result[start:end]
        else:
            result[start:start] = rng.randbytes(rng.randint(1, 4))
    return bytes(result)


def long_line(rng: Random) -> bytes:
    """Return a line about as long as may be: a short value between white space, or an unlimited column."""
    length = LONGEST_LINE + rng.choice((-1, 0, 0, 1, 2, 3, 100_000))
    start, end = rng.choice(((b"idfa\tlong\t1\t2\t3", b"4" if rng.random() < 0.5 else b" "), (b"", b"x"), (b"", b" ")))
    return start + rng.choice((b" ", b",")) * (length - len(start) - len(end)) + end


def fuzzed_lines(rng: Random) -> Iterator[bytes]:
    """Yield lines without an end, each with its ending."""
    devices = rng.choice((3, 100, 1_000_000))
    while True:
        kind = rng.random()
        if kind < 0.4:
            line = common_line(rng, devices)
        elif kind < 0.65:
            line = odd_line(rng)
        elif kind < 0.8:
            line = mutated(rng, common_line(rng, devices))
        elif kind < 0.96:
            line = mutated(rng, odd_line(rng))
        elif kind < 0.9995:
            line = rng.choice(_BLANKS + _NOT_QUITE_BLANKS)
        else:
            line = long_line(rng)
        yield line + rng.choice(_ENDINGS)


def two_members(content: bytes) -> bytes:
    """Return a gzip file of two members that meet in the middle of a line."""
    middle = len(content) // 2
    return gzip.compress(content[:middle], 1) + gzip.compress(content[middle:], 1)


def compressed(rng: Random, content: bytes) -> bytes:
    """Return what a file of this content may look like."""
    compressors: tuple[Callable[[bytes], bytes], ...] = (
        lambda data: gzip.compress(data, 1),
        two_members,
        lambda data: bz2.compress(data, 1),
        lambda data: lzma.compress(data, preset=0),
    )
    return rng.choices(compressors, (6, 3, 1, 1))[0](content)


def loader_for(rng: Random) -> Loader:
    """Return some loader with some options."""
    if rng.random() < 0.1:
        return REFERENCE
    size = rng.choice((50, 999, 4096, 70_000, 1 << 20))
    return (
        *("memc_load_parallel.py", "--engine", rng.choice(("python", "auto", "auto"))),
        *("--workers", str(rng.randint(1, 4)), "--queue-size", str(rng.randint(1, 8)), "--block-size", str(size)),
    )


class Difference(AssertionError):
    """What a load left is not what the specification says; the message shows the line."""


def fuzz(seed: int, lines: int, directory: Path, servers: Servers) -> Expected:
    """Load this many lines in two files, compare everything that is left, and return what had to be left.

    The servers have to be empty. Raises Difference.
    """
    rng = Random(seed)
    source = fuzzed_lines(rng)
    logs: list[bytes] = []
    for number, share in enumerate((lines - lines // 3, lines // 3)):
        # What a file begins with says of what kind it is; that is not what is tried here.
        log = b"idfa\tfirst\t1\t2\t3\n" + b"".join(next(source) for _ in range(share - 1))
        if rng.random() < 0.5:
            log = log.rstrip(b"\n") or log
        (directory / _FIXED_NAME.format(number)).write_bytes(compressed(rng, log))
        logs.append(log)
    loader = loader_for(rng)
    finished = load(loader, directory / "*.tsv", servers, "--max-error-rate", "1")
    where = f"seed {seed}, {lines} lines, {' '.join(loader)}"
    _compare_items(where, logs, servers)
    for number, log in enumerate(logs):
        _compare_file(where, finished, directory, _FIXED_NAME.format(number), log)
    if finished.exit_code != 0:
        raise Difference(f"{where}: exit code {finished.exit_code}\n" + "\n".join(finished.log))
    return expected(*logs)


def _compare_items(where: str, logs: list[bytes], servers: Servers) -> None:
    wanted, found = expected(*logs).items, contents(servers)
    for key in wanted.keys() | found.keys():
        if wanted.get(key) != found.get(key):
            cause = [line for log in logs for line in log.split(b"\n") if key in expected(line).items]
            raise Difference(
                f"{where}: {key!r} is {found.get(key)}, not {wanted.get(key)}, of {cause[-1] if cause else None!r}"
            )


def _compare_file(where: str, finished: Finished, directory: Path, name: str, log: bytes) -> None:
    wanted, entry = expected(log), finished.file(name)
    path = directory / f".{name}.rejects.tsv"
    found = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for reject, (number, reason, line) in zip(found, wanted.rejected, strict=False):
        start = b"%d\t%b\t" % (number, reason.encode())
        # Of a line that is too long, only the beginning is kept.
        kept = line if len(line) <= LONGEST_LINE + 1 else line[:LONGEST_LINE]
        if not reject.startswith(start + kept) or len(reject) > len(start + kept) + 2:
            raise Difference(f"{where}: {name} has {reject[:200]!r}, not {start!r} for {line[:1000]!r}")
    counts = {"status": "done", **wanted.counts()}
    if len(found) != len(wanted.rejected) or {key: entry[key] for key in counts} != counts:
        raise Difference(f"{where}: {len(found)} rejects and {entry}, not {counts}")
