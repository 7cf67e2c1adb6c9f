# SPDX-License-Identifier: Apache-2.0
"""What holds on every volume at rest: counters, statistics, links, parents and references equal a recount."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Final

from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.records import DIRECTORY, FILE, ROOT, TRASH, decode_slices, node_space

_DELAYED: Final = struct.Struct(">QI")


async def check_invariants(meta: Meta) -> None:
    """Counters, statistics, link counts, parents and references equal a recount. Nothing is lost, nothing is double."""
    store = meta.store
    nodes = {key[1]: attr async for key, attr in store.scan(k.NODE)}
    entries = [(key[1], key[2], entry) async for key, entry in store.scan(k.ENTRY)]
    space, inodes = await store.read(k.counter("usedSpace"), k.counter("totalInodes"))
    assert (space, inodes) == await meta.count_all(), "volume counters differ from a recount"
    links = Counter(entry.ino for _, _, entry in entries)
    subdirs = Counter(parent for parent, _, entry in entries if entry.type == DIRECTORY)
    for parent, name, entry in entries:
        assert parent in nodes, f"entry {name!r} in missing directory {parent}"
        assert entry.ino in nodes, f"entry {name!r} of missing inode {entry.ino}"
        assert nodes[entry.ino].type == entry.type
    for ino, attr in nodes.items():
        if ino in (ROOT, TRASH) or ino > TRASH:
            continue
        if attr.type == DIRECTORY:
            assert attr.nlink == 2 + subdirs[ino] or attr.in_trash, f"directory {ino}: nlink {attr.nlink}"
            assert links[ino] == 1
        elif attr.nlink:
            assert attr.nlink == links[ino], f"inode {ino}: nlink {attr.nlink}, entries {links[ino]}"
            if attr.parent == 0:
                (counts,) = await store.read(k.parents(ino))
                assert counts == Counter(p for p, _, e in entries if e.ino == ino)
            else:
                assert [p for p, _, e in entries if e.ino == ino] == [attr.parent]
    for ino in (ino for ino, attr in nodes.items() if attr.type == DIRECTORY and ino != TRASH and ino != ROOT):
        (stat,) = await store.read(k.dirstat(ino))
        children = [nodes[e.ino] for p, _, e in entries if p == ino]
        if attr_in_trash(nodes[ino]):
            continue
        assert stat is not None, f"directory {ino} has no statistics"
        want = (
            sum(c.length for c in children if c.type == FILE),
            sum(node_space(c) for c in children),
            len(children),
        )
        assert tuple(stat) == want, f"statistics of directory {ino}"
    uses: Counter[tuple[int, int]] = Counter()
    async for _, raw in store.scan(k.CHUNK):
        uses.update((s.id, s.size) for s in decode_slices(raw) if s.id)
    async for _, raw in store.scan(k.DELSLICES):  # compacted while the trash is on: still counted
        uses.update(_DELAYED.iter_unpack(raw))
    for (slice_id, size), n in uses.items():
        (count,) = await store.read(k.sliceref(slice_id, size))
        assert count is None or count == n, f"slice {slice_id}: {count} references counted, {n} used"
    async for key, count in store.scan(k.SLICEREF):
        assert count == uses[key[1], key[2]], f"slice {key[1]} is counted {count} times, used {uses[key[1], key[2]]}"


def attr_in_trash(attr: object) -> bool:
    return bool(attr.in_trash)  # type: ignore[attr-defined]
