# SPDX-License-Identifier: Apache-2.0
"""Two clients of one volume do arbitrary things, a dictionary (`reference.py`) does the same, and all three must agree.

After every step the whole tree is compared through both clients. Content is compared by a rule of its own and at the
end, because reading flushes, and pending writes are half of what is tested here. Both clients write the same file only
in turn, as close-to-open asks of applications: before one looks at or changes bytes, the other flushes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Awaitable, Coroutine
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.errors import FsError
from core.meta import keys as k
from core.meta.records import CHUNK_SIZE, DIRECTORY, FILE, SYMLINK, TRASH, decode_slices
from core.meta.store import RecordStore
from core.vfs.handles import Handle
from tests.conformance.volume.base import Ticking
from tests.conformance.volume.invariants import check_invariants
from tests.model.reference import WINDOWS, Node, Refused, Tree
from tests.unit.chunk.doubles import BLOCK, FaultyStore
from tests.unit.vfs.volume import Client, make_client, new_volume

NAMES = (b"a", b"b", b"c", b"\xff\xfe", b"with space", b"n" * 255)
NAME = st.sampled_from(NAMES)
PICK = st.integers(0, 1 << 16)
WHO = st.sampled_from((0, 1))
# Sizes around what packs (a quarter of a block), blocks and pages.
SIZES = st.sampled_from((1, 100, 4095, 4097, BLOCK // 4, BLOCK // 4 + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7))
LOW = st.one_of(st.sampled_from((0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5)), st.integers(0, 4 * BLOCK))
HIGH = st.one_of(st.sampled_from((CHUNK_SIZE - 1, CHUNK_SIZE)), st.integers(CHUNK_SIZE - 3 * BLOCK, CHUNK_SIZE + 99))
OFFSETS = st.one_of(LOW, LOW, LOW, HIGH)


class Open:
    """A handle and what it is for."""

    def __init__(self, who: int, handle: Handle, node: Node) -> None:
        self.who = who
        self.handle = handle
        self.node = node


class VolumeMachine(RuleBasedStateMachine):
    """A subclass says which record stores two clients of one fresh volume use."""

    #: Handles of one client at a time.
    MAX_HANDLES: ClassVar[int] = 4

    async def make_store(self, number: int) -> RecordStore:
        """Opened; the first one is empty, the second one shows what the first one holds."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.made: list[RecordStore] = []
        self.clients: list[Client] = []
        self.opened: list[Open] = []
        self.random = random.Random(4711)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    @initialize(trash=st.booleans())
    def start(self, trash: bool) -> None:
        self.tree = Tree(trash=trash)
        self.objects = FaultyStore()

        async def make() -> None:
            clock = Ticking()
            for number in (0, 1):
                store = await self.make_store(number)
                self.made.append(store)
                if not number:
                    await new_volume(store, trash_days=int(trash))
                self.clients.append(await make_client(store, self.objects, clock_ns=clock, trash_days=int(trash)))
            # Something to begin with, so that few steps are needed for something interesting.
            client = self.clients[0]
            ino, _ = await client.meta.mkdir(self.tree.root.ino, b"a")
            d = self.tree.add(self.tree.root, b"a", DIRECTORY, ino)
            await self._create(client, 0, self.tree.root, b"b", False)
            await self._create(self.clients[1], 1, d, b"c", False)

        self.run(make())

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def expect(self, call: Awaitable[Any], refused: Refused | None) -> Any:
        """The call succeeds or fails as the model said."""
        try:
            result = await call
        except FsError as e:
            assert refused is not None, f"refused with {e.code}, the model allows it: {e}"
            if refused.code is not None:
                assert e.errno == refused.code, f"{e.code} instead of {errno.errorcode[refused.code]}: {e}"
            return None
        assert refused is None, f"allowed, the model refuses it with {refused}"
        return result

    @staticmethod
    def ask(check: Any, *args: Any) -> tuple[Any, Refused | None]:
        try:
            return check(*args), None
        except Refused as e:
            return None, e

    def directory(self, pick: int) -> Node:
        found = self.tree.directories()
        return found[pick % len(found)]

    def file(self, pick: int) -> Node | None:
        found = self.tree.files()
        return found[pick % len(found)] if found else None

    def handle(self, pick: int) -> Open:
        return self.opened[pick % len(self.opened)]

    def noise(self, n: int) -> bytes:
        return self.random.randbytes(n)

    async def settle(self, node: Node, who: int | None = None) -> None:
        """Before client `who` touches the bytes, the other one's are recorded."""
        if node.dirty is not None and node.dirty != who:
            await self.clients[node.dirty].vfs.flush(node.ino)
            node.dirty = None

    async def bury(self, node: Node | None, who: int) -> None:
        """Client `who` took the last name. Without trash the file lives on in its own handles only."""
        if node is None or not node.gone:
            return
        for o in [o for o in self.opened if o.node is node and o.who != who]:
            self.opened.remove(o)
            await o.handle.release()
        if node.dirty != who:
            node.dirty = None

    # -- names ------------------------------------------------------------------------------------------------------

    @rule(who=WHO, at=PICK, name=NAME, exclusive=st.booleans())
    def create(self, who: int, at: int, name: bytes, exclusive: bool) -> None:
        self.run(self._create(self.clients[who], who, self.directory(at), name, exclusive))

    async def _create(self, client: Client, who: int, d: Node, name: bytes, exclusive: bool) -> None:
        there = d.children.get(name)
        refused = None
        if there is not None:
            codes = {FILE: None, DIRECTORY: errno.EISDIR, SYMLINK: errno.EPERM}
            code = errno.EEXIST if exclusive else codes[there.kind]
            refused = Refused(code) if code else None
        flags = os.O_RDWR | (os.O_EXCL if exclusive else 0)
        handle = await self.expect(client.vfs.create(d.ino, name, flags), refused)
        if handle is None:
            return
        node = there or self.tree.add(d, name, FILE, handle.ino)
        if sum(o.who == who for o in self.opened) < self.MAX_HANDLES:
            self.opened.append(Open(who, handle, node))
        else:
            await handle.release()

    @rule(who=WHO, at=PICK, name=NAME)
    def mkdir(self, who: int, at: int, name: bytes) -> None:
        d = self.directory(at)
        _, refused = self.ask(self.tree.require_free, d, name)
        made = self.run(self.expect(self.clients[who].meta.mkdir(d.ino, name), refused))
        if made:
            self.tree.add(d, name, DIRECTORY, made[0])

    @rule(who=WHO, at=PICK, name=NAME, text=st.sampled_from((b"a", b"../x", b"/" + b"t" * 300, b"\xff")))
    def symlink(self, who: int, at: int, name: bytes, text: bytes) -> None:
        d = self.directory(at)
        _, refused = self.ask(self.tree.require_free, d, name)
        made = self.run(self.expect(self.clients[who].meta.symlink(d.ino, name, text), refused))
        if made:
            self.tree.add(d, name, SYMLINK, made[0], text)

    @rule(who=WHO, what=PICK, at=PICK, name=NAME)
    def link(self, who: int, what: int, at: int, name: bytes) -> None:
        nodes = [node for _, _, node in self.tree.walk()]
        if not nodes:
            return
        node, d = nodes[what % len(nodes)], self.directory(at)
        _, refused = self.ask(self.tree.require_linkable, node, d, name)
        if self.run(self.expect(self.clients[who].meta.link(node.ino, d.ino, name), refused)):
            self.tree.link(node, d, name)

    @rule(who=WHO, at=PICK, name=NAME)
    def unlink(self, who: int, at: int, name: bytes) -> None:
        d = self.directory(at)
        node, refused = self.ask(self.tree.require_unlinkable, d, name)
        if self.run(self.expect(self.clients[who].meta.unlink(d.ino, name), refused)):
            self.tree.unlink(d, name)
            self.run(self.bury(node, who))

    @rule(who=WHO, at=PICK, name=NAME)
    def rmdir(self, who: int, at: int, name: bytes) -> None:
        d = self.directory(at)
        _, refused = self.ask(self.tree.require_rmdir, d, name)
        if self.run(self.expect(self.clients[who].meta.rmdir(d.ino, name), refused)):
            del d.children[name]

    @rule(who=WHO, src=PICK, src_name=NAME, dst=PICK, dst_name=NAME, flags=st.sampled_from((0, 0, 0, 1, 2, 2, 3, 4)))
    def rename(self, who: int, src: int, src_name: bytes, dst: int, dst_name: bytes, flags: int) -> None:
        a, b = self.directory(src), self.directory(dst)
        moves, refused = self.ask(self.tree.require_rename, a, src_name, b, dst_name, flags)
        replaced = b.children.get(dst_name)
        call = self.clients[who].meta.rename(a.ino, src_name, b.ino, dst_name, flags)
        self.run(self.expect(call, refused))
        if refused is None and moves:
            self.tree.rename(a, src_name, b, dst_name, flags)
            self.run(self.bury(replaced, who))

    @rule(who=WHO, what=PICK, name=st.sampled_from((b"user.a", b"user.b")), value=st.one_of(st.none(), st.binary()))
    def xattr(self, who: int, what: int, name: bytes, value: bytes | None) -> None:
        nodes = [self.tree.root, *(node for _, _, node in self.tree.walk())]
        node, meta = nodes[what % len(nodes)], self.clients[who].meta
        if value is not None:
            if not value and not meta.store.caps.empty_xattr:
                value = b"0"
            self.run(meta.setxattr(node.ino, name, value))
            node.xattrs[name] = value
            return
        refused = None if name in node.xattrs else Refused(errno.ENODATA)
        self.run(self.expect(meta.removexattr(node.ino, name), refused))
        node.xattrs.pop(name, None)

    # -- whole files ------------------------------------------------------------------------------------------------

    @rule(who=WHO, at=PICK, name=NAME, size=st.one_of(st.just(0), SIZES))
    def publish(self, who: int, at: int, name: bytes, size: int) -> None:
        async def work() -> None:
            data = self.noise(size)
            node = await self._publish(who, self.directory(at), name, await self.clients[who].fs.content_of(data))
            if node is not None and size:
                node.bytes.write(0, data)

        self.run(work())

    @precondition(lambda self: self.tree.files())
    @rule(who=WHO, what=PICK, at=PICK, name=NAME, parts=st.lists(st.tuples(LOW, SIZES), max_size=3))
    def copy(self, who: int, what: int, at: int, name: bytes, parts: list[tuple[int, int]]) -> None:
        """Ranges of a file one after another, or all of it."""
        source = self.file(what)
        assert source is not None

        async def work() -> None:
            await self.settle(source)
            length = source.bytes.length
            ranges = [(off, min(n, length - off)) for off, n in parts if off < length]
            new = source.bytes.copy()
            if ranges:
                data = b"".join(source.bytes.read(off, n) for off, n in ranges)
                new.truncate(0)
                new.write(0, data)
            else:
                ranges = [(0, length)]
            fs = self.clients[who].fs
            content = await fs.clone_content([(source.ino, off, n) for off, n in ranges])
            node = await self._publish(who, self.directory(at), name, content)
            if node is not None:
                node.bytes = new

        self.run(work())

    async def _publish(self, who: int, d: Node, name: bytes, content: Any) -> Node | None:
        fs = self.clients[who].fs
        there = d.children.get(name)
        refused = Refused(errno.EISDIR) if there is not None and there.is_dir else None
        made = await self.expect(fs.publish(self.tree.path(d, name), content), refused)
        if made is None:
            await fs.discard(content)
            return None
        if there is not None:
            self.tree.unlink(d, name)
            await self.bury(there, who)
        return self.tree.add(d, name, FILE, made.ino)

    # -- open files -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.tree.files())
    @rule(who=WHO, what=PICK, flags=st.sampled_from((os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_TRUNC)))
    def open(self, who: int, what: int, flags: int) -> None:
        node = self.file(what)
        if node is None or sum(o.who == who for o in self.opened) >= self.MAX_HANDLES:
            return

        async def work() -> None:
            await self.settle(node, who)
            self.opened.append(Open(who, await self.clients[who].vfs.open(node.ino, flags), node))
            if flags & os.O_TRUNC:
                node.bytes.truncate(0)

        self.run(work())

    @precondition(lambda self: self.opened or self.tree.files())
    @rule(who=WHO, what=PICK, offset=OFFSETS, size=SIZES, times=st.integers(1, 3), leave=st.booleans())
    def write(self, who: int, what: int, offset: int, size: int, times: int, leave: bool) -> None:
        """One or several writes in sequence, into a file that is open (an unlinked one too) or opened for it."""

        async def work() -> None:
            o = await self._some_open(who, what)
            if o is None:
                return
            await self.settle(o.node, o.who)
            if o.node.dirty is None:
                await self.clients[o.who].vfs.getattr(o.node.ino)
            at = offset
            for _ in range(times):
                data = self.noise(size)
                if o.handle.flags & os.O_APPEND:
                    at = o.node.bytes.length
                if not any(begin <= at and at + size <= end for begin, end in WINDOWS):
                    break
                assert await o.handle.write(at, data) == size
                o.node.bytes.write(at, data)
                o.node.dirty = o.who
                at += size
            if not leave:
                await o.handle.flush()
                o.node.dirty = None

        self.run(work())

    async def _some_open(self, who: int, what: int) -> Open | None:
        mine = [o for o in self.opened if o.who == who]
        nodes = list(dict.fromkeys([*self.tree.files(), *(o.node for o in mine)]))
        if not nodes:
            return None
        node = nodes[what % len(nodes)]
        for o in mine:
            if o.node is node:
                return o
        if len(mine) >= self.MAX_HANDLES:
            return mine[what % len(mine)]
        await self.settle(node, who)
        self.opened.append(Open(who, await self.clients[who].vfs.open(node.ino, os.O_RDWR), node))
        return self.opened[-1]

    @precondition(lambda self: self.opened or self.tree.files())
    @rule(who=WHO, what=PICK, length=OFFSETS)
    def truncate(self, who: int, what: int, length: int) -> None:
        async def work() -> None:
            o = await self._some_open(who, what)
            if o is None:
                return
            await self.settle(o.node, o.who)
            await o.handle.truncate(length)
            o.node.bytes.truncate(length)

        self.run(work())

    # -- without moving bytes ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.tree.files())
    @rule(who=WHO, what=PICK, mode=st.sampled_from((0, 1, 3, 0x10, 0x11)), offset=OFFSETS, size=SIZES)
    def fallocate(self, who: int, what: int, mode: int, offset: int, size: int) -> None:
        node = self.file(what)
        assert node is not None

        async def work() -> None:
            await self.settle(node)
            await self.clients[who].meta.fallocate(node.ino, mode, offset, size)
            if mode & 0x12:
                node.bytes.zero(offset, min(offset + size, node.bytes.length))
            if not mode & 1:
                node.bytes.length = max(node.bytes.length, offset + size)

        self.run(work())

    @precondition(lambda self: self.tree.files())
    @rule(who=WHO, a=PICK, b=PICK, a_off=OFFSETS, b_off=OFFSETS, size=SIZES)
    def copy_range(self, who: int, a: int, b: int, a_off: int, b_off: int, size: int) -> None:
        source, target = self.file(a), self.file(b)
        assert source is not None and target is not None
        size = min(size, max(source.bytes.length - a_off, 0))
        if not any(begin <= b_off and b_off + size <= end for begin, end in WINDOWS):
            return
        overlap = source is target and size and a_off < b_off + size and b_off < a_off + size

        async def work() -> None:
            await self.settle(source)
            await self.settle(target)
            call = self.clients[who].meta.copy_file_range(source.ino, a_off, target.ino, b_off, size)
            copied = await self.expect(call, Refused(errno.EINVAL) if overlap else None)
            if copied:
                target.bytes.write(b_off, source.bytes.read(a_off, size))

        self.run(work())

    @precondition(lambda self: self.tree.files())
    @rule(who=WHO, what=PICK)
    def compact(self, who: int, what: int) -> None:
        node = self.file(what)
        assert node is not None
        for index in (0, 1):
            self.run(self.clients[who].meta.compact_chunk(node.ino, index))

    @rule(who=WHO, what=PICK, at=PICK, name=NAME)
    def clone(self, who: int, what: int, at: int, name: bytes) -> None:
        nodes = [node for _, _, node in self.tree.walk()]
        if not nodes or len(nodes) > 60:
            return
        node, d = nodes[what % len(nodes)], self.directory(at)
        _, refused = self.ask(self.tree.require_cloneable, node, d, name)
        meta = self.clients[who].meta

        async def work() -> None:
            for file in self.tree.files():
                await self.settle(file)
            made = await self.expect(meta.clone(node.ino, d.ino, name), refused)
            if made is None:
                return
            inos: dict[tuple[bytes, ...], int] = {(): made.ino}
            pending: list[tuple[bytes, ...]] = [()] if node.is_dir else []
            while pending:
                path = pending.pop()
                for e in await meta.readdir(inos[path]):
                    inos[(*path, e.name)] = e.ino
                    if e.type == DIRECTORY:
                        pending.append((*path, e.name))
            self.tree.clone(node, d, name, inos)

        self.run(work())

    @precondition(lambda self: self.opened)
    @rule(which=PICK)
    def flush(self, which: int) -> None:
        o = self.handle(which)
        self.run(o.handle.flush())
        if o.node.dirty == o.who:
            o.node.dirty = None

    @precondition(lambda self: self.opened)
    @rule(which=PICK)
    def release(self, which: int) -> None:
        o = self.handle(which)
        self.opened.remove(o)
        self.run(o.handle.release())
        if o.node.dirty == o.who:
            o.node.dirty = None

    @rule(who=WHO, seconds=st.sampled_from((0.5, 1.5, 6.0)))
    def time_passes(self, who: int, seconds: float) -> None:
        self.run(self.clients[who].clock.advance(seconds))

    # -- comparing --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.opened)
    @rule(which=PICK, offset=OFFSETS, size=SIZES)
    def read(self, which: int, offset: int, size: int) -> None:
        o = self.handle(which)

        async def work() -> None:
            await self.settle(o.node, o.who)
            if o.node.dirty is None:
                await self.clients[o.who].vfs.getattr(o.node.ino)
            assert bytes(await o.handle.read(offset, size)) == o.node.bytes.read(offset, size)

        self.run(work())

    @precondition(lambda self: self.tree.files())
    @rule(who=WHO, what=PICK)
    def check_content(self, who: int, what: int) -> None:
        node = self.file(what)
        assert node is not None
        self.run(self._check_content(who, node))

    async def _check_content(self, who: int, node: Node) -> None:
        await self.settle(node, who)
        client = self.clients[who]
        async with await client.vfs.open(node.ino) as handle:
            assert handle.length == node.bytes.length
            for begin, end in WINDOWS:
                assert bytes(await handle.read(begin, end - begin)) == node.bytes.read(begin, end - begin)
        if not self.clients[who].vfs.is_open(node.ino):
            node.dirty = None if node.dirty == who else node.dirty
        found = await client.fs.meta.getattr(node.ino)
        assert node.dirty is not None or found.length == node.bytes.length

    @rule(who=WHO, at=PICK, limit=st.integers(1, 3))
    def list_in_pages(self, who: int, at: int, limit: int) -> None:
        d, meta = self.directory(at), self.clients[who].meta

        async def work() -> None:
            names: list[bytes] = []
            while True:
                page = await meta.readdir(d.ino, names[-1] if names else b"", limit)
                names += [e.name for e in page]
                if len(page) < limit:
                    break
            assert names == sorted(d.children)

        self.run(work())

    @invariant()
    def both_clients_see_the_model(self) -> None:
        if self.clients:
            self.run(self._compare_trees())

    async def _compare_trees(self) -> None:
        for who, client in enumerate(self.clients):
            for d in self.tree.directories():
                page = await client.meta.readdir(d.ino, attrs=True)
                assert [(e.name, e.type, e.ino) for e in page] == [
                    (name, node.kind, node.ino) for name, node in sorted(d.children.items(), key=lambda i: i[0])
                ]
                for e in page:
                    node, attr = d.children[e.name], e.attr
                    assert attr is not None
                    nlink = self.tree.directory_nlink(node) if node.is_dir else node.nlink
                    assert (attr.nlink, attr.parent) == (nlink, node.parent.ino if node.parent else 0)
                    if node.kind == FILE and node.dirty is None:
                        assert attr.length == node.bytes.length
                    elif node.kind == FILE and node.dirty == who:
                        assert (await client.vfs.getattr(node.ino)).length == node.bytes.length
                    elif node.kind == SYMLINK:
                        assert await client.meta.readlink(node.ino) == node.target

    # -- the end ----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.clients:
                self.run(self._finish())
        finally:
            for store in self.made:
                self.run(store.close())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    async def _finish(self) -> None:
        for o in self.opened:
            await o.handle.flush()
            await o.handle.release()
        for node in self.tree.files():
            node.dirty = None
        for who in (0, 1):
            for node in self.tree.files():
                await self._check_content(who, node)
            for _, _, node in self.tree.walk():
                meta = self.clients[who].meta
                assert await meta.listxattr(node.ino) == sorted(node.xattrs)
                for name, value in node.xattrs.items():
                    assert await meta.getxattr(node.ino, name) == value
        for client in self.clients:
            await client.idle()
        await check_invariants(self.clients[0].meta)
        await self._check_objects()
        for client in self.clients:
            await client.close()
        assert all(client.slices.budget.used >= 0 for client in self.clients)

    async def _check_objects(self) -> None:
        """Every object belongs to a slice that some chunk uses: nothing leaked."""
        used = set()
        async for key, raw in self.clients[0].meta.store.scan(k.CHUNK):
            assert key[1] < TRASH
            used.update(s.id for s in decode_slices(raw))
        async for _, raw in self.clients[0].meta.store.scan(k.DELSLICES):
            used.update(int.from_bytes(raw[at : at + 8], "big") for at in range(0, len(raw), 12))
        stored = {int(key.rsplit("/", 1)[1].split("_")[0]) for key in self.objects.objects}
        assert stored <= used, f"objects of slices that nobody uses: {stored - used}"
