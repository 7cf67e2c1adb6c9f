# SPDX-License-Identifier: Apache-2.0
"""`sluice gc META-URL`: objects that no file uses: counted, and with --delete removed (cli §2.5).

Order is what makes it safe: objects are listed first, references afterwards, so an object that was referenced when
it was listed can only look unused if its file went away meanwhile, and it may. Objects younger than an hour are left
alone: a client may have stored them and not said so yet. Before anything is deleted, references are read a second
time, because a copy made during the first reading may have moved a reference behind the reader's back.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import click

from core.chunk.naming import parse_block_key
from core.config import format_size, parse_duration
from core.errors import ObjectError
from core.meta import keys as k
from core.meta.records import decode_slices
from core.object.api import ObjectInfo
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import meta_argument, store_override, volume_options
from sluicefs.output import note, report_error, settings, show, table
from sluicefs.volume import opened, run


@command("gc")
@meta_argument
@click.option("--delete", is_flag=True, help="Remove leaked objects, due trash and data of removed files.")
@store_override
def gc_command(meta_url: str, delete: bool, **client: Any) -> int:
    """Find objects that no file uses. Nothing is changed without --delete. JFS_GC_SKIPPEDTIME (3600): seconds for
    which a new object is left alone."""
    return run(_gc(meta_url, delete, volume_options(client)))


async def _gc(meta_url: str, delete: bool, client: dict[str, Any]) -> int:
    young = parse_duration(os.environ.get("JFS_GC_SKIPPEDTIME") or "3600", option="JFS_GC_SKIPPEDTIME")
    async with opened(meta_url, session=delete, read_only=not delete, **client) as volume:
        if delete:
            await volume.meta.clean_deleted_files()
            await volume.meta.clean_unused_slices()
            await volume.meta.clean_trash(24 * volume.format.trash_days)
            await volume.meta.clean_delayed_slices(volume.format.trash_days * 86400)
        return await _objects(volume, delete, young)


async def _objects(volume: Volume, delete: bool, young_s: float) -> int:
    edge = time.time() - young_s
    listed = [info async for info in volume.objects.list("chunks/")]
    live = await _live_slices(volume)
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    leaked: list[ObjectInfo] = []
    for info in listed:
        block = parse_block_key(info.key)
        if block is None:
            kind = "skipped"  # not ours; somebody put it there
        elif block[0] in live["valid"]:
            kind = "valid"
        elif block[0] in live["pending"]:
            kind = "pending"
        elif info.mtime > edge:
            kind = "skipped"
        else:
            kind = "leaked"
            leaked.append(info)
        count[kind] += 1
        size[kind] += info.size
    deleted = failed = 0
    if delete and leaked:
        live = await _live_slices(volume)
        for info in _still_unused(leaked, live):
            try:
                await volume.objects.delete(info.key)
                deleted += 1
            except ObjectError as error:
                failed += report_error(f"{info.key} can't be deleted: {error}", error)
    kinds = ("valid", "pending", "leaked", "skipped")
    document: dict[str, Any] = {n: {"objects": count[n], "bytes": size[n]} for n in kinds}
    document |= {"scanned": len(listed), "deleted": deleted, "failed": failed}
    rows = [(n, count[n], format_size(size[n])) for n in kinds]
    show(document, table(("Objects", "Count", "Size"), rows) + (f"\ndeleted: {deleted}" if delete else ""))
    if leaked and not delete and not settings.json:
        note(f"{len(leaked)} objects are leaked; `sluice gc --delete META-URL` removes them")
    return 1 if failed else 0


def _still_unused(leaked: Iterable[ObjectInfo], live: dict[str, set[int]]) -> list[ObjectInfo]:
    used = live["valid"] | live["pending"]
    return [info for info in leaked if (block := parse_block_key(info.key)) is not None and block[0] not in used]


async def _live_slices(volume: Volume) -> dict[str, set[int]]:
    """Slices that files use, and slices that wait for their deletion (trash of compaction)."""
    valid: set[int] = set()
    pending: set[int] = set()
    store = volume.meta.store
    async for _, raw in store.scan(k.CHUNK):
        valid.update(s.id for s in decode_slices(raw) if s.id)
    async for _, raw in store.scan(k.DELSLICES):
        # 12 bytes each: id u64, size u32 (format §3.6)
        pending.update(int.from_bytes(raw[at : at + 8], "big") for at in range(0, len(raw), 12))
    return {"valid": valid, "pending": pending}
