"""Load the small logs of data/appsinstalled into four memcached and show what is there afterwards."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from appsinstalled_pb2 import UserApps
from memcload.records import DEVICE_TYPES
from tools.servers import ServerError, connect, four_servers, server_pid

PROJECT = Path(__file__).resolve().parent.parent
LOGS = PROJECT / "data" / "appsinstalled"
# Where the loaders look by default, and where docker-compose.yml puts its servers.
DEFAULT_ADDRESSES = {name: f"127.0.0.1:{port}" for port, name in enumerate(DEVICE_TYPES, 33013)}


def main() -> int:
    """Run the demonstration and return the loader's exit code, or 1 when there is no memcached to be had."""
    try:
        with addresses_of_servers() as addresses, tempfile.TemporaryDirectory() as directory:
            inbox = Path(directory)
            step(f"Copying three small logs to {inbox}: a loaded log is renamed")
            for log in sorted(LOGS.glob("*.tsv.gz")):
                shutil.copy(log, inbox)
                print(f"    {log.name}")
            exit_code = load(inbox, addresses)
            step("What the loader left in that directory: loaded logs, and the lines it rejected")
            for path in sorted(inbox.iterdir()):
                print(f"    {path.name}")
            step("What is in memcached now, read back and decoded")
            show_records(addresses)
            return exit_code
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def step(what_happens: str) -> None:
    """Print the headline of what comes next."""
    print(f"\n==> {what_happens}", flush=True)


@contextmanager
def addresses_of_servers() -> Iterator[Mapping[str, str]]:
    """Yield the addresses of four memcached by device type, and stop the ones that were started for it.

    They are those that answer at the default addresses, or those of docker-compose.yml where there is no
    memcached but Docker, or new processes on free ports.

    Raises:
        ServerError: there is no memcached and no Docker Compose.

    """
    if all(server_pid(address) for address in DEFAULT_ADDRESSES.values()):
        step("Using the four memcached that answer at the default addresses")
        yield show_addresses(DEFAULT_ADDRESSES)
    elif shutil.which("docker") and not shutil.which("memcached"):
        step("Starting the four memcached of docker-compose.yml")
        with docker_compose():
            yield show_addresses(DEFAULT_ADDRESSES)
    else:
        step("Starting four memcached, one for each device type")
        with four_servers() as servers:
            yield show_addresses({name: server.address for name, server in servers.items()})


@contextmanager
def docker_compose() -> Iterator[None]:
    """Run the services of docker-compose.yml during the `with` block.

    Raises:
        ServerError: they didn't start; Docker has said why.

    """
    command = ["docker", "compose", "--project-directory", str(PROJECT)]
    try:
        if subprocess.run([*command, "up", "--detach", "--wait"], check=False).returncode:
            raise ServerError("Docker Compose could not start the servers: see above, or install memcached")
        yield
    finally:
        subprocess.run([*command, "down"], check=False)


def show_addresses(addresses: Mapping[str, str]) -> Mapping[str, str]:
    """Print where each device type goes and return the addresses."""
    for name, address in addresses.items():
        print(f"    {name} -> {address}")
    return addresses


def load(inbox: Path, addresses: Mapping[str, str]) -> int:
    """Run the loader on the logs in `inbox` and return its exit code."""
    arguments = ["--pattern", f"{inbox}/*.tsv.gz"]
    for name, address in addresses.items():
        if address != DEFAULT_ADDRESSES[name]:
            arguments += [f"--{name}", address]
    step(f"Running memc_load_parallel.py {' '.join(arguments)}")
    return subprocess.run([sys.executable, PROJECT / "memc_load_parallel.py", *arguments], check=False).returncode


def show_records(addresses: Mapping[str, str]) -> None:
    """Print the stored value of a few devices of the last log, and how many items each server holds."""
    with gzip.open(max(LOGS.glob("*.tsv.gz")), "rt", encoding="utf-8") as log:
        keys = [":".join(line.split("\t")[:2]) for line in islice(log, 6)]
    for key in keys:
        with connect(addresses[key.partition(":")[0]]) as client:
            value = client.get(key)
        if value is None:
            print(f"    {key} is missing")
            continue
        device = UserApps.FromString(value)
        first = ", ".join(map(str, device.apps[:4]))
        print(f"    {key}  {len(device.apps):3} apps: {first} ...  at {device.lat:.4f}, {device.lon:.4f}")
    print()
    for name, address in addresses.items():
        with connect(address) as client:
            print(f"    {name} holds {client.stats()[b'curr_items']} devices")


if __name__ == "__main__":
    sys.exit(main())
