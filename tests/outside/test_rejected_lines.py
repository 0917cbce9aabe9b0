"""Rejected lines: saved beside their file, counted, and an error where there are too many."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.outside.loading import REFERENCE, Loader, all_loaders, both_loaders, load, run
from tests.outside.logs import huge_line, line, make_old, names, numbered, write_gz
from tests.outside.memcached import Servers, contents
from tests.outside.spec import expected

SPOILED = b"".join(
    (
        line(dev_id="a"),
        b"\n",
        b"too\tfew\n",
        line("ifda"),
        line(dev_id="b"),
        line(dev_id="two words").replace(b"\n", b"\r\n"),
        line(lat="nan"),
        line(apps=" "),
        b"\xff\x00\t\x1b[31m\n",
        line(dev_id="c"),
        b"unended",
    )
)


@all_loaders
def test_rejected_lines_are_saved_beside_the_file(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.tsv.gz", SPOILED)
    load(loader, tmp_path / "*", servers)
    saved = (tmp_path / ".a.tsv.gz.rejects.tsv").read_bytes()
    assert saved == expected(SPOILED).rejects_file
    assert saved.startswith(
        b"3\tcolumns\ttoo\tfew\n4\tdevice_type\tifda\t1rfw452y52g2gq4g\t55.55\t42.42\t1423\n6\tkey\t"
    )
    assert names(tmp_path) == [".a.tsv.gz", ".a.tsv.gz.rejects.tsv"]


@both_loaders
def test_rejected_lines_load_again_once_they_are_mended(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(98) + line("ifda", "mended") + line("ifda", "too"))
    load(loader, tmp_path / "*.gz", servers)
    saved = (tmp_path / ".a.tsv.gz.rejects.tsv").read_bytes().splitlines(keepends=True)
    mended = b"".join(text.split(b"\t", 2)[2] for text in saved).replace(b"ifda", b"idfa")  # cut -f3-
    (tmp_path / "b.tsv").write_bytes(mended)
    assert load(loader, tmp_path / "*.tsv", servers).exit_code == 0
    assert contents(servers) == expected(numbered(98), line(dev_id="mended"), line(dev_id="too")).items


@both_loaders
def test_rejected_lines_go_where_the_user_says(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "rejects").mkdir()
    write_gz(tmp_path / "in/a.tsv.gz", SPOILED)
    write_gz(tmp_path / "in/b.tsv.gz", numbered(10))
    load(loader, tmp_path / "in/*", servers, "--rejects", str(tmp_path / "rejects"))
    assert names(tmp_path / "in") == [".a.tsv.gz", ".b.tsv.gz"]
    assert names(tmp_path / "rejects") == [".a.tsv.gz.rejects.tsv"]
    assert (tmp_path / "rejects/.a.tsv.gz.rejects.tsv").read_bytes() == expected(SPOILED).rejects_file


@both_loaders
def test_lines_that_another_file_of_the_name_had_rejected_are_kept(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    for text in (b"first\n", b"second\n"):
        write_gz(tmp_path / "a.tsv.gz", text)
        load(loader, tmp_path / "*", servers)
    saved = [path.read_bytes() for path in sorted(tmp_path.glob(".a.tsv.gz.rejects.tsv*"))]
    assert saved == [b"1\tcolumns\tfirst\n", b"1\tcolumns\tsecond\n"]


@both_loaders
@pytest.mark.parametrize(
    ("rejected", "options", "exit_code"),
    [
        (1, (), 0),  # of a hundred: the normal error rate
        (2, (), 1),
        (2, ("--max-error-rate", "0.02"), 0),
        (100, ("--max-error-rate", "1"), 0),
        (1, ("--max-error-rate", "0"), 1),
        (0, ("--max-error-rate", "0"), 0),
    ],
)
def test_a_high_error_rate_fails_the_run_and_the_file_is_still_done(
    tmp_path: Path, servers: Servers, loader: Loader, rejected: int, options: Sequence[str], exit_code: int
) -> None:
    log = write_gz(tmp_path / "a.tsv.gz", b"bad\n" * rejected + numbered(100 - rejected) + b"\n" * 50)
    finished = load(loader, tmp_path / "*", servers, *options)
    limit = options[1] if options else "0.01"
    verdict = (
        [f"High error rate ({rejected / 100} > {float(limit)}). Failed load"]
        if exit_code
        else [f"Acceptable error rate ({rejected / 100}). Successful load"]
    )
    assert [text for text in finished.messages() if "error rate" in text] == verdict
    assert (finished.exit_code, finished.statuses()) == (exit_code, {"a.tsv.gz": "done"})
    assert not (tmp_path / "a.tsv.gz").exists()
    assert contents(servers) == expected(log).items


@both_loaders
def test_rejected_lines_of_a_damaged_file_are_saved(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"bad\n" + numbered(400))[:-30])
    make_old(tmp_path / "a.gz")
    assert load(loader, tmp_path / "*.gz", servers).statuses() == {"a.gz": "damaged"}
    assert (tmp_path / ".a.gz.rejects.tsv").read_bytes() == b"1\tcolumns\tbad\n"


@both_loaders
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_who_cannot_read_the_log_cannot_read_its_rejected_lines(
    tmp_path: Path, servers: Servers, loader: Loader, mode: int
) -> None:
    write_gz(tmp_path / "a.gz", b"bad\n")
    (tmp_path / "a.gz").chmod(mode)
    load(loader, tmp_path / "*.gz", servers)
    assert (tmp_path / ".a.gz.rejects.tsv").stat().st_mode & 0o777 == mode


@both_loaders
def test_a_dry_run_saves_rejected_lines_where_it_is_told_to(tmp_path: Path, loader: Loader) -> None:
    (tmp_path / "rejects").mkdir()
    write_gz(tmp_path / "a.gz", numbered(200) + b"bad\n")
    options = ("--dry", "--log-level", "info", "--rejects", str(tmp_path / "rejects"))
    assert run(loader, tmp_path / "*.gz", *options).exit_code == 0
    assert (tmp_path / "rejects/.a.gz.rejects.tsv").read_bytes() == b"201\tcolumns\tbad\n"
    assert names(tmp_path) == ["a.gz", "rejects"]


@all_loaders
@pytest.mark.parametrize("options", [(), ("--max-rate", "4000")], ids=["", "throttled"])
def test_each_rejected_line_is_saved_with_its_number_in_the_order_of_the_file(
    tmp_path: Path, servers: Servers, loader: Loader, options: Sequence[str]
) -> None:
    """All in one block, with more records than are sent at once, refusals of two servers and invalid lines between."""
    parts = [
        numbered(300, types=["idfa"]),
        line("idfa", "bad id"),
        line("idfa", "x", lat="nan"),
        huge_line("idfa"),
        b"broken\n",
        line("gaid", "z"),
        huge_line("gaid"),
        huge_line("idfa", "huger"),
        numbered(600, prefix="more"),
        huge_line("gaid", "hugest"),
        b"tail\n",
    ]
    log = write_gz(tmp_path / "a.gz", b"".join(parts))
    block = ("--block-size", "50000000") if loader is not REFERENCE else ()
    finished = load(loader, tmp_path / "*.gz", servers, "--max-error-rate", "1", *block, *options)
    assert finished.file("a.gz")["rejected"] == {"key": 1, "coordinates": 1, "columns": 2, "too_large": 4}
    lines = log.split(b"\n")
    reasons = {
        301: b"key",
        302: b"coordinates",
        303: b"too_large",
        304: b"columns",
        306: b"too_large",
        307: b"too_large",
        908: b"too_large",
        909: b"columns",
    }
    saved = [b"%d\t%b\t%b\n" % (number, reason, lines[number - 1]) for number, reason in reasons.items()]
    assert (tmp_path / ".a.gz.rejects.tsv").read_bytes() == b"".join(saved)
    without_huge = b"".join(part for part in parts if len(part) < 1 << 19)
    assert contents(servers) == expected(without_huge).items
