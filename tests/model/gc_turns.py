# SPDX-License-Identifier: Apache-2.0
"""Clean-ups, writers, copies, removals and compactions of two clients, interleaved at every request they make.

The code is the real one; only the stores are doubles: each request to the metadata or the object store waits until the
scheduler lets it through, so one list of choices is one interleaving, which can be replayed and shrunk. Time is a
number that the scheduler moves as well: it may pass as long as no client is longer between its first upload and its
commit than the fence allows, which is all that a fence demands of clients.

After every step the one invariant is looked at: whatever a living file's records name lies in the object store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final

from core.chunk.merge import Merger
from core.chunk.naming import block_key, iter_blocks
from core.chunk.store import BlockSliceStore
from core.errors import FsError
from core.gc import GcReport, collect
from core.meta import keys as k
from core.meta.format import Format, new_format
from core.meta.meta import Meta, init_format
from core.meta.records import decode_slices
from core.meta.stores.memory import MemoryStore
from core.object.api import Buffer, ObjectInfo
from core.object.memory import MemStore
from core.vfs.filesystem import FileSystem
from core.volume import Volume

BLOCK = 64 << 10
#: Seconds of the model's clock.
FENCE_S = 10
#: Rounds of the loop after which everybody who can go on has asked for the next request.
_SETTLED = 8
_START_S = 1_000_000.0

#: Told the number of possibilities, names one of them.
Choose = Callable[[int], int]


class Lost(AssertionError):
    """A living file names an object that is gone."""


#: Who makes a request; tasks that an actor starts are the actor.
_ACTOR: ContextVar[int] = ContextVar("actor", default=-1)
_CLOCK: Final = -2


class Turns:
    """Who waits for a turn, and who comes first: actors in order of favour. From time to time one of them falls to the
    end, so that a long clean-up overtakes a short upload as well as the other way round."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.waiting: list[tuple[int, str, asyncio.Future[None]]] = []
        self.order: list[int] = []
        self.open = False
        self.log: list[str] = []

    async def turn(self, what: str) -> None:
        if self.open:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            actor = _ACTOR.get()
            self.waiting.append((actor if actor in self.order else -1, what, future))
            await future

    def start(self, actors: Sequence[int]) -> None:
        self.open = True
        left = [*actors, _CLOCK, -1]
        self.order = [left.pop(self.choose(len(left))) for _ in range(len(left))]

    def next(self, *, may_wait: bool) -> bool:
        """Let somebody go on; False: it is the clock."""
        if not self.choose(20):
            self.order.append(self.order.pop(self.choose(len(self.order))))
        for actor in self.order:
            if actor == _CLOCK and may_wait:
                # Time is no actor that ends.
                self.order.remove(_CLOCK)
                self.order.append(_CLOCK)
                return False
            mine = [at for at, (who, _, _) in enumerate(self.waiting) if who == actor]
            if mine:
                _, what, future = self.waiting.pop(mine[self.choose(len(mine))])
                self.log.append(f"{actor} {what}")
                future.set_result(None)
                return True
        raise AssertionError("nobody waits")


class TurnRecords(MemoryStore):
    """Every request waits before it is carried out, every commit also before its answer arrives."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.turns = turns

    async def read(self, *keys: Any) -> list[Any]:
        await self.turns.turn("read")
        return await super().read(*keys)

    async def resolve(self, *args: Any, **options: Any) -> Any:
        await self.turns.turn("resolve")
        return await super().resolve(*args, **options)

    async def scan(self, kind: str, start: Any = None) -> AsyncIterator[tuple[Any, Any]]:
        # The listing isn't of one moment: who comes later is seen or not, as on a real server.
        for number, key in enumerate([key for key in self._records if key[0] == kind]):
            if number % 3 == 0:
                await self.turns.turn(f"scan {kind}")
            async for found, value in super().scan(kind, start):
                if found == key:
                    yield found, value
                    break

    async def commit(self, checks: Sequence[Any], writes: Sequence[Any]) -> Any:
        await self.turns.turn("commit")
        outcome = await super().commit(checks, writes)
        await self.turns.turn("committed")
        return outcome


class TurnObjects(MemStore):
    def __init__(self, turns: Turns, clock: Callable[[], float]) -> None:
        super().__init__("model", clock=clock)
        self.turns = turns

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        await self.turns.turn("put")
        await super().put(key, data)
        await self.turns.turn("stored")

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        await self.turns.turn("get")
        return await super().get(key, start, length)

    async def delete(self, key: str) -> None:
        await self.turns.turn("delete")
        await super().delete(key)

    async def head(self, key: str) -> ObjectInfo:
        await self.turns.turn("head")
        return await super().head(key)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in super().list(prefix, after):
            await self.turns.turn("list")
            yield info


class Model:
    """One volume, two clients, one clock. `fence_s` is what clean-ups are told; clients keep to FENCE_S."""

    def __init__(self, choose: Choose, fence_s: float = FENCE_S) -> None:
        self.choose = choose
        self.fence_s = fence_s
        self.now = _START_S
        self.turns = Turns(choose)
        self.records = TurnRecords(self.turns)
        self.objects = TurnObjects(self.turns, lambda: self.now)
        self.under_way: dict[object, float] = {}  # uploads that aren't committed, and when they began
        self.known: dict[bytes, bytes] = {}
        self.reports: list[GcReport] = []
        self.volumes: list[Volume] = []
        self._number = 0

    async def open(self) -> None:
        await init_format(self.records, new_format("model", bucket="mem", block_size=BLOCK, trash_days=0), 0)
        (raw,) = await self.records.read(k.setting())
        assert raw
        for _ in range(2):
            fmt = Format.parse(raw)
            meta = Meta(self.records, fmt, clock_ns=lambda: int(self.now * 1e9))
            slices = BlockSliceStore(
                self.objects, block_size=BLOCK, compression="none", hash_prefix=False, retries=1,
                new_slice_id=meta.slice_ids.take, memory_budget=16 << 20, get_timeout_s=1e9, put_timeout_s=1e9,
            )  # fmt: skip
            slices._packer._company = 1  # packs wait for company in real time
            await slices.start()
            meta.remove_slice = slices.remove
            meta.merge_slices = Merger(slices)
            meta.on_deleted = meta.delete_data_soon
            meta.on_freed = meta.delete_slices_soon
            await meta.reload_usage()
            self.volumes.append(Volume(fmt, meta, self.objects, slices, FileSystem(meta, slices)))

    async def close(self) -> None:
        self.turns.open = False
        for volume in self.volumes:
            await volume.slices.close()

    # -- what clients do -------------------------------------------------------------------------------------------

    def name(self) -> bytes:
        self._number += 1
        return b"/f%d" % self._number

    async def publish(self, client: int, size: int) -> None:
        """Store and name a file; packed with whoever is on the way at the same client."""
        fs, name, mark = self.volumes[client].fs, self.name(), object()
        body = name * (size // len(name) + 1)
        self.under_way[mark] = self.now
        try:
            await fs.publish(name, await fs.content_of(body))
            self.known[name] = body
        finally:
            del self.under_way[mark]

    async def abandon(self, client: int, size: int) -> None:
        """Store and never name."""
        await self.volumes[client].fs.content_of(b"-" * size)

    async def overwrite(self, client: int, size: int) -> None:
        """A slice into an existing file, as a flush does it."""
        fs, mark = self.volumes[client].fs, object()
        name = self.some(size)
        if name is None:
            return
        self.under_way[mark] = self.now
        try:
            found = await fs.lookup(name)
            content = await fs.content_of(b"+" * size)
            await fs.meta.write_slices(found.ino, 0, content.chunks[0][:1], fs.meta.clock_ns())
            self.known.pop(name, None)  # only its objects are looked at from now on
        finally:
            del self.under_way[mark]

    async def copy(self, client: int, pick: int) -> None:
        fs, source, name = self.volumes[client].fs, self.some(pick), self.name()
        if source is None:
            return
        found = await fs.lookup(source)
        content = await fs.clone_content([(found.ino, 0, found.attr.length)])
        await fs.publish(name, content)

    async def clone(self, client: int, pick: int) -> None:
        fs, source, name = self.volumes[client].fs, self.some(pick), self.name()
        if source is not None:
            await fs.meta.clone((await fs.lookup(source)).ino, 1, name[1:])

    async def remove(self, client: int, pick: int) -> None:
        name = self.some(pick)
        if name is not None:
            self.known.pop(name, None)
            await self.volumes[client].fs.unlink(name, skip_trash=True)

    async def compact(self, client: int, pick: int) -> None:
        fs, name = self.volumes[client].fs, self.some(pick)
        if name is not None:
            await fs.meta.compact_chunk((await fs.lookup(name)).ino, 0)

    async def clean(self, client: int, pick: int) -> None:
        report = await collect(
            self.volumes[client], delete=True, compact=bool(pick % 2), threads=3, min_age_s=self.fence_s
        )
        self.reports.append(report)

    def some(self, pick: int) -> bytes | None:
        names = list(self.known)
        return names[pick % len(names)] if names else None

    # -- the scheduler ---------------------------------------------------------------------------------------------

    async def run(self, works: Sequence[tuple[str, int, int]]) -> None:
        """All of these at once, one request after another in the order that `choose` says."""
        self.turns.start(range(len(works)))
        tasks = {
            asyncio.ensure_future(self._quietly(number, getattr(self, name)(client, value)))
            for number, (name, client, value) in enumerate(works)
        }
        while True:
            await self._settle()
            self.require_whole()
            background = [task for volume in self.volumes for task in volume.meta._background]
            if not self.turns.waiting:
                # Nobody asks for anything, so time passes or all is done.
                if all(task.done() for task in tasks) and not background:
                    break
                await asyncio.sleep(0.0005)  # a thread has the turn
                continue
            may_wait = all(self.now + 1 - start < FENCE_S for start in self.under_way.values())
            if not self.turns.next(may_wait=may_wait):
                self.now += 1
                self.turns.log.append(f"it is {self.now - _START_S:g}")
        self.turns.open = False
        for task in tasks:
            task.result()

    @staticmethod
    async def _quietly(actor: int, work: Awaitable[None]) -> None:
        """Losing a race is an answer."""
        _ACTOR.set(actor)
        try:
            await work
        except FsError as e:
            if e.errno not in (2, 17, 116):  # ENOENT, EEXIST, ESTALE
                raise

    async def _settle(self) -> None:
        seen = -1
        quiet = 0
        while quiet < _SETTLED:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self.turns.waiting) == seen else 0
            seen = len(self.turns.waiting)

    # -- the invariant ---------------------------------------------------------------------------------------------

    def require_whole(self) -> None:
        records = self.records._records
        for key, raw in records.items():
            if key[0] != k.CHUNK or k.node(key[1]) not in records:
                continue
            for s in decode_slices(raw):
                for block in iter_blocks(s.id, s.size, BLOCK) if s.id else ():
                    if block_key(*block) not in self.objects.objects:
                        raise Lost(f"inode {key[1]} names slice {s.id}, block {block[1]} of it is gone\n"
                                   + "\n".join(self.turns.log[-40:]))  # fmt: skip

    async def require_readable(self) -> None:
        for name, body in self.known.items():
            for volume in self.volumes:
                found = await volume.fs.lookup(name)
                assert bytes(await volume.fs.read(found, 0, found.attr.length)) == body, name

    async def require_clean(self) -> None:
        """Nobody is at work: one clean-up without a fence leaves exactly what is used."""
        self.now += 1
        await collect(self.volumes[0], delete=True, min_age_s=0)
        while background := self.volumes[0].meta._background:
            await asyncio.wait(set(background))
        used = {
            block_key(*block)
            for key, raw in self.records._records.items()
            if key[0] == k.CHUNK
            for s in decode_slices(raw)
            for block in (iter_blocks(s.id, s.size, BLOCK) if s.id else ())
        }
        assert {key for key in self.objects.objects if key.startswith("chunks/")} == used
        counts = {key[1:]: n for key, n in self.records._records.items() if key[0] == k.SLICEREF}
        assert all(n > 0 for n in counts.values()), counts
