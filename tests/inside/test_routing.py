"""Routing: key by key the same server as the clients that read, held to the real libraries."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient

from memcload.memcached.routing import MAX_SERVERS, Router
from memcload.memcached.routing_rules import ROUTING_NAMES, RoutingName, ketama_digests
from memcload.records import DEVICE_TYPES, MAX_KEY_LENGTH
from tests.inside.clients import (
    CLIENTS,
    Choose,
    Libmemcached,
    gomemcache,
    pylibmc,
    pymemcache,
    python_library,
    python_memcached,
    with_family,
    without_scheme,
)
from tools.servers import MemcachedServer

PORTS = st.sampled_from([11211, 11212, 1, 65535]) | st.integers(1, 65535)
HOSTS = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9](\.[a-z][a-z0-9]{0,8}){0,3}", fullmatch=True)
NAMED = st.tuples(HOSTS, PORTS).map(lambda place: f"{place[0]}:{place[1]}")
IPV4 = st.tuples(st.ip_addresses(v=4), PORTS).map(lambda place: f"{place[0]}:{place[1]}")
IPV6 = st.tuples(st.ip_addresses(v=6), PORTS).map(
    lambda place: f"[{place[0].exploded.upper() if int(place[0]) % 2 else place[0]}]:{place[1]}"
)
UNIX = st.from_regex(r"unix:/[a-z0-9_./:-]{1,30}", fullmatch=True)
TCP = NAMED | IPV4 | IPV6
IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=MAX_KEY_LENGTH - len("idfa:"))
KEYS = st.tuples(st.sampled_from(DEVICE_TYPES), IDS).map(":".join)
MANY_KEYS = st.lists(KEYS, min_size=10, max_size=20)

clients = pytest.mark.parametrize(("routing", "client"), CLIENTS, ids=lambda it: getattr(it, "__name__", it))
thorough = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def servers(*forms: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.one_of(forms), min_size=1, max_size=MAX_SERVERS, unique=True)


def router_for(addresses: Sequence[str], routing: RoutingName) -> Router:
    return Router(dict.fromkeys(DEVICE_TYPES, addresses), routing)


def index_of(router: Router, key: str) -> int:
    """Return which of its type's servers has the key, by the router's partitions alone."""
    device_type = key.partition(":")[0]
    number = router.partition_of(device_type, key.encode())
    assert number is not None
    partition = router.partitions[number]
    assert (partition.number, partition.device_type) == (number, device_type)
    return router.servers[device_type].index(partition.server)


def assert_agree(addresses: Sequence[str], keys: Sequence[str], routing: RoutingName, choose: Choose) -> None:
    router = router_for(addresses, routing)
    assert [index_of(router, key) for key in keys] == [choose(key) for key in keys]


def random_keys(count: int, seed: int = 1) -> list[str]:
    generator = random.Random(seed)
    return [f"{generator.choice(DEVICE_TYPES)}:{generator.randbytes(16).hex()}" for _ in range(count)]


# --- the libraries' choices -------------------------------------------------------------------


@clients
@given(servers(TCP) | servers(UNIX), MANY_KEYS)
@thorough
def test_the_choice_is_the_librarys(
    routing: RoutingName, client: Callable[[Sequence[str]], Choose], addresses: list[str], keys: list[str]
) -> None:
    assert_agree(addresses, keys, routing, client(addresses))


@pytest.mark.parametrize(("routing", "client"), [it for it in CLIENTS if it[0] != "ketama"])
@given(servers(TCP, UNIX), MANY_KEYS)
@thorough
def test_the_choice_is_the_librarys_among_addresses_of_every_form(
    routing: RoutingName, client: Callable[[Sequence[str]], Choose], addresses: list[str], keys: list[str]
) -> None:
    assert_agree(addresses, keys, routing, client(addresses))


@clients
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10, 25, 47, 50, 55, 61, 64])
def test_the_choice_is_the_librarys_among_any_number_of_servers(
    routing: RoutingName, client: Callable[[Sequence[str]], Choose], count: int
) -> None:
    addresses = [f"10.0.{number // 8}.{number}:{11211 + number % 3}" for number in range(count)]
    assert_agree(addresses, random_keys(1000, count), routing, client(addresses))


# --- facts that an implementation steps into --------------------------------------------------

KEY = "idfa:e7e1a50c0ec2747ca56cd9e1558c0d7c"


def test_libmemcacheds_float32_takes_a_digest_from_each_server_at_some_numbers_of_servers() -> None:
    assert [count for count in range(1, 65) if ketama_digests(count) != 40] == [25, 47, 50, 55, 61]
    assert {ketama_digests(count) for count in range(1, 65)} == {39, 40}


@pytest.mark.parametrize("port", [11211, 11212])
@pytest.mark.parametrize("client", [pylibmc, Libmemcached])
def test_ketama_leaves_the_default_port_out(client: Callable[[Sequence[str]], Choose], port: int) -> None:
    addresses = [f"10.0.0.{number}:{port}" for number in range(3)] + [f"[::{number}]:{port}" for number in range(3)]
    assert_agree(addresses, random_keys(2000), "ketama", client(addresses))


@pytest.mark.parametrize("first", [0, 1])
def test_a_tie_goes_to_the_greater_name_as_in_pymemcache(first: int) -> None:
    nodes = ["10.131.109.158:11211", "10.161.103.57:11211"]  # their scores for the key are equal
    addresses = [nodes[first], nodes[1 - first]]
    assert addresses[pymemcache(addresses)(KEY)] == nodes[1]
    assert_agree(addresses, [KEY], "rendezvous", pymemcache(addresses))


@pytest.mark.parametrize("client", [pylibmc, Libmemcached])
@pytest.mark.parametrize("first", [0, 1])
def test_a_point_of_two_servers_belongs_to_the_first_as_in_libmemcached(
    client: Callable[[Sequence[str]], Choose], first: int
) -> None:
    nodes = ["10.233.145.17:11211", "10.131.98.141:11211"]  # both have a point at 597216037, next to this key's
    addresses = [nodes[first], nodes[1 - first]]
    assert_agree(addresses, ["idfa:393"], "ketama", client(addresses))


def test_names_are_as_written_and_never_resolved() -> None:
    keys = random_keys(300)
    written = [
        ["localhost:11211", "other:11211"],
        ["127.0.0.1:11211", "other:11211"],
        ["LOCALHOST:11211", "other:11211"],
    ]
    choices = [[index_of(router_for(addresses, "rendezvous"), key) for key in keys] for addresses in written]
    assert choices[0] != choices[1] != choices[2] != choices[0]
    for addresses in written:
        assert_agree(addresses, keys, "rendezvous", pymemcache(addresses))


@pytest.mark.parametrize(("routing", "client"), [it for it in CLIENTS if it[0] in ("rendezvous", "ketama")])
def test_names_may_have_letters_of_any_alphabet(
    routing: RoutingName, client: Callable[[Sequence[str]], Choose]
) -> None:
    addresses = ["münchen.example:11211", "köln.example:11212", "κόσμος:11211", "例え.jp:11213"]
    assert_agree(addresses, random_keys(500), routing, client(addresses))


def test_a_port_with_zeros_in_front_is_the_number_that_it_is() -> None:
    assert_agree(["a:011", "b:00012"], random_keys(100), "rendezvous", pymemcache(["a:011", "b:00012"]))


@pytest.mark.parametrize("routing", ["rendezvous", "ketama"])
def test_the_order_of_servers_does_not_matter_where_names_are_hashed(routing: RoutingName) -> None:
    addresses = [f"10.0.0.{number}:11212" for number in range(8)]
    for key in random_keys(200):
        there, back = (router_for(order, routing) for order in (addresses, addresses[::-1]))
        assert there.servers["idfa"][index_of(there, key)] == back.servers["idfa"][index_of(back, key)]


@pytest.mark.parametrize("routing", ["crc32", "python-memcached"])
def test_the_order_of_servers_is_that_given_where_keys_alone_are_hashed(routing: RoutingName) -> None:
    there, back = (router_for(addresses, routing) for addresses in (["b:1", "a:2", "c:1"], ["c:1", "b:1", "a:2"]))
    assert all(index_of(there, key) == index_of(back, key) for key in random_keys(200))


def test_a_hash_of_zero_stays_zero_as_in_python_memcached_from_1_60_on() -> None:
    key = next(
        key for key in (f"idfa:{number}" for number in range(10**6)) if not zlib.crc32(key.encode()) & 0x7FFF0000
    )
    addresses = ["a:1", "b:1"]
    assert python_memcached(addresses)(key) == index_of(router_for(addresses, "python-memcached"), key) == 0


def test_pymemcache_sends_bytes_keys_elsewhere() -> None:
    client = HashClient([f"10.0.0.{number}:11211" for number in range(10)])
    strays = [key for key in random_keys(100) if client.hasher.get_node(key) != client.hasher.get_node(key.encode())]
    assert len(strays) > 80  # the reason why readers must look keys up as str


def test_gomemcaches_checksum_is_the_crc_of_the_catalogue() -> None:
    servers = 1 << 32
    assert gomemcache(range(servers))("123456789") == 0xCBF43926  # type: ignore[arg-type]


# --- the router -------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ROUTING_NAMES)
@given(TCP | UNIX, MANY_KEYS)
@thorough
def test_a_single_server_has_every_key(routing: RoutingName, address: str, keys: list[str]) -> None:
    router = router_for([address], routing)
    assert [index_of(router, key) for key in keys] == [0] * len(keys)
    assert not router.hashes_keys


def test_partitions_are_numbered_in_the_order_of_types_and_servers() -> None:
    router = Router({"dvid": ["d:1"], "idfa": ["b:1", "a:1"], "gaid": []}, "crc32")
    assert router.partitions == [(0, "idfa", "b:1"), (1, "idfa", "a:1"), (2, "dvid", "d:1")]
    assert [router.first_partition(name) for name in DEVICE_TYPES] == [0, None, None, 2]
    assert [router.loads(name) for name in DEVICE_TYPES] == [True, False, False, True]
    assert router.partition_of("gaid", b"gaid:1") is None
    assert router.partition_of("dvid", b"dvid:1") == 2
    assert {router.partition_of("idfa", key.encode()) for key in random_keys(50)} == {0, 1}
    assert router.hashes_keys


def test_the_routing_is_rendezvous_unless_told() -> None:
    assert Router({}).routing == "rendezvous"


@pytest.mark.parametrize("routing", ROUTING_NAMES)
@pytest.mark.parametrize(
    ("addresses", "sentence"),
    [
        (["a:1", "b:1", "a:1"], "idfa: a:1 is named twice: name each server once"),
        (["unix:/p", "unix:/p"], "idfa: unix:/p is named twice: name each server once"),
        (["h:222", "H:0222"], "idfa: H:0222 is the same server as h:222: name each server once"),
        (["[::1]:1", "[0:0::1]:1"], "idfa: [0:0::1]:1 is the same server as [::1]:1: name each server once"),
        ([f"h{number}:1" for number in range(65)], "idfa has 65 servers: give at most 64"),
        (["a:1", "b"], "'b' is not an address: write host:port, [v6]:port or unix:/path"),
    ],
)
def test_wrong_servers_are_refused_with_a_sentence(routing: RoutingName, addresses: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Router({"idfa": addresses}, routing)


def test_one_server_may_have_several_device_types() -> None:
    router = router_for(["a:1", "b:1"], "ketama")
    assert len(router.partitions) == 8


@pytest.mark.parametrize("addresses", [["unix:/p", "a:1"], ["a:1", "[::1]:1", "unix:/p"]])
def test_unix_sockets_among_tcp_servers_are_refused_where_pylibmc_refuses_them(addresses: list[str]) -> None:
    with pytest.raises(ValueError, match="can't mix transport types"):
        pylibmc(addresses)
    with pytest.raises(ValueError, match=r"--routing ketama does not mix Unix sockets \(unix:/p\) and TCP servers"):
        Router({"idfa": addresses}, "ketama")


# --- real servers, read by the libraries ------------------------------------------------------


def read_with_pymemcache(addresses: list[str], key: str) -> object:
    client = HashClient([without_scheme(address) for address in addresses])
    try:
        return client.get(key)
    finally:
        client.close()


def read_with_python_memcached(addresses: list[str], key: str) -> object:
    client = python_library("memcache").Client([with_family(address) for address in addresses])
    try:
        return client.get(key)
    finally:
        client.disconnect_all()


def read_with_pylibmc(addresses: list[str], key: str) -> object:
    client = python_library("pylibmc").Client(
        [without_scheme(address) for address in addresses], behaviors={"ketama_weighted": True}
    )
    return client.get(key)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_the_libraries_read_what_lies_where_the_router_says(unix: bool, tmp_path: Path) -> None:
    value = b"\x08\x01\x08\xff\x01\x11\x00\x00\x00\x00\x00\x00\xf0?\x19\x00\r\n\x00\x00\x00\x00\x00"
    readers: dict[RoutingName, Callable[[list[str], str], object]] = {
        "rendezvous": read_with_pymemcache,
        "python-memcached": read_with_python_memcached,
        "ketama": read_with_pylibmc,
    }
    with ExitStack() as stack:
        running = [
            stack.enter_context(MemcachedServer.start(socket=tmp_path / str(number) if unix else None))
            for number in range(3)
        ]
        addresses = [server.address for server in running]
        direct = [stack.enter_context(server.client()) for server in running]
        for routing, read in readers.items():
            router = router_for(addresses, routing)
            for key in random_keys(30):
                chosen: Client = direct[index_of(router, key)]
                chosen.set(key, value, noreply=False)
                assert read(addresses, key) == value
                chosen.delete(key, noreply=False)
