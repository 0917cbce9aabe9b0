"""How the C library's allocator treats the large buffers of a load."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_BUFFER = 6 << 20  # bytes: the blocks of a load to 40 servers are 4 MiB; larger ones still come from the system
_KEPT = 8 << 20  # bytes, at the end of each of its arenas


def keep_freed_memory() -> None:
    """Let glibc keep freed buffers for the next ones: given back to the system, every page of them is zeroed again.

    Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, _BUFFER)
    mallopt(_TRIM_THRESHOLD, _KEPT)
