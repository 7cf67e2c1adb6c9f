# SPDX-License-Identifier: Apache-2.0
"""What the control file can be asked for, over a real volume in memory (metadata-semantics §12.2, §13)."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from core.chunk.cachedir import CacheLimits
from core.chunk.diskcache import DiskCache
from core.errors import FsError, ObjectError
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.records import ROOT, TRASH
from core.vfs.internal import protocol as p
from core.vfs.internal.api import InternalHandle
from core.vfs.internal.files import InternalFiles
from core.vfs.internal.inodes import ACCESS_LOG, CONFIG, CONTROL, STATS
from core.volume import Volume
from tests.unit.chunk.doubles import FaultyStore
from tests.unit.vfs.volume import BLOCK, Client, make_client, new_volume

USER = Caller(1000, (1000,), 0)
ADMIN = Caller(0, (0,), 1, False)


class Mounted:
    """A client with its special files."""

    def __init__(self, client: Client, **options: Any) -> None:
        self.client = client
        self.meta = client.meta
        self.volume = Volume(client.meta.format, client.meta, client.slices.objects, client.slices, client.fs)
        self.files = InternalFiles(self.volume, client.vfs, **options)
        self.progress: list[p.Progress] = []

    async def ask(self, request: p.Request, caller: Caller = ADMIN) -> Any:
        """The JSON of the reply, or its errno."""
        handle = self.files.open(CONTROL, os.O_RDWR, caller)
        parser = p.ReplyParser()
        await handle.write(0, p.encode(request))
        while True:
            for event in parser.receive(bytes(await handle.read(0, 1 << 16))):
                if isinstance(event, p.Progress):
                    self.progress.append(event)
                    continue
                await handle.release()
                return json.loads(event.data) if isinstance(event, p.Data) else event.errno

    async def write(self, parent: int, name: bytes, data: bytes) -> int:
        handle = await self.client.vfs.create(parent, name)
        await handle.write(0, data)
        await handle.release()
        return handle.ino


@pytest.fixture
async def objects() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def mounted(objects: FaultyStore, tmp_path: Path) -> AsyncIterator[Mounted]:
    cache = DiskCache([str(tmp_path / "cache")], "uuid", CacheLimits(size=1 << 30))
    client = await make_client(await new_volume(), objects, cache=cache)
    yield Mounted(client)
    await client.close(check=True)


async def read_all(handle: InternalHandle) -> bytes:
    data = b""
    while part := await handle.read(len(data), 1000):
        data += bytes(part)
    await handle.release()
    return data


# -- names -------------------------------------------------------------------------------------------------------------


async def test_the_root_shows_three_files_and_control_is_found_everywhere(mounted: Mounted) -> None:
    files = mounted.files
    assert [(name, node.ino) for name, node in files.entries()] == [
        (b".accesslog", ACCESS_LOG), (b".config", CONFIG), (b".stats", STATS)
    ]  # fmt: skip
    assert files.find(ROOT, b".stats") == files.node(STATS)
    assert files.find(5, b".stats") is None and files.find(ROOT, b"stats") is None
    control = files.find(5, b".control")
    assert control is not None and control.ino == CONTROL and control.attr.mode == 0o666
    assert files.is_internal(CONTROL) and not files.is_internal(TRASH) and not files.is_internal(5)
    with pytest.raises(FsError):
        files.node(CONTROL + 100)


async def test_prefix_and_hide(mounted: Mounted) -> None:
    files = Mounted(mounted.client, prefix=True, metrics=mounted.files.metrics).files
    assert files.find(ROOT, b".stats") is None and files.find(9, b".jfs.control") is not None
    assert [name for name, _ in files.entries()] == [b".jfs.accesslog", b".jfs.config", b".jfs.stats"]
    hidden = Mounted(mounted.client, hide=True, metrics=mounted.files.metrics).files
    assert not list(hidden.entries()) and hidden.find(ROOT, b".stats") is not None


async def test_who_may_open_what(mounted: Mounted) -> None:
    opened = mounted.files.open
    for ino, flags, caller in (
        (STATS, os.O_WRONLY, ADMIN), (CONFIG, os.O_RDWR, ADMIN), (CONFIG, os.O_RDONLY, USER),
        (ACCESS_LOG, os.O_RDONLY, USER),
    ):  # fmt: skip
        with pytest.raises(FsError) as refused:
            opened(ino, flags, caller)
        assert refused.value.errno == errno.EACCES
    for ino, flags in ((STATS, os.O_RDONLY), (CONTROL, os.O_RDWR)):
        await opened(ino, flags, USER).release()


async def test_a_control_file_of_an_earlier_process_has_nobodys_rights(mounted: Mounted) -> None:
    handle = mounted.files.open(CONTROL, os.O_RDWR, ROOT_CALLER)
    with pytest.raises(FsError) as refused:
        await handle.write(0, p.encode(p.Info(ROOT)))
    assert refused.value.errno == errno.EACCES
    assert await handle.write(0, p.encode(p.Info(ROOT)), USER)
    await handle.release()


async def test_config_tells_the_setting_without_secrets(mounted: Mounted) -> None:
    mounted.files.options = {"cache_size": 5, "secret_key": "s3cr3t-s3cr3t", "attr_cache": 1.0, "log": "x"}
    document = json.loads(await read_all(mounted.files.open(CONFIG, os.O_RDONLY, ADMIN)))
    assert document["Format"]["Name"] == "suite" and document["Chunk"]["CacheSize"] == 5
    assert document["AttrTimeout"] == 1.0 and document["Pid"] == os.getpid()
    assert "s3cr3t" not in json.dumps(document)


async def test_stats_count_what_happened(mounted: Mounted) -> None:
    ino = await mounted.write(ROOT, b"f", b"x" * (BLOCK + 5))
    handle = await mounted.client.vfs.open(ino)
    assert len(await handle.read(0, BLOCK + 5)) == BLOCK + 5
    await handle.release()
    mounted.files.metrics.fuse("read", 0.001, 0, 4096)
    text = (await read_all(mounted.files.open(STATS, os.O_RDONLY, USER))).decode()
    values = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines())}
    assert list(values) == sorted(values)
    assert values["juicefs_object_request_durations_histogram_seconds_PUT_total"] == 2
    assert values["juicefs_object_request_data_bytes_PUT"] == BLOCK + 5
    assert values["juicefs_meta_ops_total_mknod"] == 1
    assert values["juicefs_transaction_durations_histogram_seconds_total"] >= 2
    assert values["juicefs_fuse_ops_durations_histogram_seconds_total"] == 1
    assert values["juicefs_fuse_read_size_bytes_sum"] == 4096
    assert values["juicefs_memory"] > 1 << 20 and values["juicefs_used_inodes"] == 1
    assert values["juicefs_blockcache_writes"] > 0


async def test_prometheus_gets_the_same_names(mounted: Mounted) -> None:
    await mounted.write(ROOT, b"f", b"x")
    mounted.files.metrics.fuse("lookup", 0.001, errno.ENOENT, 0)
    registry = CollectorRegistry()
    registry.register(mounted.files.metrics)
    text = generate_latest(registry).decode()
    for line in (
        'juicefs_fuse_ops_total{method="lookup"} 1.0', 'juicefs_fuse_ops_io_errors_total{errno="ENOENT"} 1.0',
        'juicefs_object_request_durations_histogram_seconds_count{method="PUT"} 1.0',
        'juicefs_fuse_ops_durations_histogram_seconds_bucket{le="+Inf"} 1.0',
    ):  # fmt: skip
        assert line in text


# -- commands ----------------------------------------------------------------------------------------------------------


async def test_remove_tree(mounted: Mounted) -> None:
    told: list[tuple[int, bytes]] = []
    mounted.files.control.name_changed = lambda parent, name: told.append((parent, name))
    top, _ = await mounted.meta.mkdir(ROOT, b"d", 0o755)
    for number in range(10):
        await mounted.write(top, b"%d" % number, b"x")
    assert await mounted.ask(p.RemoveTree(ROOT, b"d"), USER) == errno.EACCES
    assert await mounted.ask(p.RemoveTree(ROOT, b"d")) == 0
    assert mounted.progress[-1] == (11, 0) and told[-1] == (ROOT, b"d")
    assert await mounted.ask(p.RemoveTree(ROOT, b"d")) == errno.ENOENT
    assert await mounted.ask(p.RemoveTree(ROOT, b"x", True), USER) == errno.EPERM
    for name in (b"..", b".", b"a/b"):
        assert await mounted.ask(p.RemoveTree(ROOT, name)) == errno.EINVAL
        assert await mounted.ask(p.CloneTree(ROOT, ROOT, ROOT, name)) == errno.EINVAL


async def test_info_of_a_file_with_unflushed_bytes(mounted: Mounted) -> None:
    handle = await mounted.client.vfs.create(ROOT, b"f")
    await handle.write(0, b"x" * (BLOCK + 100))
    found = await mounted.ask(p.Info(handle.ino))
    assert not found["Failed"] and found["Paths"] == ["/f"]
    assert found["Summary"] == {"Length": BLOCK + 100, "Size": -(-(BLOCK + 100) // 4096) * 4096, "Files": 1, "Dirs": 0}
    assert sum(o["Len"] for o in found["Objects"]) == BLOCK + 100
    assert all(o["Key"].startswith("suite/chunks/") for o in found["Objects"])
    await mounted.meta.flock(handle.ino, 77, "W")
    found = await mounted.ask(p.Info(handle.ino, raw=True))
    assert found["FLocks"] == [{"Sid": mounted.meta.sid, "Owner": 77, "Type": "W"}]
    assert found["Chunks"][0]["Len"] == BLOCK + 100 and not found["Objects"]
    await handle.release()
    missing = await mounted.ask(p.Info(4711))
    assert missing["Failed"] and "4711" in missing["Reason"]


async def test_info_in_the_form_of_old_clients(mounted: Mounted) -> None:
    ino = await mounted.write(ROOT, b"f", b"12345")
    handle = mounted.files.open(CONTROL, os.O_RDWR, ADMIN)
    await handle.write(0, p.encode(p.Info(ino), legacy=True))
    (event,) = p.ReplyParser(legacy=True).receive(bytes(await handle.read(0, 1 << 16)))
    assert isinstance(event, p.Data) and f"inode: {ino}".encode() in event.data and b"/f" in event.data
    await handle.release()


async def test_clone_and_summary(mounted: Mounted) -> None:
    top, _ = await mounted.meta.mkdir(ROOT, b"d", 0o777)
    for number in range(3):
        await mounted.write(top, b"%d" % number, b"x" * 5000)
    assert await mounted.ask(p.CloneTree(top, ROOT, ROOT, b"c", 0o22, 0)) == 0
    assert mounted.progress[-1] == (4, 4)
    assert await mounted.ask(p.CloneTree(top, ROOT, ROOT, b"c")) == errno.EEXIST
    found = (await mounted.ask(p.TreeSum(ROOT, 2, 2)))["Tree"]
    assert (found["Path"], found["Files"], found["Dirs"]) == ("/", 6, 3)
    assert [child["Path"] for child in found["Children"]] == ["c", "d"]
    assert [child["Path"] for child in found["Children"][0]["Children"]] == ["c/0", "c/1", "c/..."]
    assert (await mounted.ask(p.TreeSum(4711)))["Errno"] == errno.ENOENT


async def test_compact(mounted: Mounted) -> None:
    handle = await mounted.client.vfs.create(ROOT, b"f")
    for number in range(3):
        await handle.write(number * 100, b"x" * 100)
        await handle.flush()
    await handle.release()
    assert await mounted.ask(p.Compact(ROOT)) == 0
    assert mounted.progress[-1] == (1, 1)
    assert len(await mounted.meta.read_chunk(handle.ino, 0)) == 1
    await mounted.meta.setattr(handle.ino, {"mode": 0o600})
    assert await mounted.ask(p.Compact(handle.ino), USER) == errno.EACCES


async def test_warm_up_check_and_evict(mounted: Mounted, objects: FaultyStore) -> None:
    top, _ = await mounted.meta.mkdir(ROOT, b"d", 0o755)
    for number in range(3):
        await mounted.write(top, b"%d" % number, bytes([number]) * (3 * BLOCK))
    await mounted.meta.symlink(ROOT, b"link", b"d/0")
    total = 9 * BLOCK
    checked = await mounted.ask(p.WarmUp((b"/d",), action=p.CHECK))
    assert (checked["FileCount"], checked["SliceCount"], checked["TotalBytes"]) == (3, 3, total)
    assert checked["MissBytes"] == total
    assert (await mounted.ask(p.WarmUp((b"link",))))["MissBytes"] == 3 * BLOCK
    assert (await mounted.ask(p.WarmUp((b"/d", b"inode:%d" % top), threads=2)))["MissBytes"] == 6 * BLOCK
    checked = await mounted.ask(p.WarmUp((b"d/../d/.",), action=p.CHECK))
    assert checked["MissBytes"] == 0 and sum(checked["Locations"].values()) == total
    assert next(iter(checked["Locations"])).endswith("/cache")
    await mounted.ask(p.WarmUp((b"/d/0",), action=p.EVICT))
    assert (await mounted.ask(p.WarmUp((b"/",), action=p.CHECK)))["MissBytes"] == 3 * BLOCK
    assert await mounted.ask(p.WarmUp((b"/none",))) == errno.ENOENT
    assert (await mounted.ask(p.WarmUp((b"/d",), background=True)))["FileCount"] == 0
    await mounted.client.idle()
    assert (await mounted.ask(p.WarmUp((b"/",), action=p.CHECK)))["MissBytes"] == 0


async def test_blocks_that_can_not_be_fetched_are_told(mounted: Mounted, objects: FaultyStore) -> None:
    await mounted.write(ROOT, b"f", b"x" * BLOCK * 2)
    objects.fail["get"] = lambda number: ObjectError("the store is away", retryable=False) if number == 1 else None
    found = await mounted.ask(p.WarmUp((b"/",), threads=1))
    assert found["MissBytes"] == 2 * BLOCK and found["Failed"] == BLOCK
    assert "the store is away" in found["Errors"][0]


async def test_without_a_cache_there_is_nothing_to_warm_up(objects: FaultyStore) -> None:
    client = await make_client(await new_volume(), objects)
    assert await Mounted(client).ask(p.WarmUp((b"/",))) == errno.ENOTSUP
    await client.close()


async def test_a_sub_directory_mount_reaches_nothing_outside(mounted: Mounted) -> None:
    inside, _ = await mounted.meta.mkdir(ROOT, b"in", 0o777)
    deep, _ = await mounted.meta.mkdir(inside, b"deep", 0o777)
    file = await mounted.write(deep, b"f", b"x")
    outside = await mounted.write(ROOT, b"secret", b"x")
    view = Mounted(mounted.client, root=inside, metrics=mounted.files.metrics)
    assert (await view.ask(p.Info(ROOT)))["Paths"] == ["/"]
    assert (await view.ask(p.Info(file)))["Paths"] == ["/deep/f"]
    assert (await view.ask(p.Info(outside)))["Failed"]
    assert await view.ask(p.WarmUp((b"inode:%d" % outside,))) == errno.ENOENT
    assert await view.ask(p.CloneTree(outside, ROOT, ROOT, b"stolen")) == errno.ENOENT
    assert await view.ask(p.RemoveTree(deep, b"f")) == 0
    assert await view.ask(p.Compact(CONTROL)) == errno.EINVAL
