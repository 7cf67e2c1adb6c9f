# SPDX-License-Identifier: Apache-2.0
"""Records that `gc` and the recount change, each in a commit that proves what was seen; and slices that wait for the
end of their trash days.

Source: spec metadata-semantics §6.7, §8.4, §9; metadata-format §3.6.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from typing import Final

from core.errors import Conflict
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.store import EXACT, PUT, RecordStore

_DELAYED: Final = struct.Struct(">QI")


async def set_references(store: RecordStore, slice_id: int, size: int, seen: int | None, wanted: int) -> bool:
    """Change the count of a slice from what was seen; False if somebody else changed it meanwhile."""
    key: Key = k.sliceref(slice_id, size)
    try:
        await store.commit([(EXACT, key, seen)], [(PUT, key, wanted)])
    except Conflict:
        return False
    return True


async def set_counters(store: RecordStore, seen: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Change (usedSpace, totalInodes) from what was seen; False if somebody else changed them meanwhile."""
    keys = (k.counter("usedSpace"), k.counter("totalInodes"))
    checks = [(EXACT, key, value) for key, value in zip(keys, seen, strict=True)]
    try:
        await store.commit(checks, [(PUT, key, value) for key, value in zip(keys, wanted, strict=True)])
    except Conflict:
        return False
    return True


async def delayed_slices(store: RecordStore) -> AsyncIterator[tuple[int, int]]:
    """(id, size) of slices that a compaction replaced; each holds its reference until its trash days are over."""
    async for _, raw in store.scan(k.DELSLICES):
        for slice_id, size in _DELAYED.iter_unpack(raw[: len(raw) // _DELAYED.size * _DELAYED.size]):
            yield slice_id, size
