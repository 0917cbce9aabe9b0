"""The routing rules for the kernel: functions that Numba can compile, and the tables that they read.

A route is `route(text, id_start, id_end, device, table) -> int`: the index of the key's server within its device
type. The key is `type:id`: text[id_start:id_end] is the id, and the table knows the type by its index in
DEVICE_TYPES. A route allocates nothing and raises nothing. Numba is imported when a route is made, not before.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping

from memcload.memcached.routes.crc32 import crc32_table, make_crc32_route, make_python_memcached_route
from memcload.memcached.routes.ketama import ketama_table, make_ketama_route
from memcload.memcached.routes.layout import Compile, Function
from memcload.memcached.routes.rendezvous import make_rendezvous_route, rendezvous_table
from memcload.memcached.routing import Router
from memcload.memcached.routing_rules import RoutingName

ROUTES: Mapping[RoutingName, Callable[[Compile], Function]] = {
    "rendezvous": make_rendezvous_route,
    "crc32": make_crc32_route,
    "python-memcached": make_python_memcached_route,
    "ketama": make_ketama_route,
}

_TABLES: Mapping[RoutingName, Callable[[Router], array[int]]] = {
    "rendezvous": rendezvous_table,
    "crc32": crc32_table,
    "python-memcached": crc32_table,
    "ketama": ketama_table,
}


def make_route(routing: RoutingName, compile: Compile) -> Function:
    """Compile a rule.

    Args:
        routing: which rule.
        compile: `njit(inline="always", error_model="numpy")`: then the route is part of the function that calls it, no
            references are counted and no exceptions made.
    """
    return ROUTES[routing](compile)


def table_for(router: Router) -> array[int]:
    """Return what the router's rule reads: uint32. A route also writes there, so each thread needs its own table."""
    return _TABLES[router.routing](router)
