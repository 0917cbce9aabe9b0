"""A load on a cluster leaves what a load on one host leaves, and says the same about it."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import signal
import socketserver
import threading
from pathlib import Path
from typing import Any

import pytest
from pymemcache.client.hash import HashClient

from tests.outside.clusters import PROJECT, DaskCluster
from tests.outside.faults import trigger
from tests.outside.loading import PARALLEL, Loader, Running, load, own_environ, run, with_report
from tests.outside.logs import Inbox, huge_line, line, log_of_few_devices, make_inbox, names, numbered, write_gz
from tests.outside.memcached import Servers, addresses, contents, everywhere
from tests.outside.object_store import SECRET, Bucket
from tests.outside.proxy import FaultyProxy
from tests.outside.secure import make_certificate, memcached
from tests.outside.spec import TYPES, expected
from tests.outside.terminal import bar_of, session
from tests.outside.trials import assert_loaded, assert_next_load_mends
from tests.outside.verifying import change, delete, verify

ON_CLUSTER: Loader = ("memc_load_parallel.py", "--engine", "python")
SMALL_WINDOWS = ("--window-size", "30000")  # a file of the inbox fills some


def on(cluster: DaskCluster, *options: str) -> tuple[str, ...]:
    return ("--cluster", cluster.address, *options)


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without what differs from load to load."""
    kept = {name: report[name] for name in ("exit_code", "dry", "totals")}
    kept["files"] = [{name: value for name, value in file.items() if name != "seconds"} for file in report["files"]]
    kept["devices"] = {name: (device["stored"], device["failed"]) for name, device in report["devices"].items()}
    return kept


def test_state_names_report_metrics_and_rejects_are_those_of_one_host(
    tmp_path: Path, servers: Servers, cluster: DaskCluster
) -> None:
    rng = random.Random(5)
    logs = [
        log_of_few_devices(rng, file)
        + (huge_line("idfa", "device0") if file == 1 else b"")
        + line("idfa", "device0")  # which supersedes it
        + b"\n \nnonsense\n"
        + (huge_line("gaid", "huge") if file == 0 else b"")
        + line("dvid", "partial", apps="1,x")
        for file in range(3)
    ]
    left = []
    metrics = tmp_path / "metrics"
    for options in ((), on(cluster, *SMALL_WINDOWS)):
        for server in servers.values():
            server.flush()
        inbox = make_inbox(tmp_path / "inbox", logs)
        (inbox.directory / "2.tsv.gz").write_bytes((inbox.directory / "2.tsv.gz").read_bytes()[:-9])  # truncated
        finished = load(ON_CLUSTER, inbox.pattern, servers, "--settle", "0", "--metrics", str(metrics), *options)
        figures = [figure for figure in metrics.read_text().splitlines() if "seconds" not in figure]
        rejects = {path.name: path.read_bytes() for path in inbox.directory.glob(".*.rejects.tsv")}
        left.append((without_times(finished.report), names(inbox.directory), rejects, contents(servers), figures))
        shutil.rmtree(inbox.directory)
    assert left[1] == left[0]
    assert left[0][0]["totals"]["rejected"]["too_large"] == 2
    assert [file["status"] for file in left[0][0]["files"]] == ["done", "done", "damaged"]


def test_again_only_and_ttl(inbox: Inbox, servers: Servers, cluster: DaskCluster) -> None:
    options = on(cluster, "--only", "gaid,dvid", "--ttl", "1000")
    assert load(ON_CLUSTER, inbox.pattern, servers, *options).exit_code == 0
    assert {key[:4] for key in contents(servers)} == {b"gaid", b"dvid"}
    assert all(990 <= item.expires_in <= 1000 for item in contents(servers).values())
    assert inbox.renamed() == []
    for name in inbox.waiting():
        (inbox.directory / name).rename(inbox.directory / f".{name}")
    assert load(ON_CLUSTER, inbox.pattern, servers, *on(cluster, "--again")).exit_code == 0
    assert contents(servers) == expected(*inbox.logs).items


def test_several_servers_a_device_type_and_a_pattern_that_begins_here(
    tmp_path: Path, servers: Servers, cluster: DaskCluster
) -> None:
    """The workers began elsewhere."""
    where = [server.address for server in servers.values()]
    inbox = make_inbox(tmp_path / "inbox", [numbered(300), numbered(300).replace(b"55.55", b"-1")])
    options = [part for name in TYPES for part in (f"--{name}", ",".join(where))]
    finished = run(ON_CLUSTER, "inbox/*.gz", *options, *on(cluster), directory=tmp_path)
    assert finished.exit_code == 0
    assert finished.says("inbox/0.tsv.gz: done, now inbox/.0.tsv.gz")
    with contextlib.closing(HashClient(where)) as reader:
        items = expected(*inbox.logs).items
        assert [key for key, item in items.items() if reader.get(key.decode()) != item.value] == []


def test_a_dry_run_shows_the_records_and_sends_nothing(inbox: Inbox, servers: Servers, cluster: DaskCluster) -> None:
    one_host, several = (load(ON_CLUSTER, inbox.pattern, servers, "--dry", *options) for options in ((), on(cluster)))
    assert several.messages("D") == one_host.messages("D") != []
    assert without_times(several.report) == without_times(one_host.report)
    assert contents(servers) == {}
    assert inbox.renamed() == []


def test_the_rate_holds_over_all_workers_and_the_progress_is_shown_here(
    tmp_path: Path, servers: Servers, cluster: DaskCluster
) -> None:
    inbox = make_inbox(tmp_path / "inbox", [numbered(1000, prefix=f"{file}-") for file in range(3)])
    options = on(cluster, *SMALL_WINDOWS, "--max-rate", "1500", "--report", str(tmp_path / "report"))
    with session(ON_CLUSTER, inbox.directory, servers, *options) as shown:
        assert shown.finish() == 0
    assert contents(servers) == expected(*inbox.logs).items
    assert inbox.waiting() == []
    assert json.loads((tmp_path / "report").read_text())["seconds"] > 3000 / 1500 - 0.5
    assert any(re.search(r" [1-9][\d,]* records · [\d,]+/s", bar_of(screen)) for screen in shown.seen)
    assert any("servers  idfa ok  gaid ok  adid ok  dvid ok" in screen for screen in shown.seen)


def test_a_server_that_is_down_fails_its_own_records_only(inbox: Inbox, servers: Servers, cluster: DaskCluster) -> None:
    servers["idfa"].kill()
    options = ("--retries", "0", "--connect-timeout", "0.5")
    one_host, several = (
        load(ON_CLUSTER, inbox.pattern, servers, *options, *more) for more in ((), on(cluster, *SMALL_WINDOWS))
    )
    assert without_times(several.report) == without_times(one_host.report)
    servers["idfa"].restart()
    assert_next_load_mends(inbox, servers)


def test_a_server_that_restarts_is_loaded_again(tmp_path: Path, servers: Servers, cluster: DaskCluster) -> None:
    inbox = make_inbox(tmp_path / "inbox", [numbered(3000)])
    restart = trigger(30_000, lambda: servers["idfa"].restart())  # in the middle of its windows
    with FaultyProxy(servers["gaid"].address, restart) as watch:
        finished = load(ON_CLUSTER, inbox.pattern, servers, *on(cluster, *SMALL_WINDOWS), gaid=watch.address)
    assert_loaded(finished, inbox, servers)
    assert finished.says("loading it again", "W")
    tasks, left = cluster.last_run()
    assert len(tasks) > 20
    assert {key[: len("memcload_")] for key in tasks} == {"memcload_"}  # and so on: no two runs have a key in common
    assert [key for key, count in tasks.items() if count > 1] == []  # or Dask could give the result of the first load
    assert left == []


def test_logs_in_an_object_store(bucket: Bucket, servers: Servers, cluster: DaskCluster) -> None:
    names = ["0 [1] é.gz", "1.gz", "2.gz"]
    logs = [log_of_few_devices(random.Random(number), number) for number in range(3)]
    huge = huge_line("gaid", "huge")
    for name, log in zip(names, logs, strict=True):
        bucket.write_log(f"in/{name}", log + huge)
    options = (*addresses(servers), *on(cluster), "--report", "-")
    url, environ = bucket.url("in/*.gz"), bucket.environ()
    none_yet = with_report(run(ON_CLUSTER, url, *options, "--min-age", "60", environ=environ))
    assert (none_yet.exit_code, none_yet.report["files"]) == (0, [])
    some = with_report(run(ON_CLUSTER, url, *options, "--only", "gaid", "--ttl", "1000", environ=environ))
    assert some.exit_code == 0
    assert {file["reason"] for file in some.report["files"]} == {"partly_loaded"}
    assert {key[:4] for key in contents(servers)} == {b"gaid"}
    assert bucket.names() == [f"in/{name}" for name in names]

    finished = with_report(run(ON_CLUSTER, url, *options, environ=environ))

    assert finished.exit_code == 0
    assert contents(servers) == expected(*logs).items
    assert bucket.names() == sorted([f"in/.{name}{suffix}" for name in names for suffix in ("", ".rejects.tsv")])
    rejects = [expected(log).rejects_file + b"601\ttoo_large\t" + huge for log in logs]
    assert [bucket.read(f"in/.{name}.rejects.tsv") for name in names] == rejects
    read_here = {path for method, path in bucket.gate.seen if method == "GET" and "/in/" in path}
    assert [path for path in read_here if not path.endswith(".lock")] == []  # but by the workers


def test_secrets_are_in_no_log_also_where_a_task_fails(
    bucket: Bucket, tmp_path: Path, servers: Servers, cluster: DaskCluster
) -> None:
    auth, password = tmp_path / "auth", "s3cr:et-of-ours"
    auth.write_text(f"loader:{password}\n")
    auth.chmod(0o600)
    certificate, key = make_certificate(tmp_path)
    chain = ("-o", f"ssl_chain_cert={certificate}", "-o", f"ssl_key={key}", "-o", f"ssl_ca_cert={certificate}")
    log = bucket.write_log("in/a.gz", numbered(400))
    with memcached("-Z", *chain, "-o", "ssl_verify_mode=2", "-Y", str(auth)) as address:
        tls = ("--tls", "--tls-ca", str(certificate), "--tls-cert", str(certificate), "--tls-key", str(key))
        options = ("--auth-file", "auth", *tls, *on(cluster, "--log-level", "debug"))
        first = (*everywhere(address), *options, "--only", "idfa", "--report", "-")
        environ, url = bucket.environ(), bucket.url("in/*.gz")
        loaded = with_report(run(ON_CLUSTER, url, *first, environ=environ, directory=tmp_path))
        # The first to connect is the program that starts the run.
        with FaultyProxy(address, trigger(0, auth.unlink)) as watch:
            options = (*everywhere(watch.address), *options)
            failed = run(ON_CLUSTER, url, *options, environ=environ, directory=tmp_path)
    assert (loaded.exit_code, loaded.report["totals"]["stored"]) == (0, expected(log).stored["idfa"])
    assert failed.exit_code == 1
    assert [text for text in failed.messages("E") if "a task failed on the cluster" in text and str(auth) in text]
    assert "Compute Failed" in cluster.log
    said = "\n".join([cluster.log, loaded.output, *loaded.log, *failed.log])
    secrets = [password, SECRET, *key.read_text().splitlines()[1:-1]]
    assert [secret for secret in secrets if secret in said] == []


def test_the_cluster_speaks_tls(tmp_path: Path, inbox: Inbox, servers: Servers) -> None:
    certificate, key = make_certificate(tmp_path)
    environ = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(certificate),
    }
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        environ[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(certificate)
        environ[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(key)
    with DaskCluster(tmp_path / "dask", workers=1, protocol="tls", environ=environ) as cluster:
        options = (*addresses(servers), *on(cluster), "--report", "-")
        finished = run(ON_CLUSTER, inbox.pattern, *options, environ={**own_environ(), **environ})
    assert_loaded(with_report(finished), inbox, servers)


def test_a_verification_finds_the_same(tmp_path: Path, servers: Servers, cluster: DaskCluster) -> None:
    logs = [
        log_of_few_devices(random.Random(file), file)
        + line("idfa", "gone")
        + (line("adid", "other", apps="1") + huge_line("gaid", "huge") if file == 0 else b"")
        for file in range(3)
    ]
    inbox = make_inbox(tmp_path / "inbox", logs)
    assert load(ON_CLUSTER, inbox.pattern, servers).exit_code == 0
    delete(servers, "idfa:gone")
    change(servers, "adid:other")
    (inbox.directory / ".2.tsv.gz").write_bytes((inbox.directory / ".2.tsv.gz").read_bytes()[:-9])  # truncated
    found = []
    for options in ((), on(cluster, *SMALL_WINDOWS)):
        verdict = verify(ON_CLUSTER, inbox.directory / ".*.gz", servers, "--report", "-", *options)
        report = {**json.loads(verdict.run.output), "seconds": 0}
        found.append((verdict.exit_code, report, verdict.named("missing"), verdict.named("different")))
    assert found[1] == found[0]
    assert [verdict.total(what) for what in ("missing", "different", "too_large")] == [3, 1, 1]
    assert found[0][1]["files"][2]["status"] == "damaged"


# --- what can't be ------------------------------------------------------------------------------


def test_who_has_another_version_or_not_the_program_is_named(
    tmp_path: Path, inbox: Inbox, servers: Servers, cluster: DaskCluster
) -> None:
    other = tmp_path / "other"
    shutil.copytree(PROJECT / "memcload", other / "memcload", ignore=shutil.ignore_patterns("__pycache__"))
    for path in PROJECT.glob("*.py"):
        shutil.copy(path, other)
    package = other / "memcload" / "__init__.py"
    package.write_text(package.read_text().replace('__version__ = "', '__version__ = "0.'))
    (tmp_path / "empty").mkdir()
    for place in (other, tmp_path / "empty"):
        cluster.start_other_worker(place)
    with cluster.scheduler_of_version("0.9"):
        finished = load(ON_CLUSTER, inbox.pattern, servers, *on(cluster))
    assert finished.exit_code == 1
    assert finished.says("the scheduler has version 0.9", "E")
    (message,) = [text for text in finished.messages("E") if "has version 0." in text and "stays pending" not in text]
    assert re.search(r"the worker tcp://127.0.0.1:\d+ has version 0.", message)
    assert re.search(r"the worker tcp://127.0.0.1:\d+ has not installed this program", message)
    assert inbox.renamed() == []
    assert contents(servers) == {}


def test_workers_that_are_all_paused(tmp_path: Path, inbox: Inbox, servers: Servers) -> None:
    environ = {"DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "0.001"}
    with (
        DaskCluster(tmp_path / "dask", workers=1, environ=environ) as cluster,
        Running(ON_CLUSTER, inbox.pattern, *addresses(servers), *on(cluster)) as running,
    ):
        running.wait_for(r" W all workers of the cluster tcp://\S+ are paused, .* give them more \(--memory-limit\)")
        running.send(signal.SIGTERM)
        assert running.finish().exit_code == 128 + signal.SIGTERM
    assert inbox.renamed() == []


def test_a_cluster_that_is_not_there(inbox: Inbox, servers: Servers) -> None:
    finished = load(ON_CLUSTER, inbox.pattern, servers, "--cluster", "tcp://127.0.0.1:1")
    assert finished.exit_code == 1
    assert finished.says("can't connect to the cluster tcp://127.0.0.1:1: ", "E")
    assert set(finished.statuses().values()) == {"pending"}


@pytest.mark.parametrize(
    ("protocol", "says"),
    [("tcp", "what is there does not speak as a Dask scheduler does"), ("tls", "Dask knows no certificates for TLS")],
)
def test_a_scheduler_that_is_none_or_wants_certificates(inbox: Inbox, protocol: str, says: str) -> None:
    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        address = f"{protocol}://127.0.0.1:{server.server_address[1]}"
        finished = run(ON_CLUSTER, inbox.pattern, "--cluster", address)
        server.shutdown()
    assert finished.exit_code == 1
    assert finished.says(f"can't connect to the cluster {address}: {says}", "E")
    assert inbox.renamed() == []


def test_dask_that_is_not_installed(tmp_path: Path, inbox: Inbox, servers: Servers) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError('there is no distributed')\n")
    environ = {**own_environ(), "PYTHONPATH": str(tmp_path)}
    options = (*addresses(servers), "--cluster", "local:2")
    finished = run(ON_CLUSTER, inbox.pattern, *options, environ=environ)
    assert finished.exit_code == 2
    assert finished.says("pip install '.[cluster]' in the checkout", "E")
    assert inbox.renamed() == []


@pytest.mark.parametrize(
    "options",
    [("--cluster", "local:0"), ("--cluster", "scheduler:8786"), ("--cluster", "tcp://h:0"), ("--window-size", "9")],
)
def test_wrong_usage(tmp_path: Path, options: tuple[str, ...]) -> None:
    write_gz(tmp_path / "a.gz", line())
    assert run(PARALLEL, tmp_path / "*.gz", *options).exit_code == 2
