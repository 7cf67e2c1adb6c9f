# SPDX-License-Identifier: Apache-2.0
"""Automatic backups: now and then one client writes a JSON dump into the volume's object store and thins out old ones.

Which client, and when, is decided by the extended attribute `lastBackup` of the root, which all clients see, JuiceFS's
too; it is claimed in a transaction, so two clients never make the same one. Secrets stay out, but for the (encrypted)
data key. Source: spec metadata-semantics §15.4; cli §12.
"""

from __future__ import annotations

import asyncio
import calendar
import logging
import mmap
import os
import re
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from core.dump.files import Output
from core.dump.json_writer import dump_json
from core.errors import FsError, SluiceError
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.records import ROOT
from core.meta.store import Tx
from core.object.api import ObjectStore

log = logging.getLogger("sluice.backup")

XATTR: Final = b"lastBackup"
PREFIX: Final = "meta/"
MIN_INTERVAL_S: Final = 300
HOUR_S: Final = 3600
#: Volumes with more inodes are backed up only by those who ask for it with an interval above one hour.
MANY_INODES: Final = 1_000_000

_NAME = re.compile(r"dump-(\d{4}-\d\d-\d\d-\d{6})\.json\.gz", re.ASCII)
_DAY: Final = 86400
#: A page of the walk is work without a pause; a client that serves files takes small ones.
_PAGE: Final = 100


async def autobackup(meta: Meta, objects: ObjectStore, interval_s: float) -> str | None:
    """One look at the clock: makes a backup if the last one is `interval_s` ago; the object's key, or None.

    To be called every `interval_s / 10`. An interval of 0 is "off", one below five minutes counts as five. After a
    MetaError or ObjectError there is no new object, and the next try waits for the next interval.
    """
    if interval_s <= 0 or meta.read_only:
        return None
    interval_s = max(interval_s, MIN_INTERVAL_S)
    now_ns = meta.clock_ns()
    if not await _claim(meta, interval_s, now_ns):
        return None
    key = PREFIX + backup_name(now_ns)
    began = time.monotonic()
    size = await _write(meta, objects, key)
    log.info("metadata is backed up as %s: %d bytes in %.1f s", key, size, time.monotonic() - began)
    await rotate(objects, now_ns)
    return key


async def run(meta: Meta, objects: ObjectStore, interval_s: float) -> None:
    """Look at the clock again and again, until cancelled; failures are told and tried again after an interval."""
    if interval_s <= 0:
        return
    pause_s = max(interval_s, MIN_INTERVAL_S) / 10
    while True:
        await asyncio.sleep(pause_s)
        try:
            await autobackup(meta, objects, interval_s)
        except (SluiceError, FsError) as e:
            log.warning("the automatic backup of metadata failed, the next one is due in %.0f s: %s", interval_s, e)


async def _claim(meta: Meta, interval_s: float, now_ns: int) -> bool:
    """Is a backup due, and ours to make? Then nobody else will think so."""

    async def body(tx: Tx) -> bool:
        last, inodes = await tx.peek(k.xattr(ROOT, XATTR), k.counter("totalInodes"))
        last_s = None if last is None else parse_time(last)
        # A clock that is ahead of ours counts like one behind.
        if last_s is not None and abs(now_ns / 1e9 - last_s) < interval_s:
            return False
        if interval_s <= HOUR_S and inodes > MANY_INODES:
            log.warning(
                "the automatic backup is left out: the volume has %d inodes; set an interval above one hour to have"
                " it all the same",
                inodes,
            )
            return False
        tx.expect(k.xattr(ROOT, XATTR), last)
        value = time_text(now_ns)
        tx.put(k.xattr(ROOT, XATTR), value)
        meta.log_change(tx, "SETXATTR", ROOT, XATTR, value, 0)
        return True

    return await meta.store.transact(body)


async def _write(meta: Meta, objects: ObjectStore, key: str) -> int:
    """Through a temporary file: an object is written whole, and memory is for serving."""
    fd, path = tempfile.mkstemp(prefix="sluice-backup-", suffix=".json.gz")
    os.close(fd)
    try:
        async with Output(path) as out:
            await dump_json(meta.store, out, fmt=meta.format, page=_PAGE, threads=2)
        with open(path, "rb") as file:
            # Unmapped when the last reference goes, which a client library may hold for a while.
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        await objects.put(key, whole)
        return len(whole)
    finally:
        os.unlink(path)


async def rotate(objects: ObjectStore, now_ns: int) -> list[str]:
    """Delete backups that the retention no longer wants; returns their keys. Objects of other names are left alone."""
    names = [info.key.removeprefix(PREFIX) async for info in objects.list(PREFIX)]
    doomed = [PREFIX + name for name in expired(names, now_ns // 1_000_000_000)]
    for key in doomed:
        await objects.delete(key)
    return doomed


def backup_name(now_ns: int) -> str:
    return time.strftime("dump-%Y-%m-%d-%H%M%S.json.gz", time.gmtime(now_ns // 1_000_000_000))


def expired(names: Iterable[str], now_s: int) -> list[str]:
    """Which backups go: all of the last 2 days stay, then one per day up to 2 weeks, one per week up to 2 months, one
    per 30 days up to 2 years; what is older goes. Within a step the first one stays, and the next that is a whole step
    after the one kept: so what has been kept once is kept while it is in that step. Never the latest one."""
    dated = sorted((when, name) for name in names if (when := _when(name)) is not None)
    doomed = []
    kept_s = None
    for when, name in dated[:-1]:
        age = now_s - when
        if age <= 2 * _DAY:
            break
        if age > 730 * _DAY:
            doomed.append(name)
            continue
        step = _DAY if age <= 14 * _DAY else 7 * _DAY if age <= 60 * _DAY else 30 * _DAY
        if kept_s is not None and when // step == kept_s // step:
            doomed.append(name)
        else:
            kept_s = when
    return doomed


@lru_cache(maxsize=4096)
def _when(name: str) -> int | None:
    found = _NAME.fullmatch(name)
    if not found:
        return None
    try:
        return calendar.timegm(time.strptime(found[1], "%Y-%m-%d-%H%M%S"))
    except ValueError:
        return None


def time_text(now_ns: int) -> bytes:
    """RFC 3339, as the original writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ns // 1_000_000_000)).encode()


def parse_time(raw: bytes) -> float | None:
    """Seconds since the epoch; None for what is no time: then a backup is due. Fractions and zones are understood."""
    try:
        text = raw.decode("ascii").strip()
        fraction = re.sub(r"(\.\d{1,6})\d*", r"\1", text)
        found = datetime.fromisoformat(fraction.replace("Z", "+00:00"))
    except ValueError:
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return found.timestamp()
