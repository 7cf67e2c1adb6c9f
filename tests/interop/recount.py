# SPDX-License-Identifier: Apache-2.0
"""What must be true of the records of a quiet volume, whoever wrote it: recounted from scratch.

Counters, links, references of slices, objects, and nothing left over. Directory statistics are not looked at: the old
client doesn't keep them, and its hard links have no parent records. Source: spec metadata-format §1.7, §3.4.
"""

from __future__ import annotations

from collections import Counter

from core.chunk.naming import parse_block_key
from core.meta import keys as k
from core.meta.data import parse_chunk
from core.meta.records import DIRECTORY, ROOT, TRASH
from core.volume import Volume


async def slice_uses(volume: Volume) -> Counter[tuple[int, int]]:
    """(slice id, size) → how many records use it."""
    uses: Counter[tuple[int, int]] = Counter()
    async for key, raw in volume.meta.store.scan(k.CHUNK):
        uses.update((s.id, s.size) for s in parse_chunk(key[1], key[2], raw) if s.id)
    return uses


async def check_records(volume: Volume, *, objects: bool = True) -> None:
    """Counters, links and references equal a recount; every object is used, and every used one is there."""
    meta, store = volume.meta, volume.meta.store
    assert [key async for key, _ in store.scan(k.DELFILE)] == [], "removed files whose data is still there"
    nodes = {key[1]: attr async for key, attr in store.scan(k.NODE)}
    entries = [(key[1], key[2], entry) async for key, entry in store.scan(k.ENTRY)]
    links = Counter(entry.ino for _, _, entry in entries)
    subdirs = Counter(parent for parent, _, entry in entries if entry.type == DIRECTORY)
    for parent, name, entry in entries:
        assert parent in nodes and entry.ino in nodes, f"entry {name!r} of {parent} leads to {entry.ino}"
        assert nodes[entry.ino].type == entry.type
    for ino, attr in nodes.items():
        if ino in (ROOT, TRASH):
            continue
        assert links[ino], f"inode {ino} is in no directory"
        assert attr.nlink == (2 + subdirs[ino] if attr.type == DIRECTORY else links[ino]), f"inode {ino}: {attr}"
    chunks = {key[1] async for key, _ in store.scan(k.CHUNK)}
    assert chunks <= nodes.keys(), f"data of inodes that don't exist: {sorted(chunks - nodes.keys())[:5]}"
    stored = tuple(await store.read(k.counter("usedSpace"), k.counter("totalInodes")))
    assert stored == await meta.count_all(), "volume counters differ from a recount"

    uses = await slice_uses(volume)
    # A count that isn't stored means one reference; what is stored must be exact.
    counts = {(key[1], key[2]): n async for key, n in store.scan(k.SLICEREF)}
    wrong = {s: (n, uses[s]) for s, n in counts.items() if n != uses[s]}
    assert not wrong, f"references (stored, counted): {wrong}"
    unstored = {s: n for s, n in uses.items() if n > 1 and s not in counts}
    assert not unstored, f"shared slices without a count: {unstored}"
    if objects:
        await check_objects(volume, uses)


async def check_objects(volume: Volume, uses: Counter[tuple[int, int]]) -> None:
    block = volume.format.block_size
    wanted = {
        (slice_id, index, min(block, size - index * block))
        for slice_id, size in uses
        for index in range((size + block - 1) // block)
    }
    there = {parse_block_key(info.key) async for info in volume.objects.list("chunks/")}
    assert wanted <= there, f"lost objects: {sorted(wanted - there)[:5]}"
    assert there <= wanted, f"objects that nothing uses: {sorted(b for b in there - wanted if b)[:5]}"
