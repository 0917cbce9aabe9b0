"""Load copies of the logs in data/sample into four memcached servers and show what they hold afterwards."""

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
from tools.servers import LOAD_OPTIONS, ServerError, connect, four_servers, server_pid

PROJECT = Path(__file__).resolve().parent.parent
SAMPLES = PROJECT / "data" / "sample"
# Where the loaders look by default, and where docker-compose.yml puts its servers.
DEFAULT_ADDRESSES = {name: f"127.0.0.1:{port}" for port, name in enumerate(DEVICE_TYPES, 33013)}


def main() -> int:
    """Run the demonstration and return the loader's exit code, or 1 if no memcached can be started."""
    try:
        with addresses_of_servers() as addresses, tempfile.TemporaryDirectory() as directory:
            copies = Path(directory)
            step(f"Copying three sample logs to {copies}, because a loaded log is renamed")
            for log in sorted(SAMPLES.glob("*.tsv.gz")):
                shutil.copy(log, copies)
                print(f"    {log.name}")
            exit_code = load(copies, addresses)
            step("What the directory holds after the load: loaded logs, and the lines that were rejected")
            for path in sorted(copies.iterdir()):
                print(f"    {path.name}")
            step("What memcached holds now, read back and decoded")
            show_records(addresses)
            return exit_code
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def step(what_happens: str) -> None:
    """Print the headline of the next step."""
    print(f"\n==> {what_happens}", flush=True)


@contextmanager
def addresses_of_servers() -> Iterator[Mapping[str, str]]:
    """Yield the addresses of four memcached servers by device type; stop those that were started here.

    Servers that answer at the default addresses are used as they are. Otherwise new ones are started: as
    processes on free ports if memcached is installed, else by docker-compose.yml.

    Raises:
        ServerError: neither memcached nor Docker Compose could start them.

    """
    if all(server_pid(address) for address in DEFAULT_ADDRESSES.values()):
        step("Using the four memcached servers that answer at the default addresses")
        yield show_addresses(DEFAULT_ADDRESSES)
    elif shutil.which("docker") and not shutil.which("memcached"):
        step("Starting the four memcached servers of docker-compose.yml")
        with docker_compose():
            yield show_addresses(DEFAULT_ADDRESSES)
    else:
        step("Starting four memcached servers, one for each device type")
        with four_servers(*LOAD_OPTIONS) as servers:
            yield show_addresses({name: server.address for name, server in servers.items()})


@contextmanager
def docker_compose() -> Iterator[None]:
    """Run the services of docker-compose.yml during the `with` block.

    Raises:
        ServerError: the services did not start; Docker has printed why.

    """
    command = ["docker", "compose", "--project-directory", str(PROJECT)]
    try:
        if subprocess.run([*command, "up", "--detach", "--wait"], check=False).returncode:
            raise ServerError("Docker Compose could not start the servers. Its message is above; or install memcached")
        yield
    finally:
        subprocess.run([*command, "down"], check=False)


def show_addresses(addresses: Mapping[str, str]) -> Mapping[str, str]:
    """Print which server each device type goes to; return the addresses."""
    for name, address in addresses.items():
        print(f"    {name} -> {address}")
    return addresses


def load(directory: Path, addresses: Mapping[str, str]) -> int:
    """Load the logs in a directory and return the loader's exit code."""
    arguments = ["--pattern", f"{directory}/*.tsv.gz"]
    for name, address in addresses.items():
        if address != DEFAULT_ADDRESSES[name]:
            arguments += [f"--{name}", address]
    step(f"Running memc_load_parallel.py {' '.join(arguments)}")
    return subprocess.run([sys.executable, PROJECT / "memc_load_parallel.py", *arguments], check=False).returncode


def show_records(addresses: Mapping[str, str]) -> None:
    """Print the stored values of a few devices in the last log, and how many items each server holds."""
    with gzip.open(max(SAMPLES.glob("*.tsv.gz")), "rt", encoding="utf-8") as log:
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
