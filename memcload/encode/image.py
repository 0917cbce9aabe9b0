"""Code that is ready to run wherever it lies in memory, so that a load needs no linker.

An image is made of the object file that LLVM writes. Loading one takes a millisecond; loading llvmlite, which links
object files, 25 milliseconds and 40 MB. Images are made for Linux on x86-64; elsewhere llvmlite links at each start.

The formats: https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html, and the relocations of
https://gitlab.com/x86-psABIs/x86-64-ABI.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

HAS_IMAGES = sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 1 << 32

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_ELF_64_LITTLE, _RELOCATABLE, _X86_64 = b"\x7fELF\x02\x01", 1, 62
_PROGBITS, _SYMTAB, _RELA, _ALLOC = 1, 2, 4, 2
_SIZES = {2: 4, 4: 4, 24: 8}  # bytes that a relocation relative to its place changes: R_X86_64_PC32, _PLT32, _PC64

_NUMBER = struct.Struct("<Q")  # an image begins with how many functions it has, and where each of them begins


class _Section(NamedTuple):
    """A section header of an object file."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def processor() -> str:
    """Return what code is made for: the kind of this machine's first processor, and what it can do; "" if not known."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(1 << 13).partition("\n\n")[0]
    except OSError:
        return ""
    lines = [line for line in first.splitlines() if line.startswith(("vendor_id", "cpu family", "model\t", "flags"))]
    return "\n".join(lines) if len(lines) == 4 else ""


def make_image(code: bytes, names: Sequence[str]) -> bytes:
    """Return an image of an object file, with the functions of these names.

    Raises RuntimeError where the object file has anything else than code and constants that refer to each other.
    """
    ident, kind, machine, *_, sections_at, _, _, _, _, _, count, _ = _HEADER.unpack_from(code)
    if not ident.startswith(_ELF_64_LITTLE) or (kind, machine) != (_RELOCATABLE, _X86_64):
        raise RuntimeError("it is no object file of x86-64")
    sections = [_Section(*_SECTION.unpack_from(code, sections_at + n * _SECTION.size)) for n in range(count)]
    starts: dict[int, int] = {}
    image = bytearray(_NUMBER.size * (1 + len(names)))
    for number, section in enumerate(sections):
        if section.kind == _PROGBITS and section.flags & _ALLOC:
            image += bytes(-len(image) % section.alignment)
            starts[number] = len(image)
            image += code[section.offset : section.offset + section.size]
    [table] = [section for section in sections if section.kind == _SYMTAB]
    strings = sections[table.link].offset
    symbols: list[int | None] = []
    functions: dict[bytes, int] = {}
    for name, _, _, home, value, _ in _SYMBOL.iter_unpack(code[table.offset : table.offset + table.size]):
        symbols.append(starts[home] + value if home in starts else None)
        if home in starts:
            functions[code[strings + name :].partition(b"\0")[0]] = starts[home] + value
    for section in sections:
        if section.kind == _RELA and section.info in starts:
            for place, what, addend in _RELOCATION.iter_unpack(code[section.offset : section.offset + section.size]):
                target, size = symbols[what >> 32], _SIZES.get(what & 0xFFFFFFFF)
                if target is None or size is None:
                    raise RuntimeError("its code refers to something that is not in it")
                at = starts[section.info] + place
                image[at : at + size] = (target + addend - at).to_bytes(size, "little", signed=True)
    _NUMBER.pack_into(image, 0, len(names))
    for number, name in enumerate(names, 1):
        _NUMBER.pack_into(image, number * _NUMBER.size, functions[name.encode()])
    return bytes(image)


def load_image(image: bytes, count: int) -> list[int]:
    """Make an image run for as long as the process lives; return the addresses of its functions.

    Raises RuntimeError where it has not `count` functions, OSError where the system does not let it run.
    """
    if _NUMBER.unpack_from(image)[0] != count:
        raise RuntimeError("a function is missing from the compiled code")
    # Hardened systems let no memory run that could be written to. So it is written to a file in memory first.
    with open(os.memfd_create("memcload"), "w+b", buffering=0) as file:
        file.write(image)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        start = libc.mmap(None, len(image), protection, mmap.MAP_PRIVATE, file.fileno(), 0)
    if start == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, f"the system does not let compiled code run: {os.strerror(error).lower()}")
    return [start + _NUMBER.unpack_from(image, number * _NUMBER.size)[0] for number in range(1, count + 1)]
