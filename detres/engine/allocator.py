"""The C library's memory allocator: by default it gives large blocks back to the system, to take them again next step.

Each time the system hands out zeroed pages anew, which is a large share of a step on the CPU.
"""

import ctypes
import gc
import os
import platform
from typing import Literal, cast

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_TUNED = 1 << 30  # bytes; what is larger still has pages of its own, and goes back at once
_KEPT = (1 << 31) - 1  # bytes, the most that mallopt takes: free memory at the end of the heap that is kept
_DEFAULT = 32 << 20  # where glibc's own threshold ends up, because it grows with the blocks that were freed
_MAX_MMAPS = 65536  # glibc's default

AllocatorName = Literal["default", "tuned"]


def use_allocator(name: AllocatorName) -> bool:
    """Have freed memory kept for the next step ("tuned"), or given back to the system ("default").

    True where it could be set: in a process on glibc. It holds for the process and for those that it forks from then
    on, such as a data loader's workers. Tuned, a process keeps what it needed most at one time; "default" also gives
    back what is free now. Raises ValueError for another name.
    """
    if name not in ("default", "tuned"):
        raise ValueError(f"allocator: got {name!r}, expected default or tuned")
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    if name == "tuned":
        # Before glibc 2.35 a threshold may be 32 MiB at most; there nothing gets pages of its own instead.
        large = libc.mallopt(_M_MMAP_THRESHOLD, _TUNED) or libc.mallopt(_M_MMAP_MAX, 0)
        return bool(large and libc.mallopt(_M_TRIM_THRESHOLD, _KEPT))
    done = [
        libc.mallopt(option, value)
        for option, value in (
            (_M_MMAP_MAX, _MAX_MMAPS),
            (_M_MMAP_THRESHOLD, _DEFAULT),
            (_M_TRIM_THRESHOLD, 2 * _DEFAULT),
        )
    ]
    gc.collect()
    libc.malloc_trim(0)
    return all(done)


def allocator_from_environment() -> AllocatorName:
    """What DETRES_ALLOCATOR asks for; "tuned" where it is not set. Raises ValueError for another value."""
    name = os.environ.get("DETRES_ALLOCATOR", "tuned")
    if name not in ("default", "tuned"):
        raise ValueError(f"DETRES_ALLOCATOR: got {name!r}, expected default or tuned")
    return cast(AllocatorName, name)
