# SPDX-License-Identifier: Apache-2.0
"""Large buffers go back to the system when they are freed.

glibc raises the size from which it maps memory directly with each such block that is freed, up to 32 MiB; from then on
blocks of 4 MiB lie in the heap, and small things that live longer keep their holes resident: 64 streams at a budget
of 300 MiB ended with 240 MiB of free heap on top of it (tests/perf/test_memory.py). A fixed threshold ends that; it
costs the page faults of each new block. Source: mallopt(3), M_MMAP_THRESHOLD. Other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
#: Smaller blocks are used again soon by others of their kind.
_THRESHOLD: Final = 512 << 10
#: Threads that encode and decode: an arena for each would keep its own leftovers.
_ARENAS: Final = 2


@functools.cache
def return_large_blocks() -> bool:
    """Set it for this process, once. What an operator set in the environment stays as it is."""
    if "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or "" if hasattr(os, "confstr") else ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = True
    for number, value, name in (
        (_M_MMAP_THRESHOLD, _THRESHOLD, "MMAP_THRESHOLD"),
        (_M_ARENA_MAX, _ARENAS, "ARENA_MAX"),
    ):
        if f"MALLOC_{name}_" not in os.environ and f"MALLOC_{name}" not in os.environ:
            done = bool(mallopt(number, value)) and done
    return done
