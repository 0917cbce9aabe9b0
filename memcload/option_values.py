"""The values of options: each function makes one of a text, or raises ArgumentTypeError with what is wrong with it."""

from __future__ import annotations

import contextlib
import math
import os
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from ipaddress import ip_address

from memcload.memcached.address import parse_address
from memcload.records import DEVICE_TYPES

_MAX_SERVERS = 64  # of a device type


def text(value: str) -> str:
    """Return the text itself; an empty one is a mistake of a script."""
    if not value:
        raise ArgumentTypeError("the value is empty")
    return value


def file(value: str) -> str:
    """Read the path of a file that is written; many programs take a dash for a stream."""
    if value == "-":
        raise ArgumentTypeError("'-' is not a file; use /dev/stdout for standard output")
    return text(value)


def pattern(value: str) -> str:
    """Read a pattern; one that names a store must not tell a secret, which the log would show."""
    if re.match(r"[a-z][a-z0-9+.-]*://[^/@]*:(?!\d{1,5}/)[^@]*@", value, re.IGNORECASE):
        raise ArgumentTypeError(
            "it has a password in it; leave that out: the store's library takes it from the environment or a profile"
        )
    return text(value)


def truth(value: str) -> bool:
    """Read yes or no."""
    lowered = value.lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("", "0", "false", "no", "off"):
        return False
    raise ArgumentTypeError(f"{value!r} is not yes or no")


def choice(*choices: str) -> Callable[[str], str]:
    """Accept one of these words."""

    def parse(value: str) -> str:
        if value not in choices:
            raise ArgumentTypeError(f"{value!r} is not one of {', '.join(choices)}")
        return value

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    """Accept a whole number in this range."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ArgumentTypeError(f"{value!r} is not a whole number") from None
        if not low <= number <= high:
            raise ArgumentTypeError(f"{value} is not between {low} and {high}")
        return number

    return parse


def seconds(value: str) -> float:
    """Read a time, 0 allowed."""
    return _number(value, 0, 1e9, "a number of seconds")


def positive_seconds(value: str) -> float:
    """Read a time limit."""
    return _number(value, 0.001, 86400, "a number of seconds between 0.001 and 86400")


def fraction(value: str) -> float:
    """Read a part of the whole."""
    return _number(value, 0, 1, "a fraction between 0 and 1")


def _number(value: str, low: float, high: float, kind: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise ArgumentTypeError(f"{value!r} is not {kind}")
    return number


def directory(value: str) -> str:
    """Accept the path of a directory that exists."""
    if not os.path.isdir(value):
        raise ArgumentTypeError(f"{value!r} is not a directory")
    return value


def device_types(value: str) -> tuple[str, ...]:
    """Read device types, comma-separated; return them in their usual order."""
    wanted = value.split(",")
    if unknown := [name for name in wanted if name not in DEVICE_TYPES]:
        raise ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(DEVICE_TYPES)}")
    return tuple(name for name in DEVICE_TYPES if name in wanted)


def servers(value: str) -> tuple[str, ...]:
    """Read the addresses of servers, comma-separated."""
    addresses = tuple(value.split(","))
    if len(addresses) > _MAX_SERVERS:
        raise ArgumentTypeError(f"{len(addresses)} servers given; at most {_MAX_SERVERS} are allowed")
    named: dict[object, str] = {}
    for address in addresses:
        endpoint = _endpoint(address)
        if endpoint in named:
            same = "named twice" if named[endpoint] == address else f"the same server as {named[endpoint]!r}"
            raise ArgumentTypeError(f"{address!r} is {same}: name each server once (there are no weights)")
        named[endpoint] = address
    return addresses


def cluster(value: str) -> str:
    """Read the address of a Dask scheduler, or how many workers to start here."""
    if re.fullmatch(r"local:[1-9][0-9]{0,2}", value):
        return value
    with contextlib.suppress(ValueError):
        if re.match(r"(tcp|tls)://(?!unix:)", value) and parse_address(value[len("tcp://") :]):
            return value
    raise ArgumentTypeError(f"{value!r} is not tcp://HOST:PORT, tls://HOST:PORT or local:N")


def _endpoint(address: str) -> object:
    """Return what is the same for two spellings of one address."""
    try:
        parsed = parse_address(address)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    if isinstance(parsed, str):
        return parsed
    host, port = parsed
    try:
        return ip_address(host), port
    except ValueError:
        return host.lower(), port
