"""The command line of both loaders, and the environment that can stand in for it: the only room that knows them."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn, TypeVar

from memcload import __version__
from memcload.connection import parse_address
from memcload.log import printable
from memcload.records import DEVICE_TYPES

NORMAL_ERR_RATE = 0.01

EngineName = Literal["auto", "compiled", "python"]

_ENVIRONMENT_PREFIX = "MEMC_LOAD_"
_DEFAULT_PORTS = dict(zip(DEVICE_TYPES, (33013, 33014, 33015, 33016), strict=True))
_MIB, _GIB = 1 << 20, 1 << 30
_TEN_YEARS = 10 * 365 * 24 * 3600  # seconds


@dataclass(frozen=True)
class Options:
    """What was asked for. `addresses` is by device type; sizes are in bytes, times in seconds."""

    pattern: str
    again: bool
    only: tuple[str, ...]
    settle: float
    dry: bool
    test: bool
    addresses: dict[str, str]
    ttl: int
    timeout: float
    connect_timeout: float
    retries: int
    max_rate: int
    max_error_rate: float
    rejects: str | None
    report: str | None
    metrics: str | None
    log: str | None
    log_level: str
    progress: bool

    def shown(self) -> dict[str, Any]:
        """Return the options as the first line of the log shows them."""
        options = asdict(self)
        return {**options.pop("addresses"), **options}


@dataclass(frozen=True)
class ParallelOptions(Options):
    """What was asked of the parallel loader."""

    verify: bool
    sample: float
    workers: int
    queue_size: int
    block_size: int
    engine: EngineName


AnyOptions = TypeVar("AnyOptions", bound=Options)


def parse_options(arguments: Sequence[str] | None, description: str, kind: type[AnyOptions]) -> AnyOptions:
    """Parse the command line. Wrong usage ends the program with one clear line and exit code 2."""
    parser = _Parser(
        description=description,
        epilog=f"Every option can also be given as an environment variable ({_ENVIRONMENT_PREFIX}IDFA, "
        f"{_ENVIRONMENT_PREFIX}MAX_RATE, … ); the command line wins.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    is_parallel = issubclass(kind, ParallelOptions)

    add = _Group(parser, "what to load").add
    add("--pattern", "files to load, a shell glob", "./data/appsinstalled/*.tsv.gz", metavar="GLOB")
    add("--again", "load files that are done, too: .NAME as well as NAME", False)
    add("--only", "load only these device types, comma-separated", DEVICE_TYPES, _device_types, metavar="TYPES")
    add("--settle", "a truncated file younger than this is still being written", 60.0, _seconds)
    add("--dry", "parse and encode only: connect to nothing, rename nothing", False)
    if is_parallel:
        add("--verify", "load nothing: compare the files with what the servers hold, and log it", False)
        add("--sample", "how many of the keys to verify, a fraction", 1.0, _fraction, metavar="FRACTION")
    add("-t", "run the protobuf round trip and exit", False, long_name="--test")

    add = _Group(parser, "where to").add
    for name, port in _DEFAULT_PORTS.items():
        text = f"memcached of {name} devices: host:port, [v6]:port, unix:/path"
        add(f"--{name}", text, f"127.0.0.1:{port}", _address, metavar="ADDR")
    add("--ttl", "seconds until a record expires, 0 for never", 0, _integer(0, _TEN_YEARS))

    add = _Group(parser, "how hard").add
    if is_parallel:
        add("--workers", "threads that encode and deliver", default_workers(), _integer(1, 256))
        add("--queue-size", "blocks that wait for a worker", 4, _integer(1, 10_000))
        add("--block-size", "bytes of text in a block", _MIB, _integer(1, _GIB))
        engines = ("auto", "compiled", "python")
        add("--engine", "what encodes: auto, compiled or python", "auto", _choice(*engines), metavar="ENGINE")
    add("--max-rate", "records a second over all servers, 0 for no limit", 0, _integer(0, 10**9))
    add("--timeout", "for one request to a server", 3.0, _positive_seconds)
    add("--connect-timeout", "for one connection to a server", 1.0, _positive_seconds)
    add("--retries", "how often a request is tried again", 3, _integer(0, 100))

    add = _Group(parser, "what to write").add
    text = "fraction of rejected records that is acceptable"
    add("--max-error-rate", text, NORMAL_ERR_RATE, _fraction, metavar="FRACTION")
    add("--rejects", "save rejected lines here (default: beside the file)", None, _directory, metavar="DIR")
    add("--report", "write a JSON report; - for standard output", None, metavar="FILE")
    add("--metrics", "write metrics for node_exporter's textfile collector", None, metavar="FILE")

    add = _Group(parser, "looks").add
    add("-l", "append the log to a file (default: console)", None, long_name="--log", metavar="FILE")
    text = "debug, info, warning or error (default: info, with --dry debug)"
    add("--log-level", text, None, _choice("debug", "info", "warning", "error"), metavar="LEVEL")
    text = "show the progress (default: when standard error is a terminal)"
    add("--progress", text, None, _truth, action=argparse.BooleanOptionalAction)

    values = vars(parser.parse_args(arguments))
    if values["dry"] and values.get("verify"):
        parser.error("--verify asks the servers, and --dry connects to none: give one of them")
    addresses = {name: values.pop(name) for name in DEVICE_TYPES}
    values["log_level"] = values["log_level"] or ("debug" if values["dry"] else "info")
    if values["progress"] is None:
        values["progress"] = sys.stderr.isatty()
    return kind(addresses=addresses, **values)


def default_workers() -> int:
    """Return how many workers keep this machine's cores and the servers busy."""
    return min(8, (os.cpu_count() or 1) + 1)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)} (--help tells more)\n")


class _Group:
    """A group of options in the help, whose defaults the environment can change."""

    def __init__(self, parser: argparse.ArgumentParser, title: str, environ: Mapping[str, str] = os.environ) -> None:
        self._parser = parser
        self._group = parser.add_argument_group(title)
        self._environ = environ

    def add(
        self,
        name: str,
        text: str,
        default: object,
        parse: Callable[[str], object] = str,
        *,
        long_name: str | None = None,
        **details: Any,
    ) -> None:
        """Add an option; its help ends in its default. `parse` makes a value of a text, or raises."""
        names = [name, long_name] if long_name else [name]
        is_flag = isinstance(default, bool)
        variable = _ENVIRONMENT_PREFIX + names[-1].removeprefix("--").replace("-", "_").upper()
        if self._environ.get(variable):
            try:
                default = (_truth if is_flag else parse)(self._environ[variable])
            except argparse.ArgumentTypeError as error:
                self._parser.error(f"{variable}: {error}")
        if is_flag:
            details["action"] = "store_true"
        elif "action" not in details:
            details.setdefault("metavar", "SECONDS" if isinstance(default, float) else "N")
            details["type"] = parse
        if not is_flag and default is not None:
            shown = ",".join(default) if isinstance(default, tuple) else str(default)
            text = f"{text} (default: {shown})".replace("%", "%%")
        self._group.add_argument(*names, help=text, default=default, **details)


def _truth(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("", "0", "false", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return parse


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


def _device_types(text: str) -> tuple[str, ...]:
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in DEVICE_TYPES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(DEVICE_TYPES)}")
    return tuple(name for name in DEVICE_TYPES if name in wanted)


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return text
