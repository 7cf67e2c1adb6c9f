# SPDX-License-Identifier: Apache-2.0
"""How many times each operation waits for its database, on every engine: counted, bounded, and kept in the documents.

The table in docs/metadata-round-trips.md is what this test finds. After a change that means to alter it:

    UPDATE_DOCS=1 pytest tests/conformance/volume/test_round_trips.py
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.publish import Content
from core.meta.records import Slice
from core.meta.store import RecordStore
from core.volume import open_record_store
from tests.conformance.volume.base import Ticking
from tests.servers.engines import SHARED, engine

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "metadata-round-trips.md"
#: Operation -> most round trips on any engine, and what JuiceFS 1.4.1 needs on Redis and on PostgreSQL (a mount,
#: default caches, counted by a proxy; with the closing of the file where there is one).
BUDGET: dict[str, tuple[int, str]] = {
    "lookup": (1, ""), "getattr": (1, ""), "readdir, 1,000 with attributes": (1, ""), "resolve, 3 names": (1, ""),
    "read chunk": (1, "4.4 / 4.7"), "create": (2, "7.3 / 9.4"), "mkdir": (2, "7.2 / 10.5"),
    "symlink": (2, "7.2 / 10.7"), "link": (2, ""), "unlink": (2, "8.4 / 11.0"),
    "unlink to the trash": (2, "8.4 / 11.0"), "rmdir": (2, "9.2 / 15.1"),
    "rename": (2, "10.8 / 14.4"),
    "rename over a file": (2, ""), "rename to another directory": (2, ""),
    "chmod": (2, "5.4 / 5.5"), "setxattr": (2, "4.2 / 5.3"), "slice commit": (2, "6.6 / 10.1"), "truncate": (2, ""),
    "truncate to nothing": (2, ""), "copy_file_range": (2, ""), "clone of a file": (2, ""), "flock": (2, ""),
    "POSIX lock": (2, ""),
    "publish in a known directory": (1, ""), "publish in a new place": (2, ""),
}  # fmt: skip
#: Where a protocol forces one more; docs/metadata-round-trips.md says why.
ONE_MORE: dict[str, set[str]] = {
    "etcd": {"readdir, 1,000 with attributes"},
    "tikv": {
        "readdir, 1,000 with attributes", "slice commit", "truncate", "truncate to nothing", "copy_file_range",
        "clone of a file", "flock", "POSIX lock", "publish in a known directory", "publish in a new place",
    },
}  # fmt: skip


async def count(store: RecordStore, work: Callable[[], Awaitable[object]]) -> int:
    with store.round_trips() as trips:
        await work()
    return trips.count


async def measure(meta: Meta) -> dict[str, int]:
    """Steady state: ids are at hand, the directory is known, nobody else is at work."""
    store = meta.store
    top, _ = await meta.mkdir(1, b"top")
    sub, _ = await meta.mkdir(top, b"sub")
    other, _ = await meta.mkdir(top, b"other")
    for at in range(1000):
        await meta.create(sub, b"f%03d" % at)
    file, _ = await meta.create(top, b"file")
    target, _ = await meta.create(top, b"target")
    emptied, _ = await meta.create(top, b"emptied")
    numbers = iter(range(1, 1000))

    async def slices(ino: int = file) -> None:
        ident = meta.slice_ids.take_nowait() or await meta.slice_ids.take()
        await meta.write_slices(ino, 0, [Slice(0, ident, 4096, 0, 4096)], next(numbers))

    def content() -> Content:
        ident = meta.slice_ids.take_nowait()
        assert ident
        return Content(4096, {0: [Slice(0, ident, 4096, 0, 4096)]}, fresh=((ident, 4096, 1),))

    await slices()
    await slices(emptied)
    await meta.publish(1, [b"top", b"known"], content())
    await meta.create(top, b"trashed-before")
    await meta.unlink(top, b"trashed-before")  # this hour's trash directory exists from here on
    found: dict[str, int] = {}

    async def take(name: str, work: Callable[[], Awaitable[object]]) -> None:
        found[name] = await count(store, work)

    await take("lookup", lambda: meta.lookup(sub, b"f500"))
    await take("getattr", lambda: meta.getattr(file))
    await take("readdir, 1,000 with attributes", lambda: meta.readdir(sub, b"", 1000, attrs=True))
    await take("resolve, 3 names", lambda: meta.resolve(1, [b"top", b"sub", b"f001"]))
    await take("read chunk", lambda: meta.read_chunk(file, 0))
    await take("create", lambda: meta.create(top, b"new"))
    await take("mkdir", lambda: meta.mkdir(top, b"dir"))
    await take("symlink", lambda: meta.symlink(top, b"sym", b"target"))
    await take("link", lambda: meta.link(file, top, b"hard"))
    await take("unlink", lambda: meta.unlink(top, b"new", skip_trash=True))
    await take("unlink to the trash", lambda: meta.unlink(sub, b"f001"))
    await take("rmdir", lambda: meta.rmdir(top, b"dir", skip_trash=True))
    await take("rename", lambda: meta.rename(sub, b"f002", sub, b"g002"))
    await take("rename over a file", lambda: meta.rename(sub, b"f003", sub, b"f004"))
    await take("rename to another directory", lambda: meta.rename(sub, b"f005", other, b"f005"))
    await take("chmod", lambda: meta.setattr(file, {"mode": 0o600}))
    await take("setxattr", lambda: meta.setxattr(file, b"user.a", b"1"))
    await take("slice commit", slices)
    await take("truncate", lambda: meta.truncate(file, 10_000))
    await take("truncate to nothing", lambda: meta.truncate(emptied, 0))
    await take("copy_file_range", lambda: meta.copy_file_range(file, 0, target, 0, 4096))
    await take("clone of a file", lambda: meta.clone(file, top, b"cloned"))
    await take("flock", lambda: meta.flock(file, 1, "W"))
    await take("POSIX lock", lambda: meta.setlk(file, 1, "W", 0, 9, 1))
    await take("publish in a known directory", lambda: meta.publish(1, [b"top", b"again"], content()))
    await take("publish in a new place", lambda: meta.publish(1, [b"top", b"other", b"x"], content()))
    return found


async def of_engine(name: str) -> dict[str, int]:
    with engine(name) as database:
        store = open_record_store(database.fresh_url())
        await store.open()
        clock = Ticking()
        fmt = new_format("trips", bucket="/nowhere/")
        await init_format(store, fmt, clock())
        meta = Meta(store, fmt, clock_ns=clock)
        await meta.new_session("trips", heartbeat_s=0)
        try:
            return await measure(meta)
        finally:
            await meta.close()


def rows(text: str) -> dict[str, list[str]]:
    """The table as it stands: operation -> cells."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| operation"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found[name] = cells
    return found


def updated(text: str, name: str, found: dict[str, int]) -> str:
    table = rows(text)
    column = SHARED.index(name)
    lines = [f"| operation | {' | '.join(SHARED)} | JuiceFS 1.4.1: Redis / PostgreSQL |",
             "|---|" + "---:|" * len(SHARED) + "---|"]  # fmt: skip
    for operation, (_, juicefs) in BUDGET.items():
        cells = (table.get(operation) or [""] * (len(SHARED) + 1))[: len(SHARED)]
        cells[column] = str(found[operation])
        lines.append(f"| {operation} | {' | '.join(cells)} | {juicefs} |")
    new = "\n".join(lines) + "\n"
    return re.sub(r"\| operation \|(?:.*\n)(?:\|.*\n)*", lambda _: new, text, count=1)


@pytest.mark.parametrize("name", SHARED)
async def test_every_operation_keeps_its_budget_of_round_trips(name: str) -> None:
    found = await of_engine(name)
    over = {
        operation: trips
        for operation, trips in found.items()
        if trips > BUDGET[operation][0] + (operation in ONE_MORE.get(name, ()))
    }
    assert over == {}, f"{name} needs more round trips than allowed"
    text = DOCUMENT.read_text()
    if os.environ.get("UPDATE_DOCS"):
        DOCUMENT.write_text(updated(text, name, found))
        return
    documented = {operation: cells[SHARED.index(name)] for operation, cells in rows(text).items()}
    assert documented == {operation: str(trips) for operation, trips in found.items()}, (
        f"docs/metadata-round-trips.md says something else of {name}; run this test with UPDATE_DOCS=1"
    )
