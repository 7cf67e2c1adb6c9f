# SPDX-License-Identifier: Apache-2.0
"""A file that isn't right is refused with all that is wrong in it, where it is, and before anything is written."""

from __future__ import annotations

import copy
import gzip
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import zstandard

from core.dump import backup_format as bf
from core.dump.files import Input
from core.dump.json_text import plain
from core.dump.loader import load, require_empty
from core.dump.reading import Reading
from core.errors import ConfigError, MetaError, VolumeError
from core.meta import keys as k
from core.meta.format import Format
from core.meta.meta import load_format
from core.meta.records import ROOT, TRASH
from core.meta.store import Capabilities, Outcome
from core.meta.stores.memory import MemoryStore
from tests.dump.support import backup_of, fill, json_of, read_in, reference

SETTING = {
    "Name": "small", "UUID": "5a0c0b0e-93f6-4b5e-a7d5-0a4f6c5d3e11", "Storage": "file", "Bucket": "/x/",
    "BlockSize": 4096, "TrashDays": 1, "MetaVersion": 1, "DirStats": True, "EnableACL": False,
}  # fmt: skip


def attr(ino: int, kind: str = "regular", **more: Any) -> dict[str, Any]:
    return {"inode": ino, "type": kind, "mode": 420, "uid": 0, "gid": 0, "atime": 1, "mtime": 2, "ctime": 3,
            "nlink": 1, "length": 10 if kind == "regular" else 0, **more}  # fmt: skip


def file(ino: int, **more: Any) -> dict[str, Any]:
    slices = [{"id": ino * 10, "size": 10, "len": 10}]
    return {"attr": attr(ino), "chunks": [{"index": 0, "slices": slices}], **more}


def folder(ino: int, entries: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"attr": attr(ino, "directory"), **more, "entries": entries or {}}


def volume() -> dict[str, Any]:
    return {
        "Setting": copy.deepcopy(SETTING),
        "Counters": {"usedSpace": 0, "usedInodes": 0, "nextInodes": 2000, "nextChunk": 3000, "nextSession": 4},
        "Sustained": [], "DelFiles": [],
        "FSTree": folder(1, {
            "a": folder(2, {"f": file(3), "g": file(4)}),
            "b": folder(5, {"deep": folder(6, {"f": file(7)})}),
            "l": {"attr": attr(8, "symlink"), "symlink": "a/f"},
        }),
        "Trash": folder(TRASH, {"2026-01-01-00": folder(TRASH + 1, {"2-9-old": file(9)})}),
    }  # fmt: skip


async def problems(document: Any, *, lossy: bool = False, store: Any = None) -> list[str]:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with Reading(store, lossy=lossy) as reading:
        await read_in(data, reading)
        assert reading.problems.error_count >= len(reading.problems.errors)
        return [str(problem) for problem in reading.problems.errors]


def change(path: str, value: Any) -> dict[str, Any]:
    """The small volume with one thing changed: keys separated by dots; None deletes."""
    document = volume()
    at: Any = document
    *way, last = path.split(".")
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is None:
        del at[last]
    elif isinstance(at, list):
        at[int(last)] = value
    else:
        at[last] = value
    return document


TREE = "FSTree.entries"
SLICE = f"{TREE}.a.entries.f.chunks.0.slices.0"


async def test_the_small_volume_is_fine() -> None:
    assert await problems(volume()) == []


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("Setting", None, "the file has no Setting"),
        ("Setting.Name", "", "Setting: the setting can't be used"),
        ("Setting.MetaVersion", 2, "metadata version 2, newer than"),
        ("Setting.MinClientVersion", "9.0", "admits clients of at least 9.0"),
        ("FSTree", None, "the file has no FSTree"),
        ("FSTree.attr.type", "regular", "/: something that is no directory has entries"),
        (f"{TREE}.a.entries.f.attr.type", "door", "/a/f: attr.type: Invalid enum value 'door'"),
        (f"{TREE}.a.entries.f.attr.inode", "3", "/a/f: attr.inode: Expected `int`, got `str`"),
        (f"{TREE}.a.entries.f.attr.inode", 0, "/a/f: attr.inode: Expected `int` >= 1"),
        (f"{TREE}.a.entries.f.attr.inode", 1, "/a/f: a reserved inode number: 1"),
        (f"{TREE}.a.entries.f.attr.inode", TRASH + 4, "/a/f: a reserved inode number"),
        (f"{TREE}.a.entries.f.attr.inode", 1 << 64, "/a/f: attr.inode: Expected `int` <="),
        (f"{TREE}.a.entries.f.attr.inode", 8, "/: inode 8 is of type 3 here and 1 elsewhere"),
        (f"{TREE}.a.entries.f.attr.mode", 0o10000, "/a/f: attr.mode: Expected `int` <= 4095"),
        (f"{TREE}.a.entries.f.attr.uid", -1, "/a/f: attr.uid"),
        (f"{TREE}.a.entries.f.attr.mtimensec", 10**9, "/a/f: attr.mtimensec"),
        (f"{TREE}.a.entries.f.attr.length", 1 << 57, "/a/f: attr.length"),
        (f"{TREE}.a.entries.f.attr.tier", 4, "/a/f: attr.tier"),
        (f"{TREE}.a.entries.f.attr", None, "/a/f: an entry without attr"),
        (f"{TREE}.a.entries.f.attr.mtime", None, "/a/f: attr: Object missing required field `mtime`"),
        (f"{TREE}.b.entries.deep.attr.inode", 2, "/b/deep: a directory that is already elsewhere"),
        (f"{TREE}.b.entries.deep.attr.inode", 5, "/b/deep: a directory that is already elsewhere"),
        (f"{TREE}.a.entries.%2F", file(77), "/a//: a name with a slash"),
        (f"{TREE}.a.entries.%00", file(77), "a name with a slash or a zero byte"),
        (f"{TREE}.a.entries.", file(77), "a name must have 1 to 255 bytes"),
        (f"{TREE}.a.entries." + "x" * 256, file(77), "a name must have 1 to 255 bytes, this one has 256"),
        (f"{TREE}.%2Etrash", file(77), "/.trash: the name .trash is reserved"),
        (f"{TREE}.l.symlink", None, "/l: the target of a symbolic link must have 1 to 4096 bytes"),
        (f"{TREE}.l.symlink", "x" * 4097, "/l: the target of a symbolic link must have 1 to 4096 bytes"),
        (f"{TREE}.l.chunks", [{"index": 0, "slices": [{"id": 1, "size": 1, "len": 1}]}], "/l: something that is no"),
        (f"{SLICE}.len", 11, "/a/f: chunk 0: a slice that uses more than it has"),
        (f"{SLICE}.pos", 1 << 26, "/a/f: chunk 0: a slice that reaches beyond its chunk"),
        (f"{SLICE}.size", "x", "/a/f: chunks[0].slices[0].size: Expected `int`"),
        (f"{SLICE}.id", 40, None),  # shared with g: the same size, so it is fine
        (f"{TREE}.a.entries.f.chunks.0.index", 1 << 31, "/a/f: chunks[0].index"),
        (f"{TREE}.a.entries.f.xattrs", [{"name": "", "value": ""}], "/a/f: the name of an extended attribute"),
        (f"{TREE}.a.entries.f.xattrs", [{"name": "n", "value": "x" * 65537}], "/a/f: an extended attribute has more"),
        (f"{TREE}.a.entries.f.entries", {"x": file(78)}, "/a/f: something that is no directory has entries"),
        (f"{TREE}.a.entries.f", 5, "'5' instead of '{'"),
        ("Trash.attr.inode", 99, "/.trash: the trash has inode 99"),
        ("Trash.entries.file", file(99), "/.trash/file: the trash holds something else"),
        ("DelFiles", [{"inode": 0, "length": 1}], "DelFiles: inode"),
        ("Quotas", {"x": {"maxSpace": 1}}, "Quotas x: is no number"),
        ("Quotas", {"2": {"maxSpace": "1"}}, "Quotas 2: maxSpace"),
    ],
)  # fmt: skip
async def test_every_kind_of_damage_is_named_with_its_place(path: str, value: Any, words: str | None) -> None:
    found = await problems(change(path, value))
    if words is None:
        assert found == []
    else:
        assert any(words in text for text in found), found


async def test_all_problems_are_told_at_once_and_the_list_is_bounded() -> None:
    document = volume()
    for n in range(3000):
        document["FSTree"]["entries"]["a"]["entries"][f"bad{n}"] = file(1000 + n, attr=attr(1000 + n, mode=-1))
    document["Setting"]["MetaVersion"] = 7
    with Reading() as reading:
        await read_in(json.dumps(document).encode(), reading)
        assert reading.problems.error_count == 3001
        assert len(reading.problems.errors) < 1200
        assert any("MetaVersion" in str(p) or "version 7" in str(p) for p in reading.problems.errors)


async def test_repeated_names_and_chunks_and_sizes_are_errors() -> None:
    text = json.dumps(volume())
    twice = text.replace('"g": {"attr"', '"f": {"attr"', 1)
    assert any("/a: a name in a directory that was there before" in t for t in await problems(twice.encode()))
    document = volume()
    f = document["FSTree"]["entries"]["a"]["entries"]["f"]
    f["chunks"] *= 2
    assert any("a chunk of a file that was there before" in t for t in await problems(document))
    f["chunks"] = [{"index": 0, "slices": [{"id": 40, "size": 77, "len": 1}]}]
    assert any("used with different sizes: 40: 10, 77" in t for t in await problems(document))


@pytest.mark.parametrize(
    "text, words",
    [
        (b"{", "cut short"),
        (b'{"Setting": {"Name": "x"', "cut short"),
        (b'{"Setting": nonsense}', "Expecting value at character 12"),
        (b'{"FSTree": {"attr": {"inode": 1, "type": "directory"}, "entries": {"a\xff": 1}}}', "no UTF-8"),
        (b"[1, 2, 3]", "instead of '{'"),
        (b"not a dump at all", "instead of '{'"),
        (b"{}", "the file has no Setting"),
        (b'{"Setting": null, "FSTree": null}', "the setting can't be used"),
        (b'{"FSTree": {"entries": {}, "attr": {"inode": 1, "type": "directory"}}}', "entries stand before attr"),
        (b"{} trailing", "something follows"),
        (b'{"Setting": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
async def test_text_that_is_no_dump(text: bytes, words: str) -> None:
    found = await problems(text)
    assert any(words in line for line in found), found


async def test_an_empty_file_points_at_the_other_end_of_the_pipe() -> None:
    with pytest.raises(ConfigError, match="empty"):
        await problems(b"")


async def test_any_layout_and_order_of_fields_is_read() -> None:
    plain = json.dumps(volume(), separators=(",", ":")).encode()
    wide = json.dumps(volume(), indent=7).replace('"entries"', '\n\t "entries"').encode()
    swapped = volume()
    for entry in (swapped["FSTree"], swapped["FSTree"]["entries"]["a"]):
        entry["chunks"] = []
        entry["posix_acl_access"] = None  # behind the entries
    swapped = dict(reversed(swapped.items()))
    files = swapped["FSTree"]["entries"]["a"]["entries"]
    files["f"] = dict(reversed(files["f"].items()))
    loaded = []
    for data in (plain, wide, json.dumps(swapped).encode()):
        store = MemoryStore()
        await fill(store, data)
        loaded.append(await json_of(store))
    assert loaded[0] == loaded[1] == loaded[2]


async def test_what_a_load_rebuilds() -> None:
    document = volume()
    tree = document["FSTree"]["entries"]
    tree["b"]["entries"]["hard"] = file(3)
    tree["a"]["entries"]["again"] = file(3)
    tree["b"]["entries"]["copy"] = {
        **file(10),
        "chunks": [{"index": 0, "slices": [{"chunkid": 30, "size": 10, "len": 10}]}],
    }
    document["Quotas"] = {"5": {"maxSpace": 1 << 30, "maxInodes": -1}, "999": {"maxSpace": 1, "maxInodes": 1}}
    document["DelFiles"] = [{"inode": 50, "length": 7, "expire": 99}, {"inode": 3, "length": 10, "expire": 99}]
    document["Counters"]["nextInodes"] = 5  # lower than what is there
    store = MemoryStore()
    await fill(store, json.dumps(document).encode())
    a, b, f = await store.read(k.node(2), k.node(5), k.node(3))
    assert (a.nlink, b.nlink, b.parent) == (2, 3, ROOT)
    assert (f.nlink, f.parent) == (3, 0)
    parents, refs, stat, quota, gone = await store.read(
        k.parents(3), k.sliceref(30, 10), k.dirstat(5), k.quota(0, 5), k.quota(0, 999)
    )
    assert parents == {2: 2, 5: 1} and refs == 2
    assert stat == (20, 3 * 4096, 3)
    assert quota == (1 << 30, -1, 4 * 4096, 4)
    assert gone is None
    assert [key[1] async for key, _ in store.scan(k.DELFILE)] == [50]
    counters = await store.read(*map(k.counter, ("usedSpace", "totalInodes", "nextInode", "nextChunk", "nextTrash")))
    assert counters == [11 * 4096 - 4096, 10, 11, 3000, 2]
    assert await store.read(k.counter("nextSession")) == [5]


async def test_deleted_files_are_written_one_by_one_in_the_originals_layout() -> None:
    document = volume()
    document["DelFiles"] = [{"inode": 50 + n, "length": n, "expire": 99} for n in range(3)]
    store = MemoryStore()
    await fill(store, json.dumps(document).encode())
    found = (await json_of(store)).decode()
    assert f'  "DelFiles": {plain(document["DelFiles"])},\n' in found
    again = MemoryStore()
    await fill(again, found.encode())
    assert await json_of(again) == found.encode()


async def test_a_part_of_a_volume_loads_with_its_top_as_root() -> None:
    document = volume()
    part = {**document, "FSTree": document["FSTree"]["entries"]["b"], "Quotas": {"5": {"maxSpace": 9, "maxInodes": 9}}}
    del part["Trash"]
    store = MemoryStore()
    await fill(store, json.dumps(part).encode())
    found = json.loads(await json_of(store))
    assert found["FSTree"]["attr"]["inode"] == 1 and list(found["FSTree"]["entries"]) == ["deep"]
    deep, quota, trash = await store.read(k.node(6), k.quota(0, 1), k.node(TRASH))
    assert deep.parent == ROOT and quota == (9, 9, 8192, 2)
    assert trash is not None and trash.mode == 0o555  # the setting keeps a trash


async def test_a_directory_met_twice_can_be_left_out_on_demand() -> None:
    document = change(f"{TREE}.b.entries.deep.attr.inode", 2)
    assert "--lossy" in (await problems(document))[0]
    store = MemoryStore()
    await fill(store, json.dumps(document).encode(), lossy=True)
    found = json.loads(await json_of(store))
    assert list(found["FSTree"]["entries"]["b"]["entries"]) == []
    assert (await store.read(k.node(7)))[0] is None


class Poor(MemoryStore):
    caps = Capabilities(empty_xattr=False, max_id=0x7FFFFFFF, text_xattr_names=True, max_xattr=100)


@pytest.mark.parametrize("form", ["json", "binary"])
async def test_what_a_database_cannot_hold_is_named_and_left_out_only_on_demand(form: str) -> None:
    document = change(f"{TREE}.a.entries.f.attr.uid", 0xFFFFFFFE)
    document["FSTree"]["entries"]["a"]["entries"]["g"]["xattrs"] = [
        {"name": "user.empty", "value": ""}, {"name": "user.long", "value": "x" * 101},
        {"name": "user.\udcff", "value": "v"}, {"name": "user.fine", "value": "v"},
    ]  # fmt: skip
    data = json.dumps(document).encode()
    if form == "binary":
        rich = MemoryStore()
        await fill(rich, data)
        data = await backup_of(rich)
    poor = Poor()
    found = await problems(data, store=poor)
    assert len(found) == 4 and all("memory can't hold" in text and "--lossy" in text for text in found)
    assert all(text.startswith("/a/" if form == "json" else "inode ") for text in found)
    await fill(poor, data, lossy=True)
    (f,), (xattrs,) = await poor.read(k.node(3)), await poor.read(k.xattrs(4))
    assert f.uid == 0x7FFFFFFF and list(xattrs) == [b"user.fine"]
    rich = MemoryStore()
    await fill(rich, data)
    assert sorted((await rich.read(k.xattrs(4)))[0]) == [b"user.empty", b"user.fine", b"user.long", b"user.\xff"]


# -- databases that aren't empty, loads that stop ---------------------------------------------------------------------


async def test_a_database_that_holds_something_is_refused() -> None:
    store = MemoryStore()
    await fill(store, json.dumps(volume()).encode())
    with pytest.raises(VolumeError, match="holds a volume already"):
        await require_empty(store, "here", restart=True)
    from core.meta.store import DELETE

    await store.commit([], [(DELETE, k.setting(), None)])
    with pytest.raises(VolumeError, match="isn't empty"):
        await require_empty(store, "here")


class Failing(MemoryStore):
    """A database that goes away after some commits."""

    left = 3

    async def commit(self, checks: Any, writes: Any) -> Outcome:
        self.left -= 1
        if self.left < 0:
            raise MetaError("the server is gone")
        return await super().commit(checks, writes)


@pytest.mark.parametrize("commits", range(6))
async def test_a_load_that_stops_is_no_volume_and_can_be_begun_again(commits: int) -> None:
    store = Failing()
    store.caps = Capabilities(max_writes=10)
    store.left = commits
    data = json.dumps(volume()).encode()
    with pytest.raises(MetaError, match="the server is gone"):
        await fill(store, data, threads=1)
    store.left = 1000
    if commits:
        with pytest.raises(VolumeError):
            fmt = await load_format(store)
            assert isinstance(fmt, Format)
            fmt.check_client()
        with pytest.raises(VolumeError, match="--restart"):
            await require_empty(store, "here")
    await require_empty(store, "here", restart=True)
    await fill(store, data)
    assert json.loads(await json_of(store))["FSTree"]["entries"].keys() == {"a", "b", "l"}


async def test_two_loads_at_the_same_time_do_not_mix() -> None:
    store = MemoryStore()
    with Reading(store) as one, Reading(store) as other:
        for reading in (one, other):
            await read_in(json.dumps(volume()).encode(), reading)
        await load(store, one)
        with pytest.raises(VolumeError, match="at the same time"):
            await load(store, other)


async def test_commits_stay_within_the_limit_of_the_store() -> None:
    class Small(MemoryStore):
        caps = Capabilities(max_writes=16)

        async def commit(self, checks: Any, writes: Any) -> Outcome:
            assert len(checks) + len(writes) <= 16
            return await super().commit(checks, writes)

    await fill(Small(), json.dumps(volume()).encode())


# -- binary -----------------------------------------------------------------------------------------------------------


async def small_backup() -> bytes:
    store = MemoryStore()
    await fill(store, json.dumps(volume()).encode())
    return await backup_of(store)


def rebuilt(data: bytes, change: Any) -> bytes:
    """The same backup with one of its batches changed, and a footer that is right."""
    parts, at = [], 0
    while data[at : at + 4] != bf.MARK.pack(bf.MAGIC):
        kind, size = bf.HEAD.unpack_from(data, at)
        payload = data[at + 12 : at + 12 + size]
        if kind > 1:
            batch = bf.Batch.FromString(payload)
            change(bf.SEGMENTS[kind][0], batch)
            payload = batch.SerializeToString()
        parts.append((bf.SEGMENTS[kind][0], bf.HEAD.pack(kind, len(payload)) + payload))
        at += 12 + size
    footer, out = bf.Footer(magic=bf.MAGIC, version=bf.VERSION), b""
    for name, segment in parts:
        info = footer.infos.add(key=name.encode())
        info.value.offset.append(len(out))
        batch = bf.Batch.FromString(segment[12:]) if name != "format" else None
        info.value.num = 1 if batch is None else sum(len(found) for _, found in batch.ListFields())
        out += segment
    raw = footer.SerializeToString()
    return out + bf.MARK.pack(bf.MAGIC) + raw + struct.pack(">Q", len(raw))


async def test_a_rebuilt_backup_is_the_same() -> None:
    data = await small_backup()
    assert await problems(rebuilt(data, lambda name, batch: None)) == []


@pytest.mark.parametrize("cut", [3, 11, 12, 13, 100, 500, -1, -7, -8, -9, -40])
async def test_a_backup_that_is_cut_is_refused(cut: int) -> None:
    data = await small_backup()
    assert await problems(data[:cut]), cut


async def test_a_footer_that_does_not_fit_is_refused() -> None:
    data = await small_backup()
    (length,) = struct.unpack(">Q", data[-8:])
    start = len(data) - 8 - length
    for edit, words in (
        (lambda f: setattr(f, "version", 2), "upgrade"),
        (lambda f: setattr(f, "magic", 1), "not the mark"),
        (lambda f: setattr(f.infos[2].value, "num", 3), "counts 3 records"),
        (lambda f: f.infos[2].value.offset.append(9), "elsewhere"),
        (lambda f: f.infos.pop(), "says nothing about"),
    ):
        footer = bf.Footer.FromString(data[start:-8])
        edit(footer)
        raw = footer.SerializeToString()
        found = await problems(data[:start] + raw + struct.pack(">Q", len(raw)))
        assert any(words in text for text in found), (words, found)


@pytest.mark.parametrize(
    "kind, values, words",
    [
        ("nodes", {"inode": 0, "data": bytes(72)}, "an impossible number"),
        ("nodes", {"inode": 77, "data": bytes(10)}, "its record is damaged"),
        ("nodes", {"inode": 1 << 63, "data": bytes(72)}, "an impossible number"),
        ("nodes", {"inode": 3, "data": b"\0\x11" + bytes(70)}, "an inode number that was there before"),
        ("edges", {"parent": 2, "inode": 3, "name": b"a/b", "type": 1}, "a name with a slash"),
        ("edges", {"parent": 2, "inode": 3, "name": b"q", "type": 9}, "an impossible entry"),
        ("edges", {"parent": 2, "inode": 3, "name": b"q", "type": 2}, "/a/q: the entry says type 2, its inode 1"),
        ("edges", {"parent": 2, "inode": 4, "name": b"f", "type": 1}, "a name in a directory that was there before"),
        ("chunks", {"inode": 3, "index": 1, "slices": bytes(23)}, "no multiple of 24"),
        ("chunks", {"inode": 3, "index": 1, "slices": b"\xff" * 24}, "reaches beyond its chunk"),
        ("xattrs", {"inode": 3, "name": b"", "value": b""}, "an extended attribute that can't be"),
        ("symlinks", {"inode": 3, "target": b""}, "the target of a symbolic link"),
        ("acls", {"id": 1, "data": b"short"}, "ACL record"),
        ("sliceRefs", {"id": 0, "size": 1, "refs": 2}, "an impossible id"),
        ("quotas", {"key": 1 << 63}, "an impossible number"),
    ],
)
async def test_every_record_of_a_backup_is_checked(kind: str, values: dict[str, Any], words: str) -> None:
    segment = {"nodes": "node", "edges": "edge", "chunks": "chunk", "xattrs": "xattr", "symlinks": "symlink",
               "acls": "acl", "sliceRefs": "sliceRef", "quotas": "quota"}[kind]  # fmt: skip

    def add(name: str, batch: Any) -> None:
        if name == segment:
            getattr(batch, kind).add(**values)

    found = await problems(rebuilt(await small_backup(), add))
    assert any(words in text for text in found), found


async def test_a_backup_of_a_busy_volume_loads_without_what_vanished() -> None:
    def edit(name: str, batch: Any) -> None:
        if name == "edge":
            batch.edges.add(parent=2, inode=500, name=b"vanished", type=1)
        elif name == "sliceRef":
            batch.sliceRefs.add(id=30, size=10, refs=3)
        elif name == "node":
            batch.nodes.add(inode=600, data=batch.nodes[0].data[:1] + b"\x11\xa4" + batch.nodes[0].data[3:])

    store = MemoryStore()
    data = rebuilt(await small_backup(), edit)
    with Reading(store) as reading:
        await read_in(data, reading)
        notes = [str(note) for note in reading.problems.notes]
        assert "/a/vanished: an entry without an inode; it is left out" in notes
        assert any(note.startswith("inode 600: an inode that is in no directory") for note in notes)
        assert reading.problems.errors == []
        await load(store, reading)
    entry, refs, next_inode = await store.read(k.entry(2, b"vanished"), k.sliceref(30, 10), k.counter("nextInode"))
    assert entry is None and refs == 3 and next_inode == 2000


async def test_counts_that_are_too_low_are_raised() -> None:
    def edit(name: str, batch: Any) -> None:
        if name == "chunk":
            batch.chunks.add(inode=4, index=1, slices=batch.chunks[0].slices)

    data = rebuilt(await small_backup(), edit)
    store = MemoryStore()
    await fill(store, data)
    counts = {key[1:]: n async for key, n in store.scan(k.SLICEREF)}
    assert sorted(counts.values())[-1] == 2


# -- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "binary"])
async def test_random_damage_is_found_or_harmless(form: str, tmp_path: Path) -> None:
    """Whatever the bytes are: problems or a volume that can be dumped, never a surprise."""
    text, backup = reference("sqlite-doors", tmp_path)
    data = text if form == "json" else backup
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 5))):
            at = dice.randrange(len(damaged))
            kind = dice.randrange(4)
            if kind == 0:
                damaged[at] = dice.randrange(256)
            elif kind == 1:
                del damaged[at : at + dice.randrange(1, 40)]
            elif kind == 2:
                damaged[at:at] = damaged[at : at + dice.randrange(1, 200)]
            else:
                damaged[at] ^= 1 << dice.randrange(8)
        store = MemoryStore()
        with Reading(store) as reading:
            try:
                await read_in(bytes(damaged), reading)
            except ConfigError:
                refused += 1
                continue
            if reading.problems.error_count:
                refused += 1
                continue
            await load(store, reading)
        await json_of(store)
    assert refused > 20


def test_files_are_decompressed_by_what_they_are(tmp_path: Path) -> None:
    data = b"{" + b"x" * 3_000_000
    for name, raw in (
        ("plain", data), ("gz", gzip.compress(data)), ("zstd", zstandard.compress(data)), ("tiny", b"{"),
        ("frames", zstandard.compress(data[:999]) + zstandard.compress(data[999:])),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(raw)
        with Input(str(tmp_path / name)) as source:
            found = b"".join(iter(lambda: source.read(100_000), b""))
        assert found == (data if name != "tiny" else b"{"), name
    (tmp_path / "cut").write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(ConfigError, match="cut short"), Input(str(tmp_path / "cut")) as source:
        while source.read(100_000):
            pass
    with pytest.raises(ConfigError, match="can't be read"):
        Input(str(tmp_path / "missing"))
