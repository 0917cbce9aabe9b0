"""What is in deploy/ works as it is: only places and addresses are replaced by those of the test."""

from __future__ import annotations

import fcntl
import gzip
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.outside.memcached import contents
from tools.servers import MemcachedServer

# Neither of the two has types.
kubernetes_validate: Any = importlib.import_module("kubernetes_validate")
yaml: Any = importlib.import_module("yaml")

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
PATIENCE = 30.0  # seconds for a load to end
TYPES = ("idfa", "gaid", "adid", "dvid")
RECORDS = 100

Servers = dict[str, MemcachedServer]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A directory with one log."""
    directory = tmp_path / "spool"
    directory.mkdir()
    write_log(directory / "a.tsv.gz")
    return directory


def write_log(path: Path) -> None:
    lines = [f"{TYPES[number % 4]}\tdevice{number}\t1\t2\t{number}\n" for number in range(RECORDS)]
    path.write_bytes(gzip.compress("".join(lines).encode()))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def held(servers: Servers) -> int:
    """Return how many items the servers hold together; what was flushed does not count, though they still do."""
    return len(contents(servers))


def adapted(text: str, directory: Path, servers: Servers) -> str:
    """Return a text of deploy/ with places and servers of the test instead of those of a production host."""
    places = {
        "/opt/memcload/bin/memc-load": f"{sys.executable} {PROJECT}/memc_load_parallel.py",
        "/var/spool/appsinstalled": str(directory / "spool"),
        "/var/log/memcload": str(directory),
        "/var/lib/prometheus/node-exporter": str(directory),
        "/var/lib/node_exporter/textfile_collector": str(directory),
        **{f"127.0.0.1:{33013 + number}": servers[name].address for number, name in enumerate(TYPES)},
        **{f"memc-{name}:11211": servers[name].address for name in TYPES},
    }
    for installed, here in places.items():
        text = text.replace(installed, here)
    return text


def settings(text: str) -> dict[str, str]:
    """Return the lines NAME=VALUE of a crontab, a unit or an environment file."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def run(command: str | list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment alone, away from the project and without a terminal."""
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        env=environ,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# --- cron and systemd ---------------------------------------------------------------------------


def run_crontab(directory: Path, servers: Servers, **other: str) -> subprocess.CompletedProcess[str]:
    """Run the crontab's command as cron would. What it prints would be mailed."""
    text = adapted((DEPLOY / "memc-load.crontab").read_text(), directory, servers)
    (command,) = re.findall(r"^(?:[*0-9/]+ ){5}(.+)$", text, re.MULTILINE)
    assert "%" not in command
    assert settings(text)["SHELL"] == "/bin/sh"
    return run(command, {"PATH": "/usr/bin:/bin", **settings(text), **other})


def test_the_crontab_loads_and_mails_only_what_went_wrong(tmp_path: Path, spool: Path, servers: Servers) -> None:
    good = run_crontab(tmp_path, servers)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    assert (names(spool), held(servers)) == ([".a.tsv.gz"], RECORDS)
    assert names(tmp_path) == ["memc_load.log", "memc_load.prom", "spool"]

    write_log(spool / "b.tsv.gz")
    with socket.socket() as bound:  # nothing listens there
        bound.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{bound.getsockname()[1]}"
        bad = run_crontab(tmp_path, servers, MEMC_LOAD_GAID=nowhere, MEMC_LOAD_RETRIES="0")
    assert bad.stdout.startswith("memc_load ended with exit code 1\n")
    assert f"1 file is pending: run again once {nowhere} answers" in bad.stdout

    descriptor = os.open(spool, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        other_holds_it = run_crontab(tmp_path, servers)
    finally:
        os.close(descriptor)
    assert (other_holds_it.returncode, other_holds_it.stdout, other_holds_it.stderr) == (0, "", "")

    wrong = run_crontab(tmp_path, servers, MEMC_LOAD_TTL="soon")
    assert "MEMC_LOAD_TTL" in wrong.stderr
    assert wrong.stdout.startswith("memc_load ended with exit code 2\n")


def test_the_service_loads_what_its_environment_file_says(tmp_path: Path, spool: Path, servers: Servers) -> None:
    unit = settings((DEPLOY / "memc-load.service").read_text())
    environ = settings((DEPLOY / "memc-load.env").read_text())
    assert unit["SuccessExitStatus"].split() == ["75", str(128 + signal.SIGTERM)]
    for path in unit["ReadWritePaths"].split():
        assert any(value.startswith(path) for value in environ.values())
    assert unit["Environment"] == f"NUMBA_CACHE_DIR=/var/cache/{unit['CacheDirectory']}"
    here = {name: adapted(value, tmp_path, servers) for name, value in environ.items()}
    finished = run(adapted(unit["ExecStart"], tmp_path, servers), here)
    assert (finished.returncode, finished.stdout) == (0, "")
    assert (names(spool), held(servers)) == ([".a.tsv.gz"], RECORDS)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_units_are_what_systemd_expects(tmp_path: Path) -> None:
    for unit in DEPLOY.glob("*.service"):
        text = unit.read_text().replace("/opt/memcload/bin/memc-load", "/bin/true")
        text = text.replace("/usr/bin/memcached", "/bin/true")
        (tmp_path / unit.name.replace("@", "@33013")).write_text(text)
    shutil.copy(DEPLOY / "memc-load.timer", tmp_path)
    (tmp_path / "memcached.service").write_text("[Service]\nExecStart=/bin/false\n")  # a distribution's
    (tmp_path / "memcached.service.d").mkdir()
    drop_in = (DEPLOY / "memcached.service.d" / "load.conf").read_text().replace("/usr/bin/memcached", "/bin/true")
    (tmp_path / "memcached.service.d" / "load.conf").write_text(drop_in)
    units = [str(path) for path in tmp_path.iterdir() if path.is_file()]
    finished = run(["systemd-analyze", "verify", "--man=no", *units], os.environ)
    assert [line for line in finished.stderr.splitlines() if "memc" in line] == []


# --- memcached ----------------------------------------------------------------------------------

BYTES_PER_ITEM = 310


def options_of_the_unit() -> list[str]:
    """Return the memcached options of the systemd unit, with the sizes that it sets."""
    unit = settings((DEPLOY / "memcached@.service").read_text())
    command = unit["ExecStart"]
    for name, value in re.findall(r"(\w+)=(\S+)", unit["Environment"]):
        command = command.replace(f"${{{name}}}", value)
    program, *options = command.split()
    assert program == "/usr/bin/memcached"
    assert options[:4] == ["-l", "127.0.0.1", "-p", "%i"]
    return options[4:]


def options_of_the_drop_in() -> list[str]:
    """Return the memcached options of the drop-in for a distribution's unit, but for its user and place."""
    text = (DEPLOY / "memcached.service.d" / "load.conf").read_text()
    commands: list[str] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert commands[0] == ""  # or systemd would refuse a second one
    program, *options = commands[1].split()
    assert (program, options[:6]) == ("/usr/bin/memcached", ["-u", "memcache", "-l", "127.0.0.1", "-p", "11211"])
    return options[6:]


def options_of_docker_compose() -> list[str]:
    """Return the memcached options of docker-compose.yml, the same for all device types."""
    services = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
    assert [service["ports"] for service in services.values()] == [
        [f"127.0.0.1:{port}:11211"] for port in range(33013, 33017)
    ]
    program, *options = services["memc-idfa"]["command"]
    assert program == "memcached"
    assert all(service["command"] == ["memcached", *options] for service in services.values())
    return [str(option) for option in options]


@pytest.mark.parametrize(
    "options",
    [options_of_the_unit, options_of_the_drop_in, options_of_docker_compose],
    ids=["systemd", "drop-in", "compose"],
)
def test_memcached_is_sized_for_the_items_that_its_memory_holds(options: Any) -> None:
    with MemcachedServer.start(*options()) as server, server.client() as client:
        stats, chosen = client.stats(), client.stats("settings")
    items = int(stats[b"limit_maxbytes"]) / BYTES_PER_ITEM
    assert items > 3.2e6  # the three real logs, and a quarter more
    assert stats[b"hash_power_level"] == hash_power(items)
    assert int(chosen[b"reqs_per_event"]) == 200


def hash_power(items: float) -> int:
    """Return the smallest hash table for this many items that memcached will not double."""
    return next(power for power in range(16, 33) if 1.5 * 2**power >= items)


def test_the_table_of_sizes_follows_the_rule() -> None:
    text = (PROJECT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| ([\d.]+) million +\| +`-m (\d+)` +\| +`hashpower=(\d+)` +\| +(\d+) MB +\|$", text, re.M)
    assert [int(power) for _, _, power, _ in rows] == list(range(20, 27))
    for millions, memory, power, table in rows:
        items = float(millions) * 1e6
        assert hash_power(items) == int(power)
        assert hash_power(items + 0.1e6) == int(power) + 1
        assert 0 <= int(memory) - items * BYTES_PER_ITEM / 2**20 < 1
        assert int(table) == round(8 * 2 ** int(power) / 1e6)


# --- Kubernetes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    """The objects of the Kubernetes manifest by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes-cronjob.yml").read_text())}


@pytest.fixture(scope="module")
def job(objects: dict[str, Any]) -> Any:
    return objects["CronJob"]["spec"]["jobTemplate"]["spec"]


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_the_manifest_follows_the_published_schema(objects: dict[str, Any], version: str) -> None:
    assert objects.keys() == {"PersistentVolumeClaim", "CronJob"}
    for each in objects.values():
        kubernetes_validate.validate(each, version, strict=True)


def test_the_job_loads_what_its_environment_says(
    tmp_path: Path, spool: Path, servers: Servers, objects: dict[str, Any], job: Any
) -> None:
    (container,) = job["template"]["spec"]["containers"]
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    paths = [each["value"] for each in container["env"] if each["value"].startswith("/")]
    assert all(any(path.startswith(place) for place in mounted) for path in paths)
    environ = {each["name"]: adapted(each["value"], tmp_path, servers) for each in container["env"]}
    del environ["NUMBA_CACHE_DIR"]  # nothing is cached there: it would take seconds to compile
    finished = run([sys.executable, str(PROJECT / "memc_load_parallel.py")], environ)
    assert (finished.returncode, finished.stdout) == (0, "")
    assert (names(spool), held(servers)) == ([".a.tsv.gz"], RECORDS)
    assert (tmp_path / "memc_load.prom").exists()


def test_the_job_gives_a_load_time_to_stop_and_no_company(objects: dict[str, Any], job: Any) -> None:
    assert objects["CronJob"]["spec"]["concurrencyPolicy"] == "Forbid"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # Kubernetes takes a podFailurePolicy with no other
    environ = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    assert pod["terminationGracePeriodSeconds"] > float(environ["MEMC_LOAD_TIMEOUT"]) + 2
    assert pod["enableServiceLinks"] is False  # MEMC_LOAD_… are options
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_job_knows_what_the_exit_codes_ask_for(job: Any) -> None:
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        for code in rule.get("onExitCodes", {}).get("values", []):
            assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
            actions[code] = rule["action"]
    assert actions == {75: "Ignore", 1: "FailJob", 2: "FailJob"}


# --- metrics ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, running_servers: Servers) -> dict[str, set[str]]:
    """The names of the metrics that a load writes, each with its labels."""
    directory = tmp_path_factory.mktemp("metrics")
    write_log(directory / "a.tsv.gz")
    options = [part for name, server in running_servers.items() for part in (f"--{name}", server.address)]
    options += ["--pattern", f"{directory}/*.tsv.gz", "--metrics", f"{directory}/memc_load.prom"]
    assert run([sys.executable, f"{PROJECT}/memc_load_parallel.py", *options], {}).returncode == 0
    samples = re.findall(r"^(\w+)(\{.*\})? ", (directory / "memc_load.prom").read_text(), re.MULTILINE)
    return {name: set(re.findall(r'(\w+)="', labels)) for name, labels in samples}


def expressions_of_the_alerts() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    shown = [text for rule in rules for text in re.findall(r"\$labels\.\w+", str(rule["annotations"]))]
    assert {text.removeprefix("$labels.") for text in shown} == {"instance", "status", "device_type", "server"}
    return [rule["expr"] for rule in rules]


def expressions_of_the_dashboard() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    variables = [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    return variables + [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


@pytest.mark.parametrize("expressions", [expressions_of_the_alerts, expressions_of_the_dashboard])
def test_only_metrics_that_are_written_are_asked_for(expressions: Any, written: dict[str, set[str]]) -> None:
    asked = expressions()
    assert len(asked) > 5
    for expression in asked:
        for name, selector in re.findall(r"\b(memc_load_\w+)(\{[^}]*\})?", expression):
            assert name in written
            assert set(re.findall(r"(\w+)=", selector)) <= {*written[name], "instance"}
        for grouped in re.findall(r"\bby \((\w+)\)", expression):
            assert any(grouped in labels for labels in written.values()) or grouped == "instance"


def test_the_dashboard_shows_every_metric(written: dict[str, set[str]]) -> None:
    asked = " ".join(expressions_of_the_dashboard())
    assert {name for name in written if not re.search(rf"\b{name}\b", asked)} == set()


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
