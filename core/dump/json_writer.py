# SPDX-License-Identifier: Apache-2.0
"""The JSON dump: a whole volume or a subtree as one JSON document, written as it is walked.

Keys, order, omissions and layout are those of JuiceFS 1.4, so that a dump of an unchanged volume is the same file byte
for byte. Memory holds the open directories' current pages only. The tree may change meanwhile (a dump is no snapshot):
what vanished is left out, a directory that was moved appears once, so the result always loads.
Source: spec metadata-semantics §15.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from core.dump.files import Sink
from core.dump.json_text import plain
from core.dump.source import Source, StoreSource
from core.dump.walk import Walk
from core.errors import MetaError
from core.meta import keys as k
from core.meta.format import Format
from core.meta.records import DIRECTORY, ROOT, TRASH, Attr
from core.meta.store import RecordStore
from core.object.secrets import REMOVED

#: Text goes out in blocks of about this many characters.
_BLOCK: Final = 1 << 19


class Dumped(NamedTuple):
    """What a dump contains. entries: files and directories (hard links once per place)."""

    entries: int
    without_inode: int  # entries left out because their inode is gone, or has no record
    moved: int  # directories that were met twice because somebody moved them
    missing_acls: int  # references to rules that aren't stored


class Text:
    """Collects text, hands it on in blocks."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parts: list[str] = []
        self._length = 0

    def add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    async def pass_on(self, *, all_of_it: bool = False) -> None:
        if self._length >= _BLOCK or (all_of_it and self._parts):
            # Names of extended attributes are the only text that may hold stand-ins for bytes; see json_text.
            data = "".join(self._parts).encode()
            self._parts.clear()
            self._length = 0
            await self._sink.write(data)


async def dump_json(
    store: RecordStore,
    sink: Sink,
    *,
    fmt: Format,
    root: int = ROOT,
    keep_secrets: bool = False,
    skip_trash: bool = False,
    page: int = 1000,
    threads: int = 10,
    source: Source | None = None,
    progress: Callable[[int], None] | None = None,
) -> Dumped:
    """Write the dump of `store` to `sink`. `root`: top of the dumped tree. `source`: where nodes are read from, if not
    straight from the store (`ScratchSource`). `page`: entries per turn of the event loop; smaller is kinder to others.
    `threads`: directories that are read ahead at the same time."""
    text = Text(sink)
    reading = source or StoreSource(store)
    (top,) = await reading.nodes([root])
    if top is None:
        raise MetaError(f"the volume has no record of inode {root}, where the dump begins; see `sluice check`")
    text.add("{\n")
    await _write_head(store, text, fmt, root, keep_secrets)
    walk = Walk(reading, text, page=page, threads=threads, progress=progress)
    try:
        await walk.tree("FSTree", root, top)
        if root == ROOT and not skip_trash:
            text.add(",\n")
            (trash,) = await reading.nodes([TRASH])
            # Without a trash the original writes an empty record of it, and so it is expected.
            await walk.tree("Trash", TRASH, trash or Attr(DIRECTORY, 0, 0, 0, 0, 0, 0, 2, 4096, 0, ROOT))
    finally:
        await walk.close()
    text.add("\n}\n")
    await text.pass_on(all_of_it=True)
    return Dumped(walk.entries, walk.without_inode, walk.moved, walk.missing_acls)


async def _write_head(store: RecordStore, text: Text, fmt: Format, root: int, keep_secrets: bool) -> None:
    """Everything before the trees, in order."""

    def add(key: str, value: Any) -> None:
        text.add(f'  "{key}": {plain(value)},\n')

    names = ("usedSpace", "totalInodes", "nextInode", "nextChunk", "nextSession", "nextTrash")
    space, inodes, inode, chunk, session, trash = await store.read(*map(k.counter, names))
    sustained: dict[int, list[int]] = {}
    async for key, _ in store.scan(k.SUSTAINED):
        sustained.setdefault(key[1], []).append(key[2])
    add("Setting", setting(fmt, keep_secrets=keep_secrets))
    # nextInodes and nextChunk are "next free", as on SQL and key-value stores; the others are the last one used.
    add("Counters", {
        "usedSpace": space, "usedInodes": inodes, "nextInodes": inode, "nextChunk": chunk,
        "nextSession": session - 1, "nextTrash": trash - 1,
    })  # fmt: skip
    add("Sustained", [{"sid": sid, "inodes": sorted(held)} for sid, held in sorted(sustained.items())])
    text.add('  "DelFiles": [')
    first = True
    async for key, when in store.scan(k.DELFILE):  # there may be very many
        found = plain({"inode": key[1], "length": key[2], "expire": when}).replace("\n", "\n  ")
        text.add(f"{'' if first else ','}\n    {found}")
        first = False
        await text.pass_on()
    text.add("],\n" if first else "\n  ],\n")
    quotas: list[dict[int, dict[str, int]]] = [{}, {}, {}]
    async for key, quota in store.scan(k.QUOTA):
        limits = {"maxSpace": quota.max_space, "maxInodes": quota.max_inodes}
        if key[1] == 0 and (root == ROOT or await _below(store, key[2], root)):
            quotas[0][key[2]] = limits
        elif key[1] and root == ROOT and (quota.max_space, quota.max_inodes) != (-1, -1):
            quotas[key[1]][key[2]] = limits
    for name, limited in zip(("Quotas", "UserQuotas", "GroupQuotas"), quotas, strict=True):
        if limited:
            # As Go sorts the keys of a map: by their text.
            add(name, {ident: limited[int(ident)] for ident in sorted(map(str, limited))})


def setting(fmt: Format, *, keep_secrets: bool, binary: bool = False) -> dict[str, Any]:
    """The setting as dumps carry it: credentials read `removed`; a binary backup leaves out the data key too."""
    document = fmt.to_dict()
    for name in ("SecretKey", "SessionToken", *(("EncryptKey",) if binary else ())):
        if document.get(name) and not keep_secrets:
            document[name] = REMOVED
    return document


async def _below(store: RecordStore, ino: int, top: int) -> bool:
    """Is a directory the top of the dumped tree, or below it?"""
    for _ in range(1 << 16):
        if ino == top:
            return True
        (attr,) = await store.read(k.node(ino))
        if attr is None or ino in (ROOT, TRASH) or attr.parent in (0, ino):
            return False
        ino = attr.parent
    return False
