# SPDX-License-Identifier: Apache-2.0
"""What every object store must do: subclass, give a `store` fixture, done.

    class TestMine(ObjectStoreSuite):
        @pytest.fixture
        async def store(self): ...

The fixture gives an empty store and closes it. Source: core/object/api.py; spec data-path §4.1.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import pytest

from core.errors import ObjectError, ObjectNotFound
from core.object.api import ObjectInfo, ObjectStore

MIB = 1 << 20

# Legal in every store: ASCII, no empty, `.` or `..` component, nothing both an object and a folder.
HOSTILE = [
    "h/ leading and trailing ",
    "h/!\"#$&'()*+,;<=>?@[]^`{|}~",
    "h/%2F%00%25",
    "h/+plus+and space",
    "h/...",
    "h/.hidden",
    "h/-dash",
    "h/UPPER/lower",
    "h/a&amp;b<c>",
    "h/a?list-type=2&b=c#d",
    "h/" + "n" * 200,
    "h/" + "/".join(["deep"] * 40),
]

# In byte order: `-` and `.` come before `/`, digits after it.
ORDERED = ["a", "b-/x", "b.c", "b/c/d", "b/c0", "b0", "ba/x", "c/1_0_4194304", "c/10_0_1", "c/2_0_1"]


class ObjectStoreSuite:
    """overhead: bytes by which a stored object is longer than its data. remote: a server that has a whole request may
    carry it out after the caller gave it up. largest: bytes of the largest object; more is refused for good."""

    overhead = 0
    remote = False
    largest = 1 << 40
    hostile_keys: Sequence[str] = HOSTILE
    ordered_keys: Sequence[str] = ORDERED

    @pytest.fixture
    async def store(self) -> ObjectStore:
        raise NotImplementedError("a subclass gives the store")

    async def test_get_returns_what_put_stored(self, store: ObjectStore) -> None:
        await store.put("k", b"hello")
        assert bytes(await store.get("k")) == b"hello"

    async def test_put_replaces(self, store: ObjectStore) -> None:
        await store.put("k", b"a long first version")
        await store.put("k", b"second")
        assert bytes(await store.get("k")) == b"second"
        assert (await store.head("k")).size == 6 + self.overhead

    async def test_every_kind_of_buffer_and_sequences_of_them(self, store: ObjectStore) -> None:
        block = bytearray(b"0123456789")
        await store.put("array", block)
        await store.put("view", memoryview(block)[2:5])
        await store.put("words", memoryview(b"12345678").cast("I"))
        await store.put("parts", [b"", b"ab", memoryview(block)[:3], b"", bytearray(b"z")])
        await store.put("none", [])
        await store.put("many", [bytes([i % 251]) * (i % 7) for i in range(3000)])
        block[:] = b"x" * 10  # a put that returned has taken its bytes
        assert bytes(await store.get("array")) == b"0123456789"
        assert bytes(await store.get("view")) == b"234"
        assert bytes(await store.get("words")) == b"12345678"
        assert bytes(await store.get("parts")) == b"ab012z"
        assert bytes(await store.get("none")) == b""
        assert bytes(await store.get("many")) == b"".join(bytes([i % 251]) * (i % 7) for i in range(3000))

    async def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        await store.put("empty", b"")
        assert bytes(await store.get("empty")) == b""
        assert bytes(await store.get("empty", 0, 10)) == b""
        assert (await store.head("empty")).size == self.overhead
        assert [info.key async for info in store.list()] == ["empty"]

    @pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 262145, 4 * MIB, 16 * MIB + 1])
    async def test_sizes_around_the_borders(self, store: ObjectStore, size: int) -> None:
        data = os.urandom(size)
        if size > self.largest:
            with pytest.raises(ObjectError) as caught:
                await store.put("big", data)
            assert not caught.value.retryable
            return
        await store.put("big", [data[: size // 3], memoryview(data)[size // 3 :]])
        found = await store.get("big")
        assert len(found) == size
        assert bytes(found) == data
        assert (await store.head("big")).size == size + self.overhead

    async def test_ranges_are_clipped(self, store: ObjectStore) -> None:
        data = os.urandom(300_000)
        await store.put("r", data)
        cases = [(0, 1), (0, 300_000), (0, 10**9), (5, None), (299_999, 1), (299_999, 9), (1000, 0), (7, 280_000)]
        for start, length in cases:
            end = None if length is None else start + length
            assert bytes(await store.get("r", start, length)) == data[start:end], (start, length)
        assert bytes(await store.get("r", 300_000)) == b""
        assert bytes(await store.get("r", 300_000, 5)) == b""
        assert bytes(await store.get("r", 10**12, 5)) == b""
        for start, length in [(-1, None), (0, -1)]:
            with pytest.raises(ValueError):
                await store.get("r", start, length)

    async def test_missing_objects(self, store: ObjectStore) -> None:
        await store.put("folder/there", b"x")
        for key in ("gone", "folder", "folder/gone", "other/gone"):
            for call in (store.get(key), store.get(key, 1, 2), store.get(key, 0, 0), store.head(key)):
                with pytest.raises(ObjectNotFound) as caught:
                    await call
                assert not caught.value.retryable

    async def test_delete(self, store: ObjectStore) -> None:
        await store.put("d/1", b"x")
        await store.put("d/2", b"y")
        await store.delete("d/1")
        with pytest.raises(ObjectNotFound):
            await store.get("d/1")
        assert bytes(await store.get("d/2")) == b"y"
        await store.delete("d/1")  # a missing one is success
        await store.delete("never/was")
        await store.put("d/1", b"again")
        assert bytes(await store.get("d/1")) == b"again"

    async def test_head_tells_size_and_time(self, store: ObjectStore) -> None:
        before = time.time()
        await store.put("h", b"x" * 1000)
        info = await store.head("h")
        assert info.key == "h"
        assert info.size == 1000 + self.overhead
        assert before - 3 < info.mtime < time.time() + 3

    async def test_list_is_in_byte_order_of_keys(self, store: ObjectStore) -> None:
        keys = self.ordered_keys
        for key in reversed(keys):
            await store.put(key, key.encode())
        found = [info async for info in store.list()]
        assert [info.key for info in found] == sorted(keys)
        assert all(info.size == len(info.key) + self.overhead for info in found)
        assert all(isinstance(info, ObjectInfo) and info.mtime > 1e9 for info in found)

    async def test_list_after_and_prefix(self, store: ObjectStore) -> None:
        keys = sorted(self.ordered_keys)
        await asyncio.gather(*(store.put(key, b"") for key in keys))
        for after in ["", *keys, "0", "b", "b/", "b/c", "c/1", "zz", "b/c/", "b/c/e"]:
            assert [i.key async for i in store.list(after=after)] == [k for k in keys if k > after], after
            for prefix in ("b", "b/", "b/c", "b/c/", "c/1", "nothing", "a"):
                wanted = [k for k in keys if k > after and k.startswith(prefix)]
                assert [i.key async for i in store.list(prefix, after)] == wanted, (prefix, after)

    async def test_a_list_longer_than_a_page(self, store: ObjectStore) -> None:
        keys = [f"p/{i // 100}/{i}" for i in range(1203)]
        waiting = iter(keys)

        async def work() -> None:
            for key in waiting:
                await store.put(key, b"1")

        await asyncio.gather(*(work() for _ in range(16)))
        assert [i.key async for i in store.list("p/")] == sorted(keys)
        assert [i.key async for i in store.list("p/", "p/3/399")] == [k for k in sorted(keys) if k > "p/3/399"]
        source = store.list("p/")
        assert (await anext(source)).key == sorted(keys)[0]
        await source.aclose()  # type: ignore[attr-defined]  # leaving early is fine

    async def test_objects_may_be_deleted_while_they_are_listed(self, store: ObjectStore) -> None:
        for i in range(50):
            await store.put(f"x/{i:02}", b"1")
        async for info in store.list("x/"):
            await store.delete(info.key)
        assert [i async for i in store.list()] == []

    async def test_hostile_keys(self, store: ObjectStore) -> None:
        for key in self.hostile_keys:
            await store.put(key, key.encode())
        for key in self.hostile_keys:
            assert bytes(await store.get(key)) == key.encode(), key
            assert (await store.head(key)).key == key
        assert [i.key async for i in store.list("h/")] == sorted(self.hostile_keys)
        for key in self.hostile_keys:
            await store.delete(key)
        assert [i.key async for i in store.list("h/")] == []

    async def test_64_at_a_time(self, store: ObjectStore) -> None:
        blobs = {f"c/{i}": os.urandom(1 + i * 3001) for i in range(64)}
        await asyncio.gather(*(store.put(key, data) for key, data in blobs.items()))
        found = await asyncio.gather(*(store.get(key) for key in blobs))
        assert [bytes(data) for data in found] == list(blobs.values())
        parts = await asyncio.gather(*(store.get(key, 1, 1000) for key in blobs))
        assert [bytes(data) for data in parts] == [data[1:1001] for data in blobs.values()]
        await asyncio.gather(*(store.delete(key) for key in blobs))
        assert [i async for i in store.list()] == []

    async def test_readers_see_the_old_or_the_new_object(self, store: ObjectStore) -> None:
        versions = [bytes([65 + i]) * (700_000 + i) for i in range(6)]
        await store.put("v", versions[0])
        done = False

        async def read() -> None:
            while not done:
                assert bytes(await store.get("v")) in versions

        readers = [asyncio.ensure_future(read()) for _ in range(3)]
        for version in versions[1:]:
            await store.put("v", version)
        done = True
        await asyncio.gather(*readers)
        assert bytes(await store.get("v")) == versions[-1]

    async def test_a_cancelled_put_leaves_nothing_half_done(self, store: ObjectStore) -> None:
        old = b"old" * 1000
        for turns in range(12):
            key = f"cancel/{turns}"
            await store.put(key, old)
            new = os.urandom(min(4 * MIB, self.largest))
            block = bytearray(new)
            task = asyncio.ensure_future(store.put(key, block))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            block[:] = bytes(len(block))  # the caller reuses its buffer at once
            for i in range(8):  # whatever still runs gets time to do harm
                await store.put(f"other/{i}", b"x" * 100_000)
            assert bytes(await store.get(key)) in (old, new)
            await store.put(key, b"final")
            late = (new,) if self.remote else ()
            assert bytes(await store.get(key)) in (b"final", *late)

    async def test_a_cancelled_get_leaves_the_store_working(self, store: ObjectStore) -> None:
        data = os.urandom(min(4 * MIB, self.largest))
        await store.put("g", data)
        for turns in range(12):
            task = asyncio.ensure_future(store.get("g"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert bytes(await store.get("g")) == data

    async def test_create_is_repeatable(self, store: ObjectStore) -> None:
        await store.create()
        await store.put("kept", b"1")
        await store.create()
        assert bytes(await store.get("kept")) == b"1"

    async def test_local_path_holds_exactly_the_object(self, store: ObjectStore) -> None:
        await store.put("l/p", b"content")
        path = store.local_path("l/p")
        assert (path is not None) == store.features.local_path
        if path is not None:
            with open(path, "rb") as file:
                assert file.read() == b"content"
