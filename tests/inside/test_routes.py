"""Compiled routes: whatever the rules in Python choose, from the same bytes."""

from __future__ import annotations

import ctypes
import random
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from memcload.memcached.routes import ROUTES, make_route, table_for
from memcload.memcached.routing import Router
from memcload.memcached.routing_rules import ROUTING_NAMES, RoutingName
from memcload.records import DEVICE_TYPES, MAX_KEY_LENGTH

numba = pytest.importorskip("numba", reason="numba is not installed: see requirements.txt")

Run = Callable[[bytes, int, int, int, Any], int]

MOST = MAX_KEY_LENGTH - len("idfa:")
# Around the ends of words, and of the blocks of MD5.
LENGTHS = [*range(1, 12), 31, 32, 33, 36, *range(46, 64), *range(110, 118), *range(174, 182), 240, MOST]


@cache
def checked_route(routing: RoutingName) -> Run:
    """Return a route that raises IndexError where it leaves its arrays."""
    import numpy

    route = make_route(routing, numba.njit(inline="always", error_model="numpy"))

    @numba.njit(boundscheck=True)  # type: ignore[untyped-decorator]
    def run(text: Any, start: int, end: int, device: int, table: Any) -> int:
        return int(route(text, start, end, device, table))

    return lambda text, start, end, device, table: int(
        run(numpy.frombuffer(text, numpy.uint8), start, end, device, numpy.frombuffer(table, numpy.uint32))
    )


def random_addresses(generator: random.Random, count: int) -> list[str]:
    addresses: set[str] = set()
    is_unix = generator.random() < 0.2
    while len(addresses) < count:
        port = generator.choice([11211, generator.randrange(1, 65536)])
        name = "x" * generator.randrange(1, 9)
        if is_unix:
            addresses.add(f"unix:/{name}{generator.randrange(1000)}")
        elif generator.random() < 0.3:
            addresses.add(f"[fe80::{generator.randrange(65536):x}]:{port}")
        else:
            addresses.add(f"{name}{generator.randrange(1000)}:{port}")
    return list(addresses)


@pytest.mark.parametrize("routing", ROUTING_NAMES)
def test_a_compiled_route_chooses_as_the_rule_does(routing: RoutingName) -> None:
    generator = random.Random(13)
    route = checked_route(routing)
    for _ in range(20):
        counts = [generator.choice([1, 2, 3, 4, 5, 7, 8, 9, 10, 17, 25, 64]) for _ in DEVICE_TYPES]
        servers = {name: random_addresses(generator, n) for name, n in zip(DEVICE_TYPES, counts, strict=True)}
        router = Router(servers, routing)
        table = table_for(router)
        for _ in range(80):
            device = generator.randrange(len(DEVICE_TYPES))
            name = DEVICE_TYPES[device]
            length = generator.choice([*LENGTHS, generator.randint(1, MOST)])
            device_id = bytes(generator.choices(range(0x21, 0x7F), k=length))
            before = b"\x80" * generator.choice([0, 5, 13])
            chosen = route(before + device_id, len(before), len(before) + len(device_id), device, table)
            partition = router.partition_of(name, f"{name}:".encode() + device_id)
            first = router.first_partition(name)
            assert partition is not None
            assert first is not None
            assert first + chosen == partition, (servers[name], device_id)


@pytest.mark.parametrize("routing", ROUTING_NAMES)
def test_what_is_no_device_id_has_some_server_all_the_same(routing: RoutingName) -> None:
    route = checked_route(routing)
    table = table_for(Router({"idfa": ["a:1", "bb:1", "c:11211"]}, routing))
    for device_id in (b"", b"x" * 5000, bytes(range(256))):
        assert 0 <= route(device_id, 0, len(device_id), 0, table) < 3
    assert route(b"x", 0, 1, 1, table) == 0  # a device type that has no servers


def test_a_tie_goes_to_the_greater_name() -> None:
    device_id = b"e7e1a50c0ec2747ca56cd9e1558c0d7c"
    nodes = ["10.131.109.158:11211", "10.161.103.57:11211"]  # their scores for the key are equal
    for addresses in (nodes, nodes[::-1]):
        chosen = checked_route("rendezvous")(device_id, 0, 32, 0, table_for(Router({"idfa": addresses})))
        assert addresses[chosen] == nodes[1]


@pytest.mark.parametrize("routing", ROUTING_NAMES)
def test_a_route_allocates_nothing_counts_no_references_and_raises_nothing(routing: RoutingName) -> None:
    types, carray = numba.types, numba.carray
    route = make_route(routing, numba.njit(inline="always", error_model="numpy"))

    def call(text, length, device, table, table_length):  # type: ignore[no-untyped-def]
        return route(carray(text, length), 0, length, device, carray(table, table_length))

    signature = types.int64(
        types.CPointer(types.uint8), types.int64, types.int64, types.CPointer(types.uint32), types.int64
    )
    compiled = numba.cfunc(signature, error_model="numpy")(call)
    assert not re.search(r"call [^\n]*@(NRT_(incref|decref|\w*[Aa]lloc\w*)|numba_do_raise)", compiled.inspect_llvm())
    router = Router({"gaid": ["a:1", "b:1", "c:1"]}, routing)
    table = table_for(router)
    pointer = (ctypes.c_uint32 * len(table)).from_buffer(table)
    for number in range(50):
        device_id = str(number).encode()
        text = (ctypes.c_uint8 * len(device_id)).from_buffer_copy(device_id)
        chosen = compiled.ctypes(text, len(device_id), 1, pointer, len(table))
        assert chosen == router.partition_of("gaid", b"gaid:" + device_id)


def test_every_rule_has_a_route() -> None:
    assert tuple(ROUTES) == ROUTING_NAMES


def test_importing_routes_imports_neither_numba_nor_numpy() -> None:
    code = "import sys, memcload.memcached.routes; print({'numba', 'numpy'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    assert printed == "set()\n"
