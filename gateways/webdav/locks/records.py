# SPDX-License-Identifier: Apache-2.0
"""Where locks live on the volume: one empty file per lock below `/.sys/.webdav/locks`, described by an attribute.

The record is the JSON of spec §12.2. It is kept in the extended attribute `webdav-lock` instead of the file's bytes: a
lock is then one transaction without any object, and any number of them is read in two round trips. JuiceFS leaves
files below `/.sys` alone, whatever attributes they carry.
Changes of the set happen under the BSD lock of `/.sys/.webdav/lock`; the folder's mtime says that something changed.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from core.errors import FsError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import Attr
from core.vfs.api import Condition
from core.vfs.filesystem import Content, FileSystem, ImplicitDirs
from gateways.webdav.locks.table import TOKEN_SCHEME, Lock
from gateways.webdav.names import parse_names, quote_name

log = logging.getLogger("sluice.webdav.locks")

_FOLDER: Final = b"/.sys/.webdav/locks"
_MUTEX: Final = b"/.sys/.webdav/lock"
X_LOCK: Final = b"webdav-lock"
_EMPTY: Final = Content(0, {})
_PARENTS: Final = ImplicitDirs(mode=0o700)
_PAGE: Final = 5000
#: Longer than any change of the lock set takes; then something is wrong with the metadata engine.
_MUTEX_S: Final = 10

_encode = msgspec.json.Encoder().encode


def encode(lock: Lock) -> bytes:
    return _encode(
        {
            "v": 1,
            "token": lock.urn,
            "path": "/" + "/".join(map(quote_name, lock.path)),
            "depth": "infinity" if lock.infinite else "0",
            "scope": "exclusive" if lock.exclusive else "shared",
            "owner": lock.owner,
            "principal": lock.principal,
            "created": lock.created,
            "timeout": lock.timeout,
            "expires": lock.expires,
        }
    )


def decode(raw: bytes) -> Lock | None:
    """None for what isn't a lock of this version."""
    try:
        found: dict[str, Any] = msgspec.json.decode(raw)
        return Lock(
            token=str(found["token"]).removeprefix(TOKEN_SCHEME),
            path=parse_names(str(found["path"])),
            infinite=found["depth"] == "infinity",
            exclusive=found["scope"] != "shared",
            owner=str(found.get("owner", "")),
            principal=str(found.get("principal", "")),
            created=int(found["created"]),
            timeout=int(found["timeout"]),
            expires=int(found["expires"]),
        )
    except Exception as error:
        log.warning("a lock record can't be read and is ignored: %s", error)
        return None


class LockRecords:
    """The lock folder of one volume."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._folder = 0
        self._mutex = 0
        #: The folder's record, as `generation` has last seen it.
        self.seen: Attr | None = None
        self._own = asyncio.Lock()
        self._owners = itertools.count(1)

    async def generation(self) -> int:
        """Changes whenever a lock came or went (1 trip); 0 while there is no folder."""
        self.seen = None
        if self._folder:
            try:
                attr = await self._fs.meta.getattr(self._folder)
            except FsError as e:
                if e.errno != errno.ENOENT:
                    raise
                self._folder = 0
            else:
                if attr.in_trash:
                    return 0
                self.seen = attr
                return attr.mtime_ns
        try:
            found = await self._fs.lookup(_FOLDER, follow=False)
        except FsError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR):
                return 0
            raise
        self._folder = found.ino
        self.seen = found.attr
        return found.attr.mtime_ns

    @property
    def guard(self) -> tuple[Key, Attr] | None:
        """The record that proves, in the commit of a change, that no lock came or went since `generation` was asked.
        None while there is no folder."""
        return (k.node(self._folder), self.seen) if self.seen is not None else None

    async def prepare(self) -> None:
        """Make the folder, so that there is something to prove."""
        try:
            await self._fs.mkdir(_FOLDER, mode=0o700, parents=_PARENTS)
        except FsError as e:
            if e.errno != errno.EEXIST:
                raise

    async def names(self) -> dict[str, int]:
        """Token -> inode of every lock."""
        found: dict[str, int] = {}
        if not self._folder:
            return found
        after = b""
        while True:
            page = await self._fs.list_dir(self._folder, after, _PAGE, attrs=False)
            found.update((entry.name.decode("ascii", "replace"), entry.ino) for entry in page)
            if len(page) < _PAGE:
                return found
            after = page[-1].name

    async def load(self, inos: Iterable[int]) -> list[Lock]:
        """The locks of these inodes; those that went meanwhile are left out."""
        values = await self._fs.get_xattrs(list(inos))
        locks = (decode(values[X_LOCK]) for values in values if X_LOCK in values)
        return [lock for lock in locks if lock is not None]

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Nobody else, in no process, changes the set of locks meanwhile."""
        async with self._own:
            owner = next(self._owners)
            await self._take(owner)
            try:
                yield
            finally:
                await asyncio.shield(self._fs.meta.flock(self._mutex, owner, "U"))

    async def _take(self, owner: int) -> None:
        for fresh in (False, True):
            if not self._mutex or fresh:
                self._mutex = await self._make_mutex()
            try:
                await self._fs.meta.flock(self._mutex, owner, "W", block=True, timeout_s=_MUTEX_S)
                return
            except FsError as e:
                # Somebody emptied /.sys; the file is made again, once.
                if e.errno != errno.ENOENT or fresh:
                    raise

    async def _make_mutex(self) -> int:
        try:
            return (await self._fs.lookup(_MUTEX, follow=False)).ino
        except FsError as e:
            if e.errno != errno.ENOENT:
                raise
        try:
            made = await self._fs.publish(
                _MUTEX, _EMPTY, mode=0o600, condition=Condition(absent=True), parents=_PARENTS
            )
            return made.ino
        except FsError as e:
            if e.errno != errno.EEXIST:
                raise
            return (await self._fs.lookup(_MUTEX, follow=False)).ino

    async def add(self, lock: Lock) -> int:
        made = await self._fs.publish(
            _FOLDER + b"/" + lock.token.encode(), _EMPTY, mode=0o600, xattrs={X_LOCK: encode(lock)}, parents=_PARENTS
        )
        return made.ino

    async def update(self, ino: int, lock: Lock) -> None:
        """ENOENT if it is gone."""
        await self._fs.set_xattrs(ino, {X_LOCK: encode(lock)})

    async def remove(self, tokens: Collection[str]) -> None:
        for token in tokens:
            try:
                await self._fs.unlink(_FOLDER + b"/" + token.encode(), skip_trash=True)
            except FsError as e:
                if e.errno != errno.ENOENT:
                    raise
