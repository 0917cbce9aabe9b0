"""The command line of both loaders, and the environment that can stand in for it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TextIO, TypeVar

from memcload import __version__
from memcload.console import console_is_terminal, warn_console, write_stream
from memcload.log import printable
from memcload.memcached.routing_rules import RoutingName
from memcload.option_table import ENVIRONMENT_PREFIX, GROUPS, Option
from memcload.records import DEVICE_TYPES

NORMAL_ERR_RATE = 0.01

EngineName = Literal["auto", "compiled", "python"]

# What Kubernetes sets in every pod for a service whose name begins with memc-load.
_OF_KUBERNETES = re.compile(r"(?:.*_)?(?:PORT(?:_.*)?|SERVICE_HOST|SERVICE_PORT.*)", re.DOTALL)
_DEFAULT_PORTS = dict(zip(DEVICE_TYPES, (33013, 33014, 33015, 33016), strict=True))


def default_workers() -> int:
    """Return how many workers keep this machine's cores and the servers busy."""
    return min(8, (os.cpu_count() or 1) + 1)


def _default_servers() -> dict[str, tuple[str, ...]]:
    return {name: (f"127.0.0.1:{port}",) for name, port in _DEFAULT_PORTS.items()}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a loader is to do. `servers` are addresses by device type; sizes are in bytes, times in seconds."""

    pattern: str = "./data/appsinstalled/*.tsv.gz"
    again: bool = False
    only: tuple[str, ...] = DEVICE_TYPES
    min_age: float = 0.0
    settle: float = 60.0
    dry: bool = False
    check: bool = False
    test: bool = False
    servers: dict[str, tuple[str, ...]] = field(default_factory=_default_servers)
    routing: RoutingName = "rendezvous"
    ttl: int = 0
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    auth_file: str | None = None
    max_rate: int = 0
    timeout: float = 3.0
    connect_timeout: float = 1.0
    retries: int = 3
    max_error_rate: float = NORMAL_ERR_RATE
    rejects: str | None = None
    max_rejects: int = 100_000
    report: str | None = None
    metrics: str | None = None
    log: str | None = None
    log_level: str = "info"
    progress: bool = False

    @property
    def shows_records(self) -> bool:
        """True if every record is shown in the log instead of being stored."""
        return self.dry and self.log_level == "debug"

    def shown(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, as the first line of the log shows them."""
        default = type(self)(log_level="debug" if self.dry else "info", progress=self.progress)
        shown: dict[str, Any] = {}
        for name in (option.name for option in dataclasses.fields(self)):
            value = getattr(self, name)
            if name == "servers":
                changed = {key: ",".join(value[key]) for key in value if value[key] != default.servers[key]}
                shown.update(changed)
            elif value != getattr(default, name):
                shown[name] = _text_of(value) if isinstance(value, tuple) else value
        return shown


@dataclass(frozen=True, kw_only=True)
class ParallelOptions(Options):
    """What the parallel loader is to do."""

    verify: bool = False
    sample: float = 1.0
    workers: int = field(default_factory=default_workers)
    queue_size: int = 4
    block_size: int = 1 << 20
    engine: EngineName = "auto"
    cluster: str | None = None
    window_size: int = 48 << 20


AnyOptions = TypeVar("AnyOptions", bound=Options)


_OPTIONS = [option for options in GROUPS.values() for option in options]
_OF_PARALLEL = {item.name for item in dataclasses.fields(ParallelOptions)} - {
    item.name for item in dataclasses.fields(Options)
}


def parse_options(arguments: Sequence[str] | None, description: str, kind: type[AnyOptions]) -> AnyOptions:
    """Parse the command line. Wrong usage ends the program with one clear line and exit code 2."""
    parser = _Parser(
        usage="%(prog)s [OPTIONS]",
        description=description,
        epilog="An ADDR is host:port, [v6]:port or unix:/path. A flag can be unset: --no-dry. Every option can also be "
        f"given as an environment variable: {ENVIRONMENT_PREFIX}IDFA, {ENVIRONMENT_PREFIX}MAX_RATE, and so on. "
        "The command line wins.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=27),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}", help="show the version and exit"
    )
    own = [option for option in _OPTIONS if option.field not in _OF_PARALLEL or issubclass(kind, ParallelOptions)]
    _add_options(parser, own, kind())
    namespace, rest = parser.parse_known_args(arguments)
    given = vars(namespace)
    if rest:
        parser.error(_left_over(rest))
    values = {**_from_environment(parser, own, given), **given}
    _choose_mode(parser, values, given)
    _refuse_nonsense(parser, values, given)
    values.setdefault("log_level", "debug" if values.get("dry") else "info")
    values.setdefault("progress", console_is_terminal())
    servers = _default_servers() | {name: values.pop(name) for name in DEVICE_TYPES if name in values}
    return kind(servers=servers, **values)


class _Parser(argparse.ArgumentParser):
    """Tells in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"ignored explicit argument .*", "it takes no value", message, flags=re.DOTALL)
        warn_console(f"{self.prog}: {printable(message)} (see --help)")
        self.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        stream: TextIO | None = sys.stderr if file is None else file
        with contextlib.suppress(OSError):  # nobody is there to be told
            write_stream(stream, message)


def _add_options(parser: argparse.ArgumentParser, own: Sequence[Option], defaults: Options) -> None:
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in (option for option in options if option in own):
            names = [option.short_name, option.name] if option.short_name else [option.name]
            if not option.metavar:
                group.add_argument(*names, dest=option.field, action="store_true", help=option.text)
                off = f"--no-{option.name.removeprefix('--')}"
                group.add_argument(off, dest=option.field, action="store_false", help=argparse.SUPPRESS)
                continue
            default = defaults.servers.get(option.field) or getattr(defaults, option.field)
            text = option.text
            if default is not None and "(default: " not in text:
                text += f" (default: {_text_of(default)})"
            group.add_argument(*names, metavar=option.metavar, type=option.parse, help=text.replace("%", "%%"))


def _text_of(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _left_over(rest: Sequence[str]) -> str:
    """Return what is wrong with arguments that are no options and no values of any."""
    wrong = [argument for argument in rest if argument != "--"] or ["--"]
    first = wrong[0]
    if first.startswith("-"):
        name = first.split("=")[0]
        if name.removeprefix("--").replace("-", "_") in _OF_PARALLEL:
            return f"{name} is an option of the parallel loader only"
        nearest = _nearest(name, [option.name for option in _OPTIONS], 0.6)
        return f"unknown option {name}" + (f"; did you mean {nearest}?" if nearest else "")
    if first in DEVICE_TYPES or re.search(r":\d+,?$|^unix:/", first):
        return f"unexpected {first!r}: separate the values of an option by commas, without spaces"
    found = f"{first!r}" if len(wrong) == 1 else f"{first!r} and {len(wrong) - 1} more"
    return (
        f"unexpected {found}: --pattern takes one pattern, not a list of files; put it in quotes, so that the shell "
        "does not expand it: --pattern '/logs/*.tsv.gz'"
    )


def _from_environment(
    parser: _Parser, own: Sequence[Option], given: Mapping[str, object], environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Return the values that variables set and the command line does not."""
    _refuse_unknown_variables(parser, environ)
    values: dict[str, Any] = {}
    for option in own:
        if option.field not in given and environ.get(option.variable):
            try:
                values[option.field] = option.read(environ[option.variable])
            except argparse.ArgumentTypeError as error:
                parser.error(f"{option.variable}: {error}")
    return values


def _refuse_unknown_variables(parser: _Parser, environ: Mapping[str, str]) -> None:
    known = [option.variable for option in _OPTIONS]
    for variable in sorted(environ):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name == variable or variable in known or not environ[variable] or _OF_KUBERNETES.fullmatch(name):
            continue
        nearest = _nearest(name, [known_name.removeprefix(ENVIRONMENT_PREFIX) for known_name in known], 0.0)
        parser.error(f"unknown environment variable {variable}; did you mean {ENVIRONMENT_PREFIX}{nearest}?")


def _nearest(name: str, names: Sequence[str], cutoff: float) -> str | None:
    from difflib import get_close_matches  # imported here: only a mistake needs it

    return next(iter(get_close_matches(name, names, 1, cutoff)), None)


_MODES = ("dry", "check", "verify")


def _choose_mode(parser: _Parser, values: dict[str, Any], given: Mapping[str, object]) -> None:
    """See to it that at most one mode is chosen: one on the command line wins over those of the environment."""
    chosen = [mode for mode in _MODES if given.get(mode)]
    if len(chosen) == 1:
        values.update({mode: False for mode in _MODES if mode in values and mode not in chosen})
    chosen = [mode for mode in _MODES if values.get(mode)]
    if len(chosen) > 1:
        *others, last = (f"--{mode}" for mode in chosen)
        parser.error(f"{', '.join(others)} and {last} exclude each other: give only one")


def _refuse_nonsense(parser: _Parser, values: Mapping[str, Any], given: Mapping[str, object]) -> None:
    """Refuse options that do nothing. Those that the environment sets for other runs are accepted."""
    if "sample" in given and not values.get("verify"):
        parser.error("--sample does nothing without --verify")
    if "window_size" in given and not values.get("cluster"):
        parser.error("--window-size does nothing without --cluster")
    if "cluster" in given and values.get("check"):
        parser.error("--check runs on this host alone: leave --cluster out")
    if not values.get("tls"):
        for name in ("tls_ca", "tls_cert", "tls_key"):
            if name in given:
                parser.error(f"--{name.replace('_', '-')} does nothing without --tls")
    else:
        if "tls_key" in values and "tls_cert" not in values:
            parser.error("--tls-key does nothing without --tls-cert")
        for device_type in values.get("only", DEVICE_TYPES):
            for address in values.get(device_type, ()):
                if address.startswith("unix:"):
                    parser.error(f"--{device_type} {address}: --tls does not work over a Unix socket")
    _refuse_outputs(parser, values, values.get("pattern", Options.pattern))


def _refuse_outputs(parser: _Parser, values: Mapping[str, Any], pattern: str) -> None:
    """Refuse a log, report or metrics in the place of one another or of a file that is loaded."""
    outputs: dict[str, str] = {}
    for name in ("log", "report", "metrics"):
        if values.get(name, "-") == "-":
            continue
        try:
            path = os.path.realpath(values[name])
        except OSError as error:  # the current directory is gone
            parser.error(f"--{name} {values[name]}: {error.strerror}: give an absolute path")
        if os.path.exists(path) and not os.path.isfile(path):
            continue
        if path in outputs:
            parser.error(f"--{outputs[path]} and --{name} are the same file")
        outputs[path] = name
    for path, name in outputs.items():
        from memcload.source.pattern import would_match  # imported here: most runs write none of them

        if would_match(path, pattern):
            parser.error(f"--{name} {values[name]}: --pattern {pattern} would load it too; put it elsewhere")
