"""Compiles the kernel with Numba: over plain pointers for use, over arrays with every index checked for tests."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import cfunc, from_dtype, njit, types
from numba.np.numpy_support import carray

from memcload.encode import layout
from memcload.encode.kernel import make_encode, make_look_up
from memcload.encode.layout import Kernel
from memcload.encode.native import emit
from memcload.memcached.routing_rules import RoutingName

_pointer: Any = types.CPointer


def _record(structure: type[ctypes.Structure]) -> Any:
    return _pointer(from_dtype(np.dtype(structure)))


_BYTES, _NUMBERS = _pointer(types.uint8), _pointer(types.int32)
_ENCODE = types.void(
    *(_BYTES, types.int64, _record(layout.Rules), _record(layout.Progress), _record(layout.Row), _BYTES),
    *(_NUMBERS, _NUMBERS, _pointer(types.uint32), _record(layout.Shape)),
)
_LOOK_UP = types.void(
    *(_BYTES, types.int64, _NUMBERS, types.int64, types.int64, _record(layout.LookupWords), _BYTES, _BYTES),
    _record(layout.Lengths),
)


def object_code(routing: RoutingName | None) -> bytes:
    """Compile the kernel; return an object file with the functions of a Kernel.

    Args:
        routing: the rule that chooses among a device type's servers; None where there is nothing to choose.
    """
    inline = njit(forceinline=True, error_model="numpy")
    encode_lines, make_lookups = make_encode(inline, routing), make_look_up(inline)

    def encode(text, length, rules, progress, rows, commands, ends, lines, table, shape):  # type: ignore[no-untyped-def]
        sizes = carray(shape, 1)[0]
        records = (sizes.partitions, sizes.row_records)
        encode_lines(
            carray(text, length),
            carray(rules, 1)[0],
            carray(progress, 1)[0],
            carray(rows, sizes.partitions),
            carray(commands, (sizes.partitions, sizes.row_bytes)),
            carray(ends, records),
            carray(lines, records),
            carray(table, sizes.table_length),
        )

    def look_up(commands, length, ends, first, count, words, requests, replies, lengths):  # type: ignore[no-untyped-def]
        make_lookups(
            carray(commands, length),
            carray(ends, first + count),
            first,
            count,
            carray(words, 1)[0],
            carray(requests, 1 << 62),
            carray(replies, 1 << 62),
            carray(lengths, 1)[0],
        )

    compile_encode, compile_look_up = (cfunc(signature, error_model="numpy") for signature in (_ENCODE, _LOOK_UP))
    return emit({"encode": compile_encode(encode), "look_up": compile_look_up(look_up)})


def checked_kernel(routing: RoutingName | None) -> Kernel:
    """Compile a kernel for tests, of the same source: an index out of bounds raises IndexError."""
    check = njit(boundscheck=True, error_model="numpy")
    encode_lines, make_lookups = make_encode(check, routing), make_look_up(check)

    def encode(text, length, rules, progress, rows, commands, ends, lines, table, shape):  # type: ignore[no-untyped-def]
        records = (shape.partitions, shape.row_records)
        encode_lines(
            np.frombuffer(text, np.uint8)[:length],
            _structures(rules)[0],
            _structures(progress)[0],
            _structures(rows),
            _array(commands, (shape.partitions, shape.row_bytes), np.uint8),
            _array(ends, records, np.int32),
            _array(lines, records, np.int32),
            _array(table, (shape.table_length,), np.uint32),
        )

    def look_up(commands, length, ends, first, count, words, requests, replies, lengths):  # type: ignore[no-untyped-def]
        make_lookups(
            np.frombuffer(commands, np.uint8),
            _array(ends, (first + count,), np.int32),
            first,
            count,
            _structures(words)[0],
            np.frombuffer(requests, np.uint8),
            np.frombuffer(replies, np.uint8),
            _structures(lengths)[0],
        )

    return Kernel(encode, look_up)


def _structures(structures: Any) -> Any:
    element = getattr(type(structures), "_type_", type(structures))
    return np.frombuffer(structures, np.dtype(element))


def _array(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)
