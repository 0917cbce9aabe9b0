"""The command line of both loaders: the only room that knows it."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn, TypeVar

from memc_client import parse_address
from memcload import __version__
from memcload.records import DEVICE_TYPES

NORMAL_ERR_RATE = 0.01

EngineName = Literal["auto", "compiled", "python"]

_DEFAULT_PORTS = dict(zip(DEVICE_TYPES, (33013, 33014, 33015, 33016), strict=True))
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Options:
    """What was asked for. `addresses` is by device type; sizes are in bytes, times in seconds."""

    pattern: str
    addresses: dict[str, str]
    log: str | None
    log_level: str
    dry: bool
    test: bool
    timeout: float
    connect_timeout: float
    retries: int
    ttl: int
    max_error_rate: float
    rejects: str | None
    settle: float
    report: str | None

    def shown(self) -> dict[str, Any]:
        """Return the options as the first line of the log shows them."""
        options = asdict(self)
        return {**options.pop("addresses"), **options}


@dataclass(frozen=True)
class ParallelOptions(Options):
    """What was asked of the parallel loader."""

    workers: int
    queue_size: int
    block_size: int
    engine: EngineName


AnyOptions = TypeVar("AnyOptions", bound=Options)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def parse_options(arguments: Sequence[str] | None, description: str, kind: type[AnyOptions]) -> AnyOptions:
    """Parse the command line. Wrong usage ends the program with one clear line and exit code 2."""
    parser = _Parser(description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    group = parser.add_argument_group("what to load")
    _add(group, "--pattern", "files to load, a shell glob", "./data/appsinstalled/*.tsv.gz", metavar="GLOB")
    _add(group, "--settle", "a truncated file younger than this is still being written", 60.0, _seconds)
    _add(group, "--dry", "parse and encode only: connect to nothing, rename nothing", False)
    _add(group, ("-t", "--test"), "run the protobuf round trip and exit", False)

    group = parser.add_argument_group("where to")
    for name, port in _DEFAULT_PORTS.items():
        text = f"memcached of {name} devices: host:port, [v6]:port or unix:/path"
        _add(group, f"--{name}", text, f"127.0.0.1:{port}", _address, metavar="ADDR")
    _add(group, "--ttl", "seconds until a record expires, 0 for never", 0, _integer(0, 10 * 365 * 24 * 3600))

    group = parser.add_argument_group("how hard")
    if issubclass(kind, ParallelOptions):
        _add(group, "--workers", "threads that encode and deliver", default_workers(), _integer(1, 256))
        _add(group, "--queue-size", "blocks that wait for a worker", 4, _integer(1, 10_000))
        _add(group, "--block-size", "bytes of text in a block", _MIB, _integer(1, _GIB))
        choices = ("auto", "compiled", "python")
        _add(
            group,
            "--engine",
            "what encodes: auto, compiled or python",
            "auto",
            choices=choices,
            metavar="ENGINE",
        )
    _add(group, "--timeout", "for one request to a server", 3.0, _positive_seconds)
    _add(group, "--connect-timeout", "for one connection to a server", 1.0, _positive_seconds)
    _add(group, "--retries", "how often a request is tried again", 3, _integer(0, 100))

    group = parser.add_argument_group("what to write")
    _add(
        group,
        "--max-error-rate",
        "rejected records that are acceptable, a fraction",
        NORMAL_ERR_RATE,
        _fraction,
    )
    _add(
        group,
        "--rejects",
        "save rejected lines here (default: beside the file)",
        None,
        _directory,
        metavar="DIR",
    )
    _add(group, "--report", "write a JSON report; - for standard output", None, metavar="FILE")
    _add(group, ("-l", "--log"), "append the log to a file (default: console)", None, metavar="FILE")
    levels = ("debug", "info", "warning", "error")
    text = "debug, info, warning or error (default: info, with --dry debug)"
    _add(group, "--log-level", text, None, choices=levels, metavar="LEVEL")

    values = vars(parser.parse_args(arguments))
    addresses = {name: values.pop(name) for name in DEVICE_TYPES}
    values["log_level"] = values["log_level"] or ("debug" if values["dry"] else "info")
    return kind(addresses=addresses, **values)


def default_workers() -> int:
    """Return how many workers keep this machine's cores and the servers busy."""
    return min(8, (os.cpu_count() or 1) + 1)


def _add(
    group: argparse._ArgumentGroup,
    names: str | tuple[str, ...],
    text: str,
    default: object,
    parse: Callable[[str], object] = str,
    **details: Any,
) -> None:
    """Add an option whose help ends in its default."""
    if isinstance(default, bool):
        details["action"] = "store_true"
    else:
        details.setdefault("metavar", "SECONDS" if isinstance(default, float) else "N")
        details["type"] = parse
        if default is not None:
            text = f"{text} (default: {default})"
    group.add_argument(*([names] if isinstance(names, str) else names), help=text, default=default, **details)


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return number

    return parse


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def _seconds(text: str) -> float:
    return _number(text, 0, 1e9, "a number of seconds")


def _positive_seconds(text: str) -> float:
    return _number(text, 0.001, 86400, "a number of seconds between 0.001 and 86400")


def _fraction(text: str) -> float:
    return _number(text, 0, 1, "a fraction between 0 and 1")


def _address(text: str) -> str:
    try:
        parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return text
