"""The memcached servers that a subject gets: how many, how they are set up, and what they have used and hold."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import trustme
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from memcload.records import DEVICE_TYPES
from tools.servers import LOAD_OPTIONS, REPLY_TIMEOUT, MemcachedServer

DEFAULT_HASHPOWER = 16  # of memcached; its table grows when there are more than 1.5 items a bucket
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Setup:
    """How the servers of a subject are set up.

    Attributes:
        servers: how many there are for each device type.
        tls: whether they speak TLS.
        tuned: whether they are set up for a load, or but for their memory as memcached comes.

    """

    servers: int = 1
    tls: bool = False
    tuned: bool = True

    def options(self, records: int) -> tuple[str, ...]:
        """Return memcached's options for a load of this many records."""
        if not self.tuned:
            return LOAD_OPTIONS[:2]
        items = records / len(DEVICE_TYPES) / self.servers * 1.1  # they are not spread quite evenly
        return *LOAD_OPTIONS, "-o", f"hashpower={hashpower(items)}"


def hashpower(items: float) -> int:
    """Return the smallest table that does not grow while it is filled with this many items."""
    power = DEFAULT_HASHPOWER
    while 1.5 * 2**power < items:
        power += 1
    return power


class Farm:
    """Running servers: by device type, and all of them."""

    def __init__(self, servers: dict[str, list[MemcachedServer]], ca: Path | None) -> None:
        self.of_type = servers
        self.all = [server for several in servers.values() for server in several]
        self._ca = ca

    @property
    def load_options(self) -> list[str]:
        """Return the options with which a loader loads these servers."""
        options = ["--tls", "--tls-ca", str(self._ca)] if self._ca else []
        for name, servers in self.of_type.items():
            options += [f"--{name}", ",".join(server.address for server in servers)]
        return options

    def cpu_seconds(self) -> float:
        """Return the CPU seconds, user and system, that the servers have used."""
        return sum(_cpu_seconds_of(server.pid) for server in self.all)

    def stat(self, name: bytes) -> int:
        """Return the sum of a figure of the servers' `stats`."""
        total = 0
        for server in self.all:
            with server.client() as client:
                total += int(client.stats()[name])
        return total


class Farms:
    """Starts farms; keeps the certificates of those that speak TLS in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def running(self, setup: Setup, records: int) -> Iterator[Farm]:
        """Start empty servers for a load of this many records; stop them at the end of the `with` block.

        Raises ServerError.
        """
        # Started anew each time. Were they flushed, they would clear up while the next subject is measured.
        kind, options = MemcachedServer, setup.options(records)
        if setup.tls:
            kind, more = self._tls
            options += more
        with ExitStack() as stack:
            servers = {
                name: [stack.enter_context(kind.start(*options)) for _ in range(setup.servers)] for name in DEVICE_TYPES
            }
            yield Farm(servers, self._ca if setup.tls else None)

    @property
    def _ca(self) -> Path:
        return self._directory / "ca.pem"

    @cached_property
    def _tls(self) -> tuple[type[MemcachedServer], tuple[str, ...]]:
        """Return a server that speaks TLS, and its options; the certificates are made now."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self._ca))
        issued = authority.issue_cert("127.0.0.1")
        cert, key = self._directory / "server.pem", self._directory / "server.key"
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(cert))
        context = ssl.create_default_context(cafile=str(self._ca))

        class TlsServer(MemcachedServer):
            """A memcached that speaks TLS."""

            def client(self) -> AbstractContextManager[Client]:
                host, _, port = self.address.partition(":")
                return closing(
                    Client((host, int(port)), tls_context=context, connect_timeout=REPLY_TIMEOUT, timeout=REPLY_TIMEOUT)
                )

            def _answers(self) -> bool:
                try:
                    with self.client() as client:
                        return int(client.stats()[b"pid"]) == self.pid
                except (OSError, MemcacheError):
                    return False

        return TlsServer, ("-Z", "-o", f"ssl_chain_cert={cert}", "-o", f"ssl_key={key}")


def _cpu_seconds_of(pid: int) -> float:
    # The name of the program, in parentheses, may hold anything: the fields behind it count.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = fields[11], fields[12]
    return (int(user) + int(system)) / TICKS_PER_SECOND
