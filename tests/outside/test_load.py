"""What a load leaves in memcached: byte for byte what the specification says, whichever loader it was."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.outside.loading import REFERENCE, Loader, all_loaders, both_loaders, load, run
from tests.outside.logs import huge_line, line, names, numbered, write_gz
from tests.outside.memcached import Servers, contents, values
from tests.outside.spec import TYPES, Item, expected
from tests.outside.zstandard import zstd
from tools.make_logs import write_logs
from tools.servers import MemcachedServer


@all_loaders
def test_every_key_holds_its_last_record(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    paths = write_logs(tmp_path, files=3, lines=1000, seed=7, malformed=0.005, repeat_keys=0.6)
    logs = [gzip.decompress(path.read_bytes()) for path in paths]
    total = expected(*logs)
    assert len(total.items) < total.stored.total() / 2  # so that there are repeats to get wrong

    finished = load(loader, tmp_path / "*.tsv.gz", servers)

    assert finished.exit_code == 0
    assert contents(servers) == total.items
    for path, log in zip(paths, logs, strict=True):
        entry = finished.file(path.name)
        assert entry["status"] == "done"
        assert {name: entry[name] for name in expected(log).counts()} == expected(log).counts()
    assert {name: finished.report["devices"][name]["stored"] for name in TYPES} == dict(total.stored)


@all_loaders
def test_one_key_many_times_keeps_the_last(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    logs = [
        write_gz(tmp_path / f"{file}.tsv.gz", b"".join(line(apps=f"{file},{number}") for number in range(1000)))
        for file in range(3)
    ]
    assert load(loader, tmp_path / "*.tsv.gz", servers).exit_code == 0
    assert contents(servers) == expected(line(apps="2,999")).items == expected(*logs).items


@all_loaders
def test_what_is_valid_is_stored_as_the_line_says(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    log = write_gz(
        tmp_path / "a.tsv.gz",
        b"".join(
            (
                line("idfa", "order-and-repeats-of-ids", apps="3,1,2,3,3,0"),
                line(
                    "gaid", "every-length-of-varint", apps="0,127,128,16383,16384,2097151,2097152,268435455,268435456"
                ),
                line("adid", "largest-id", apps="4294967295,0004294967295,00000000000000000007"),
                line("dvid", "space-around-ids", apps=" 1 ,\v2\f, 3\r"),
                line("idfa", "past-the-pole", lat="190.5", lon="-1000"),
                line("gaid", "spellings", lat="+.5e1", lon="-1.E-3"),
                line("adid", "long-decimals", lat="67.783542444400000000001", lon="-22.80440054710000000000049"),
                line("dvid", "smallest-and-largest", lat="4.9e-324", lon="1.7976931348623157e308"),
                line("idfa", "negative-zero", lat="-0", lon="-0.0"),
                line("gaid", "underflow", lat="1e-999999", lon="0e999999"),
                line("adid", "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~\\"),
                line("dvid", "i" * 245),
            )
        ),
    )
    finished = load(loader, tmp_path / "a.tsv.gz", servers)
    assert finished.report["totals"]["stored"] == 12
    assert contents(servers) == expected(log).items
    assert len(contents(servers)) == 12


MALFORMED = {
    "columns": [
        b"idfa\t1\t1\t1\n",
        b"idfa\t1\t1\t1\t1\t1\n",
        b"nothing\n",
        b"idfa 1 1 1 1\n",
        b"\xff\xfe\x00\n",
    ],
    "device_type": [line("IDFA"), line(""), line(" idfa"), line("idfas"), line("ifda")],
    "key": [line(dev_id=dev_id) for dev_id in ("", "two words", "ключ", "i" * 246, "nul\0", "del\x7f", "carriage\r")],
    "coordinates": [
        *(
            line(lat=text)
            for text in ("", "nan", "inf", "-Infinity", "1_0", "0x1p3", " 1", "1e999", "1,5", "\u0661", ".")
        ),
        *(line(lon=text) for text in ("", "NaN", "+", "e5", "1e", "--1", "1 ", "1.2.3", "-1e400")),
    ],
    "apps": [
        line(apps=apps) for apps in ("", ",", "-1", "+1", "4294967296", "1 2", "x", "1.0", "0x1", "1_0", "\u0663")
    ],
}
PARTIAL = [
    line(dev_id=f"partial{index}", apps=apps) for index, apps in enumerate(("1,,2", "1,x", "-1,5", "7,9999999999"))
]


@all_loaders
def test_what_is_malformed_is_rejected_for_the_first_rule_it_breaks(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    lines = [text for texts in MALFORMED.values() for text in texts]
    log = write_gz(tmp_path / "a.tsv.gz", b"".join([*lines, *PARTIAL, line("IDFA", "", "nan", "nan", "")]))
    finished = load(loader, tmp_path / "a.tsv.gz", servers, "--max-error-rate", "1")
    reasons = {reason: len(texts) for reason, texts in MALFORMED.items()}
    reasons["device_type"] += 1  # the one in which all is wrong
    assert finished.file("a.tsv.gz")["rejected"] == reasons == expected(log).reasons
    assert finished.file("a.tsv.gz")["partial"] == 4
    assert contents(servers) == expected(b"".join(PARTIAL)).items


@all_loaders
def test_blank_lines_are_skipped_and_counted_apart(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    blanks = [b"\n", b"\r\n", b" \n", b"\t\t\t\t\n", b"\v\f \r\r\n"]
    log = write_gz(tmp_path / "a.tsv.gz", b"".join((*blanks, line(dev_id="a"), *blanks, line(dev_id="b"), b"  ")))
    finished = load(loader, tmp_path / "a.tsv.gz", servers)
    counts = finished.file("a.tsv.gz")
    assert (counts["blank"], counts["records"], counts["rejected"]) == (11, 2, {})
    assert contents(servers) == expected(log).items


@all_loaders
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("is_last_ended", [True, False], ids=["ended", "unended"])
def test_a_line_may_end_in_either_way_and_the_last_in_none(
    tmp_path: Path, servers: Servers, loader: Loader, ending: bytes, is_last_ended: bool
) -> None:
    log = numbered(100).replace(b"\n", ending)
    write_gz(tmp_path / "a.tsv.gz", log if is_last_ended else log.removesuffix(ending))
    assert load(loader, tmp_path / "a.tsv.gz", servers).exit_code == 0
    assert contents(servers) == expected(numbered(100)).items


@all_loaders
def test_a_line_of_a_mebibyte_is_the_longest(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    start = line(dev_id="long", apps="1").removesuffix(b"1\n")
    longest = start + b"1" + b" " * (1024 * 1024 - len(start) - 1)
    too_long = start.replace(b"long", b"gone") + b"1" + b" " * (1024 * 1024 - len(start))
    endless = b"x" * (5 * 1024 * 1024)
    log = b"\r\n".join((longest, too_long, endless, line(dev_id="after")))
    write_gz(tmp_path / "a.tsv.gz", log)
    finished = load(loader, tmp_path / "a.tsv.gz", servers, "--max-error-rate", "1")
    assert finished.file("a.tsv.gz")["rejected"] == {"line_too_long": 2}
    assert contents(servers) == expected(log).items
    assert contents(servers).keys() == {b"idfa:long", b"idfa:after"}


@all_loaders
def test_a_value_past_the_limit_of_the_server_is_rejected_as_too_large(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    huge = huge_line()
    around = numbered(500)
    later = line(dev_id="device4", apps="9")
    write_gz(tmp_path / "a.tsv.gz", around + huge + huge + later)
    finished = load(loader, tmp_path / "a.tsv.gz", servers)
    counts = finished.file("a.tsv.gz")
    assert (counts["status"], counts["stored"], counts["rejected"], counts["failed"]) == (
        "done",
        501,
        {"too_large": 2},
        0,
    )
    assert contents(servers) == expected(around + later).items
    assert names(tmp_path) == [".a.tsv.gz", ".a.tsv.gz.rejects.tsv"]
    assert (tmp_path / ".a.tsv.gz.rejects.tsv").read_bytes() == b"501\ttoo_large\t%b502\ttoo_large\t%b" % (huge, huge)


@all_loaders
def test_the_server_alone_knows_what_is_too_large(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    with MemcachedServer.start("-I", "2m") as generous:
        log = write_gz(tmp_path / "a.tsv.gz", huge_line() + numbered(100))
        finished = load(loader, tmp_path / "*", servers, idfa=generous.address)
        assert finished.file("a.tsv.gz")["rejected"] == {}
        assert contents({**servers, "idfa": generous}) == expected(log).items


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip-members": lambda log: b"".join(gzip.compress(log[at : at + 777]) for at in range(0, len(log), 777)),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}


@all_loaders
@pytest.mark.parametrize("name", ["log.tsv.gz", "log"])
@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS.keys())
def test_a_file_is_known_by_its_content(
    tmp_path: Path, servers: Servers, loader: Loader, compress: Callable[[bytes], bytes], name: str
) -> None:
    (tmp_path / name).write_bytes(compress(numbered(200)))
    assert load(loader, tmp_path / "*", servers).exit_code == 0
    assert contents(servers) == expected(numbered(200)).items
    assert names(tmp_path) == [f".{name}"]


@both_loaders
def test_a_file_without_records_is_done(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.tsv.gz", b"")
    finished = load(loader, tmp_path / "*", servers)
    assert (finished.exit_code, finished.file("a.tsv.gz")["records"]) == (0, 0)
    assert names(tmp_path) == [".a.tsv.gz"]


@all_loaders
@pytest.mark.parametrize("ttl", [1000, 90 * 24 * 3600])
def test_records_expire_after_their_ttl(tmp_path: Path, servers: Servers, loader: Loader, ttl: int) -> None:
    log = write_gz(tmp_path / "a.tsv.gz", numbered(100))
    load(loader, tmp_path / "*", servers, "--ttl", str(ttl))
    items = contents(servers)
    assert {key: item.value for key, item in items.items()} == {k: i.value for k, i in expected(log).items.items()}
    assert all(abs(item.expires_in - ttl) < 60 for item in items.values())  # memcached's clock may lag a little


@both_loaders
def test_a_load_leaves_other_keys_alone(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    with servers["idfa"].client() as client:
        client.set("idfa:of-another-day", b"value", flags=5, noreply=False)
    log = write_gz(tmp_path / "a.tsv.gz", numbered(10))
    load(loader, tmp_path / "*", servers)
    assert contents(servers) == {**expected(log).items, b"idfa:of-another-day": Item(b"value", 5)}


@both_loaders
def test_a_second_load_replaces_what_the_first_left(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(50))
    load(loader, tmp_path / "*", servers)
    newer = write_gz(tmp_path / "b.tsv.gz", numbered(50).replace(b"55.55", b"-1"))
    load(loader, tmp_path / "*", servers)
    assert contents(servers) == expected(newer).items


@both_loaders
def test_a_server_may_listen_on_a_unix_socket(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.tsv.gz", line(dev_id="a"))
    with MemcachedServer.start(socket=tmp_path / "socket") as server:
        finished = load(loader, tmp_path / "*.tsv.gz", servers, idfa=server.address)
        with server.client() as client:
            assert client.get("idfa:a") == expected(line(dev_id="a")).items[b"idfa:a"].value
    assert finished.address("idfa") == f"unix:{tmp_path}/socket"
    assert finished.exit_code == 0
    assert contents(servers) == {}


@both_loaders
def test_one_server_may_serve_all_device_types(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    log = write_gz(tmp_path / "a.tsv.gz", numbered(100))
    address = servers["gaid"].address
    assert load(loader, tmp_path / "*", servers, idfa=address, adid=address, dvid=address).exit_code == 0
    with servers["gaid"].client() as client:
        held = client.get_many([key.decode() for key in expected(log).items])
    assert held == {key.decode(): item.value for key, item in expected(log).items.items()}


@both_loaders
def test_a_dry_run_leaves_memcached_empty(tmp_path: Path, servers: Servers, loader: Loader) -> None:
    write_gz(tmp_path / "a.tsv.gz", numbered(100))
    load(loader, tmp_path / "*", servers, "--dry")
    assert contents(servers) == {}
    run(loader, tmp_path / "*", "--dry", "--log-level", "info")
    assert contents(servers) == {}


# --- what only fast code gets wrong -----------------------------------------------------------------

# In a block, the compiled engine has to know before it encodes how much room the values will take.
SHORTEST = "0123456789abcdef"


@all_loaders
@pytest.mark.parametrize("ttl", ["0", "1000000", "315360000"])
def test_a_full_block_of_the_shortest_lines_leaves_just_these(
    tmp_path: Path, servers: Servers, loader: Loader, ttl: str
) -> None:
    count = 1000 if loader is REFERENCE else 79_000  # a block of a mebibyte, and some lines
    lines = [line("idfa", SHORTEST[number % 16], "0", "0", "1") for number in range(count)]
    lines[:100] = [line("gaid", SHORTEST[number % 16], "0", "0", "1") for number in range(100)]
    log = write_gz(tmp_path / "a.gz", b"".join(lines))
    finished = load(loader, tmp_path / "*.gz", servers, "--ttl", ttl)
    assert finished.exit_code == 0
    assert finished.report["totals"]["stored"] == count
    assert values(servers) == {key: item.value for key, item in expected(log).items.items()}


@all_loaders
@pytest.mark.parametrize("digits", [14, 15, 16, 17, 18])
def test_coordinates_of_any_number_of_digits_are_correctly_rounded(
    tmp_path: Path, servers: Servers, loader: Loader, digits: int
) -> None:
    rng = Random(digits)

    def coordinate(limit: int) -> str:
        whole = rng.randrange(limit)
        places = digits - len(str(whole))
        return f"{rng.choice(('', '-'))}{whole}.{rng.randrange(10**places):0{places}}"

    log = write_gz(
        tmp_path / "a.gz",
        b"".join(line("idfa", f"{n}", lat=coordinate(90), lon=coordinate(180)) for n in range(1500)),
    )
    assert load(loader, tmp_path / "*.gz", servers).exit_code == 0
    assert contents(servers) == expected(log).items


@all_loaders
def test_the_others_of_a_batch_with_a_refused_record_expire_all_the_same(
    tmp_path: Path, servers: Servers, loader: Loader
) -> None:
    around = numbered(100)
    write_gz(tmp_path / "a.gz", around + huge_line())
    options = ("--ttl", "1000", "--max-error-rate", "1")
    block = () if loader is REFERENCE else ("--block-size", "10000000")
    finished = load(loader, tmp_path / "*", servers, *options, *block)
    assert finished.file("a.gz")["rejected"] == {"too_large": 1}
    items = contents(servers)
    assert items.keys() == expected(around).items.keys()
    assert all(900 < item.expires_in <= 1001 for item in items.values())


@both_loaders
def test_a_dry_run_of_large_logs_says_how_to_keep_their_records_out_of_the_log(tmp_path: Path, loader: Loader) -> None:
    (tmp_path / "a.tsv").write_bytes((b"x" * 1_000_000 + b"\n") * 11)
    shown, hidden = (run(loader, tmp_path / "*", "--dry", *quiet) for quiet in ((), ("--log-level", "info")))
    assert shown.says("11 MB of logs is shown; --log-level info leaves them out", "I")
    assert not hidden.says("leaves them out")
