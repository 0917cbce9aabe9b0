"""The options of both loaders, as the command line and its help have them. Their defaults are those of Options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memcload import option_values as values
from memcload.memcached.routing_rules import ROUTING_NAMES
from memcload.records import DEVICE_TYPES

ENVIRONMENT_PREFIX = "MEMC_LOAD_"

_MIB, _GIB = 1 << 20, 1 << 30
_TEN_YEARS = 10 * 365 * 24 * 3600  # seconds


@dataclass(frozen=True)
class Option:
    """An option of the command line. One without a metavar is a flag."""

    name: str
    text: str
    metavar: str = ""
    parse: Callable[[str], object] = values.text
    short_name: str = ""

    @property
    def field(self) -> str:
        """The name of its field in Options."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that stands in for it."""
        return ENVIRONMENT_PREFIX + self.field.upper()

    def read(self, value: str) -> object:
        """Make a value of a text. Raises ArgumentTypeError."""
        return self.parse(value) if self.metavar else values.truth(value)


_SECONDS, _LEVELS = "SECONDS", ("debug", "info", "warning", "error")
_ENGINES = ("auto", "compiled", "python")

GROUPS: dict[str, list[Option]] = {
    "what to load": [
        Option("--pattern", "files to load: a shell glob or s3://bucket/glob, in quotes", "GLOB", values.pattern),
        Option("--again", "load files that are done, too: .NAME as well as NAME"),
        Option("--only", "load only these device types, comma-separated", "TYPES", values.device_types),
        Option("--min-age", "leave younger files for the next run", _SECONDS, values.seconds),
        Option(
            "--settle", "a truncated file younger than this counts as still being written", _SECONDS, values.seconds
        ),
    ],
    "instead of a load": [
        Option("--dry", "parse and encode only: connect to nothing, rename nothing"),
        Option("--check", "check that a load would work; load nothing"),
        Option("--verify", "compare the files with what the servers hold; load nothing"),
        Option("--sample", "fraction of the keys to verify", "FRACTION", values.fraction),
        Option("--test", "run the protobuf round trip and exit", short_name="-t"),
    ],
    "servers": [
        *(
            Option(f"--{name}", f"memcached of {name} devices", "ADDR[,ADDR...]", values.servers)
            for name in DEVICE_TYPES
        ),
        Option(
            "--routing",
            "how the clients that read choose among several servers: rendezvous (pymemcache), crc32 (gomemcache), "
            "python-memcached, or ketama (libmemcached)",
            "RULE",
            values.choice(*ROUTING_NAMES),
        ),
        Option("--ttl", "seconds until a record expires, 0 for never", "N", values.integer(0, _TEN_YEARS)),
        Option("--tls", "connect over TLS; certificates and names are verified"),
        Option("--tls-ca", "authorities to trust instead of the system's", "FILE"),
        Option("--tls-cert", "certificate to show to the servers", "FILE"),
        Option("--tls-key", "its private key, if in a separate file", "FILE"),
        Option("--auth-file", "file with user:password for the servers, readable by its owner only", "FILE"),
    ],
    "speed and limits": [
        Option("--workers", "threads that encode", "N", values.integer(1, 256)),
        Option("--queue-size", "blocks that wait for a worker", "N", values.integer(1, 10_000)),
        Option(
            "--block-size",
            "bytes of text in a block; as much again for each dozen of servers",
            "N",
            values.integer(1, _GIB),
        ),
        Option("--engine", "what encodes: auto, compiled or python", "ENGINE", values.choice(*_ENGINES)),
        Option(
            "--cluster",
            "load on this Dask cluster: tcp://HOST:PORT, tls://HOST:PORT, or local:N",
            "ADDR",
            values.cluster,
        ),
        Option(
            "--window-size", "bytes that a worker of it stores before later ones", "N", values.integer(1, 64 * _GIB)
        ),
        Option("--max-rate", "records a second over all servers, 0 for no limit", "N", values.integer(0, 10**9)),
        Option("--timeout", "time limit for one request", _SECONDS, values.positive_seconds),
        Option("--connect-timeout", "time limit for connecting", _SECONDS, values.positive_seconds),
        Option("--retries", "how often a request is tried again", "N", values.integer(0, 100)),
    ],
    "what to write": [
        Option("--max-error-rate", "fraction of a file's records that may be rejected", "FRACTION", values.fraction),
        Option("--rejects", "save rejected lines here (default: beside the file)", "DIR", values.directory),
        Option("--max-rejects", "rejected lines to save per file", "N", values.integer(0, 10**9)),
        Option("--report", "write a JSON report; - for standard output", "FILE"),
        Option("--metrics", "write metrics for node_exporter's textfile collector", "FILE", values.file),
    ],
    "log and display": [
        Option("--log", "append the log to a file (default: console)", "FILE", values.file, short_name="-l"),
        Option(
            "--log-level",
            "debug, info, warning or error (default: info, with --dry debug)",
            "LEVEL",
            values.choice(*_LEVELS),
        ),
        Option("--progress", "show the progress (default: if standard error is a terminal)"),
    ],
}
