# SPDX-License-Identifier: Apache-2.0
"""Golden volumes as sources, any engine as target, dumps as bytes."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.dump.binary_reader import BackupReader
from core.dump.binary_writer import BackupWriter
from core.dump.intake import take_in
from core.dump.json_writer import dump_json
from core.dump.loader import Loaded, load, require_empty
from core.dump.reading import Reading
from core.meta.meta import load_format
from core.meta.store import RecordStore
from core.volume import open_record_store
from tests.golden.volumes import GoldenVolume, golden, unpack


class Collect:
    """A sink in memory."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self._parts.append(bytes(data))

    @property
    def data(self) -> bytes:
        return b"".join(self._parts)


@contextmanager
def source(name: str, folder: Path) -> Iterator[GoldenVolume]:
    """A golden volume whose database runs; a skip that says why if this machine or these tests can't start it."""
    engine = name.split("-")[0]
    try:
        there = golden(name, folder)
        with there as volume:
            yield volume
        return
    except LookupError as e:
        reason = str(e)
    try:
        module = importlib.import_module(f"tests.golden.engine_{engine}")
    except ModuleNotFoundError:
        pytest.skip(reason)
    home = folder / name
    info = json.loads((home / "volume.json").read_text())
    with module.start(home, info) as url:
        yield GoldenVolume(name, home, info, url)


def reference(name: str, folder: Path) -> tuple[bytes, bytes]:
    """dump.json and backup.bin as JuiceFS 1.4.1 wrote them."""
    home = unpack(name, folder)
    return (home / "dump.json").read_bytes(), (home / "backup.bin").read_bytes()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RecordStore]:
    store = open_record_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def json_of(store: RecordStore, **options: Any) -> bytes:
    fmt = await load_format(store)
    assert fmt is not None
    sink = Collect()
    await dump_json(store, sink, fmt=fmt, **options)
    return sink.data


async def backup_of(store: RecordStore, **options: Any) -> bytes:
    fmt = await load_format(store)
    assert fmt is not None
    sink = Collect()
    await BackupWriter(store, sink, fmt, **options).write()
    return sink.data


async def read_in(data: bytes, reading: Reading) -> str:
    return await take_in(io.BytesIO(data), reading)


async def fill(store: RecordStore, data: bytes, *, lossy: bool = False, threads: int = 4) -> Loaded:
    """Load into an empty store; the file must be without errors."""
    await require_empty(store, "the test's database")
    await store.prepare()
    with Reading(store, lossy=lossy) as reading:
        await read_in(data, reading)
        assert reading.problems.errors == []
        return await load(store, reading, threads=threads)


async def records_of(backup: bytes) -> dict[str, list[Any]]:
    """A binary backup as sets of records, without what a load completes."""
    with Reading() as reading:
        reader = BackupReader(io.BytesIO(backup).read, reading)

        async def turn() -> None:
            return None

        await reader.read(turn)
        assert reading.problems.errors == []
        found = {
            table: sorted(reading.scratch.ledger.execute(f"SELECT * FROM {table}"), key=repr)
            for table in reading.scratch.rows
        }
        found["setting"] = [reading.fmt.to_json() if reading.fmt else b""]
        names = ("usedSpace", "totalInodes", "nextInode", "nextChunk", "nextSession", "nextTrash")
        found["stated"] = [(name, reading.stated.get(name, 0)) for name in names]
        return found
