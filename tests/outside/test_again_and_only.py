"""--again refills a cache that lost everything; --only loads some device types. Neither mixes up what is done."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.outside.loading import PARALLEL, REFERENCE, Loader, all_loaders, both_loaders, load, run
from tests.outside.logs import line, make_old, names, numbered, write_gz
from tests.outside.memcached import Servers, closed_port, contents
from tests.outside.spec import TYPES, expected
from tools.make_logs import write_logs


def restart_cold(servers: Servers) -> None:
    for server in servers.values():
        server.restart()


# --- --again ------------------------------------------------------------------------------------


@all_loaders
def test_a_cold_cache_is_refilled_from_done_files_and_new_ones(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    paths = write_logs(tmp_path, files=4, lines=300, seed=5, malformed=0.005, repeat_keys=0.6)
    logs = [gzip.decompress(path.read_bytes()) for path in paths]
    last = paths.pop()
    last.rename(tmp_path / "later")
    assert load(loader, tmp_path / "*.tsv.gz", servers).exit_code == 0
    (tmp_path / "later").rename(last)
    restart_cold(servers)
    assert contents(servers) == {}

    finished = load(loader, tmp_path / "*.tsv.gz", servers, "--again")

    assert finished.exit_code == 0
    assert contents(servers) == expected(*logs).items
    assert finished.statuses() == {f".{path.name}": "done" for path in paths} | {last.name: "done"}
    done = [name for name in names(tmp_path) if name.endswith(".tsv.gz")]
    assert done == [f".{path.name}" for path in (*paths, last)]


@all_loaders
def test_files_of_one_name_are_loaded_in_the_order_in_which_they_came(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    came = [".a.gz", *(f".a.gz.{number}" for number in range(1, 12)), "a.gz", ".b.gz"]
    for number, name in enumerate(came):
        write_gz(tmp_path / name, line(apps=str(number)) + line("gaid" if "b" in name else "idfa", apps=str(number)))

    finished = load(loader, tmp_path / "*.gz", servers, "--again")

    assert [os.path.basename(entry["path"]) for entry in finished.report["files"]] == came
    assert contents(servers) == expected(line(apps="13") + line("gaid", apps="13")).items
    assert names(tmp_path) == sorted([*came[:-2], ".a.gz.12", ".b.gz"])


@both_loaders
def test_done_files_keep_their_names_and_times(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for name in (".a.gz", ".a.gz.1", ".b.gz"):
        write_gz(tmp_path / name, numbered(150) + b"rejected\n")
        make_old(tmp_path / name)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    assert load(loader, tmp_path / "*", servers, "--again").exit_code == 0
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


@both_loaders
def test_what_else_begins_with_a_dot_is_not_loaded(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    others = [
        ".a.gz.damaged",
        ".a.gz.damaged.1",
        ".a.gz.rejects.tsv",
        ".a.gz.rejects.tsv.3",
        ".a.gz.x1y2.part",
    ]
    for name in others:
        write_gz(tmp_path / name, line(apps="666"))
    log = write_gz(tmp_path / ".a.gz", numbered(8))
    for pattern in ("*", "*.gz", "a*", ".*", "*.gz*"):
        finished = load(loader, tmp_path / pattern, servers, "--again")
        assert finished.statuses() == {".a.gz": "done"}
    assert contents(servers) == expected(log).items
    assert names(tmp_path) == sorted([".a.gz", *others])


@both_loaders
def test_only_done_files_whose_name_had_matched_are_loaded(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    for name in (".20170929.tsv.gz", ".20170930.tsv.gz", ".20170930.tsv.gz.1", ".notes"):
        write_gz(tmp_path / name, line(dev_id=name))
    finished = load(loader, tmp_path / "20170930*.tsv.gz", servers, "--again")
    assert list(finished.statuses()) == [".20170930.tsv.gz", ".20170930.tsv.gz.1"]


@both_loaders
def test_without_it_no_done_file_is_loaded(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / ".a.gz", numbered(8))
    for pattern in ("*", ".*", ".a.gz"):
        assert load(loader, tmp_path / pattern, servers).report["files"] == []
    assert contents(servers) == {}


@both_loaders
def test_a_refill_that_fails_holds_back_new_files_and_says_how_to_go_on(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    write_gz(tmp_path / ".a.gz", numbered(8))
    write_gz(tmp_path / "b.gz", numbered(8))
    with closed_port() as nowhere:
        finished = load(loader, tmp_path / "*", servers, "--again", "--retries", "0", gaid=nowhere)
    assert finished.exit_code == 1
    assert finished.statuses() == {".a.gz": "pending", "b.gz": "pending"}
    assert names(tmp_path) == [".a.gz", "b.gz"]
    assert f"2 files are pending: run again with --again once {nowhere} answers" in finished.messages("W")


# --- --only -------------------------------------------------------------------------------------


@all_loaders
def test_only_the_device_types_asked_for_are_loaded(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    log = write_gz(tmp_path / "a.gz", numbered(400))

    finished = load(loader, tmp_path / "*", servers, "--only", "gaid,idfa")

    wanted = {key: item for key, item in expected(log).items.items() if key[:4] in (b"idfa", b"gaid")}
    assert contents(servers) == wanted
    assert finished.exit_code == 0
    assert {name: finished.report["devices"][name]["stored"] for name in TYPES} == {
        "idfa": 100,
        "gaid": 100,
        "adid": 0,
        "dvid": 0,
    }
    assert names(tmp_path) == ["a.gz"]
    assert not [message for message in finished.messages("W") if "pending" in message]


@both_loaders
def test_servers_of_the_other_types_need_not_be_there(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(40))
    with closed_port() as nowhere:
        finished = load(loader, tmp_path / "*", servers, "--only", "idfa", gaid=nowhere, adid=nowhere, dvid=nowhere)
    assert (finished.exit_code, len(contents(servers))) == (0, 10)
    assert finished.messages("WE") == []


@all_loaders
def test_the_rest_can_follow_and_then_the_file_is_done(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    log = write_gz(tmp_path / "a.gz", numbered(400))
    load(loader, tmp_path / "*", servers, "--only", "idfa,gaid")
    load(loader, tmp_path / "*", servers, "--only", "adid,dvid")
    assert contents(servers) == expected(log).items
    assert names(tmp_path) == ["a.gz"]
    load(loader, tmp_path / "*", servers)
    assert names(tmp_path) == [".a.gz"]


@both_loaders
def test_all_types_are_as_good_as_none_named(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(40))
    assert load(loader, tmp_path / "*", servers, "--only", "dvid,adid,gaid,idfa").exit_code == 0
    assert names(tmp_path) == [".a.gz"]


@both_loaders
def test_one_server_that_restarted_cold_is_refilled_alone(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    log = write_gz(tmp_path / "a.gz", numbered(400))
    load(loader, tmp_path / "*.gz", servers)
    servers["adid"].restart()
    assert len(contents(servers)) == 300

    finished = load(loader, tmp_path / "*.gz", servers, "--again", "--only", "adid")

    assert (finished.exit_code, finished.statuses()) == (0, {".a.gz": "done"})
    assert finished.report["totals"]["stored"] == 100
    assert contents(servers) == expected(log).items
    assert names(tmp_path) == [".a.gz"]


@all_loaders
@pytest.mark.parametrize("limit", ["0.19", "0.2"])
def test_the_error_rate_is_that_of_the_records_that_were_asked_for(
    tmp_path: Path, servers: Servers, loader: Loader, limit: str
) -> None:
    """Lines of other types are skipped, valid or not; a line that cannot be told to be of one is rejected as ever."""
    log = (
        numbered(8, types=["idfa"])
        + line("idfa", "wrong", lat="nan")
        + b"no type\n"
        + numbered(50, types=["gaid", "adid"])
        + line("gaid", "wrong", lat="nan")
        + line("dvid", "partial", apps="1,x")
        + b"adid\tcolumns\n"
        + b"dvid\n"
    )
    write_gz(tmp_path / "a.gz", log)
    finished = load(loader, tmp_path / "*.gz", servers, "--only", "idfa", "--max-error-rate", limit)
    counts = {name: finished.file("a.gz")[name] for name in expected().counts()}
    assert counts == {
        **expected(b"".join(log.splitlines(keepends=True)[:10])).counts(),
        "rejected": {"coordinates": 1, "columns": 1},
    }
    assert counts["error_rate"] == 0.2
    assert finished.exit_code == (1 if limit == "0.19" else 0)
    assert contents(servers) == expected(numbered(8, types=["idfa"])).items


@both_loaders
def test_a_dry_run_saves_the_rejected_lines_of_the_types_asked_for(tmp_path: Path, loader: Loader) -> None:
    (tmp_path / "rejects").mkdir()
    write_gz(tmp_path / "a.gz", b"gaid\t1\n" + b"idfa\t1\n" + b"x\n")
    options = ("--dry", "--only", "idfa", "--rejects", str(tmp_path / "rejects"), "--log-level", "info")
    run(loader, tmp_path / "*.gz", *options)
    assert (tmp_path / "rejects/.a.gz.rejects.tsv").read_bytes() == b"2\tcolumns\tidfa\t1\n3\tcolumns\tx\n"


@both_loaders
@pytest.mark.parametrize("wrong", ["", "idfa,", "ifda", "IDFA", "idfa gaid", "idfa, gaid"])
def test_a_wrong_device_type_is_wrong_usage(tmp_path: Path, loader: Loader, wrong: str) -> None:
    write_gz(tmp_path / "a.gz", numbered(4))
    assert run(loader, tmp_path / "*", "--only", wrong).exit_code == 2
    assert names(tmp_path) == ["a.gz"]


@pytest.mark.parametrize(
    "loader",
    [
        pytest.param(REFERENCE, id="reference"),
        pytest.param(PARALLEL, id="parallel"),
    ],
)
def test_a_dry_run_of_some_types_shows_only_these(tmp_path: Path, loader: Loader) -> None:
    write_gz(tmp_path / "a.gz", numbered(8))
    shown = run(loader, tmp_path / "*", "--dry", "--only", "dvid").messages("D")
    assert [message.split(" - ")[1].split(" ")[0] for message in shown] == ["dvid:device3", "dvid:device7"]


# --- both: a file that keeps its name -----------------------------------------------------------


@both_loaders
@pytest.mark.parametrize(
    ("name", "options"),
    [("a.gz", ("--only", "idfa")), (".a.gz", ("--again",)), (".a.gz", ("--again", "--only", "idfa"))],
)
def test_damage_is_told_even_of_a_file_that_keeps_its_name(
    tmp_path: Path, servers: Servers, loader: Loader, name: str, options: Sequence[str]
) -> None:
    whole = gzip.compress(numbered(400))
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    make_old(tmp_path / name)
    finished = load(loader, tmp_path / "*", servers, *options)
    assert finished.exit_code == 1
    assert any("truncated" in message for message in finished.messages("E"))
    assert names(tmp_path) == [name]
