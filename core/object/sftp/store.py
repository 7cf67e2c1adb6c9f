# SPDX-License-Identifier: Apache-2.0
"""The object store over SFTP: the layout of a local folder, on another machine.

A put writes `.jfs.<base name>.tmp.<random>` beside its target, then renames it over the target (posix-rename; servers
without it: remove, then rename). Folders are made on demand and stay when they are empty. Blocks travel as many
requests at once. Source: spec data-path §4.2, §4.3; OpenSSH PROTOCOL §4 (posix-rename@openssh.com).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import asyncssh

from core.errors import ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, frozen
from core.object.clouds.folders import Child, walk
from core.object.sftp.address import Address, parse
from core.object.sftp.link import LOST, Link

T = TypeVar("T")

Children = list[Child]  # a name of its own: `list` is a method in the class

#: Calls at once: each holds an open file on the server, whose limit is often 1024, and memory for its block here.
AT_ONCE: Final = 64
_GONE: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory)


class SFTPStore(ObjectStore):
    """`SFTPStore("host:22:/srv/jfs/", user, password)`. A put is as durable as the server's disk cache."""

    features = Features(ranges=True)

    def __init__(self, bucket: str, access_key: str = "", secret_key: str = "") -> None:
        self._address: Address = parse(bucket, access_key, secret_key)
        self.name = self._address.where
        self._link = Link(self._address)
        self._later: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        path = self._path(key)
        whole = frozen(data)
        await self._run("put", key, lambda sftp: self._put(sftp, path, whole))

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        path = self._path(key)
        clip(0, start, length)  # refuses negative values
        return await self._run("get", key, lambda sftp: self._get(sftp, key, path, start, length))

    async def delete(self, key: str) -> None:
        path = self._path(key.rstrip("/"))
        await self._run("delete", key, lambda sftp: self._delete(sftp, path, key.endswith("/")))

    async def head(self, key: str) -> ObjectInfo:
        path = self._path(key)

        async def look(sftp: Any) -> ObjectInfo:
            attrs = await sftp.stat(path)
            if attrs.type != asyncssh.FILEXFER_TYPE_REGULAR:
                raise self._missing(key)
            return ObjectInfo(key, attrs.size or 0, float(attrs.mtime or 0))

        return await self._run("head", key, look)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in walk(self._children, prefix, after):
            yield info

    async def create(self) -> None:
        await self._run("create", "", lambda sftp: sftp.makedirs(self._address.path or ".", exist_ok=True))

    async def close(self) -> None:
        if self._later and asyncio.get_running_loop() is self._loop:
            await asyncio.wait(self._later, timeout=2)
        await self._link.close()

    # ---- one call each

    async def _put(self, sftp: Any, path: str, data: bytes) -> None:
        folder, _, base = path.rpartition("/")
        temp = f"{folder}{'/' if folder or path.startswith('/') else ''}.jfs.{base[:200]}.tmp.{random.getrandbits(63)}"
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        try:
            file = await self._open(sftp, temp, flags)
        except _GONE:
            # Trying first keeps no list of known folders, which somebody else might remove.
            await sftp.makedirs(folder, exist_ok=True)
            file = await self._open(sftp, temp, flags)
        try:
            await file.write(data, 0)
            # The server has every byte by now; closing and renaming may go in one trip.
            ends: Sequence[Any] = await asyncio.gather(
                file.close(), sftp.posix_rename(temp, path), return_exceptions=True
            )
            renamed = ends[1]
            if isinstance(renamed, asyncssh.SFTPOpUnsupported):
                with suppress(*_GONE):
                    await sftp.remove(path)
                await sftp.rename(temp, path)
            elif isinstance(renamed, BaseException):
                raise renamed
        except BaseException:
            self._afterwards(self._clean_up(sftp, file, temp))
            raise

    async def _get(self, sftp: Any, key: str, path: str, start: int, length: int | None) -> Buffer:
        file = await self._open(sftp, path, asyncssh.FXF_READ)
        try:
            size = length
            if size is None or size == 0 or start + size > 1 << 40:
                attrs = await file.stat()
                if attrs.type != asyncssh.FILEXFER_TYPE_REGULAR:
                    raise self._missing(key)
                start, size = clip(attrs.size or 0, start, length)
                if not size:
                    return b""
            try:
                data: bytes = await file.read(size, start)
            except asyncssh.SFTPFailure:
                if (await file.stat()).type != asyncssh.FILEXFER_TYPE_REGULAR:
                    raise self._missing(key) from None  # a folder can be opened, but not read
                raise
            if length is None and len(data) != size:
                raise ObjectError(f"{self.name}: get of {key!r}: {len(data)} bytes came where {size} were announced")
            return data
        finally:
            self._afterwards(self._clean_up(sftp, file, ""))

    async def _delete(self, sftp: Any, path: str, folder: bool) -> None:
        if folder:  # stores of this kind remove an empty folder; anything else is no object, so success
            with suppress(asyncssh.SFTPError):
                await sftp.rmdir(path)
            return
        try:
            await sftp.remove(path)
        except _GONE:
            return
        except (asyncssh.SFTPFailure, asyncssh.SFTPPermissionDenied):
            if not await sftp.isdir(path):
                raise

    async def _children(self, folder: str) -> Children:
        path = self._path(folder.rstrip("/")) if folder else self._address.path or "."

        async def read(sftp: Any) -> Any:
            try:
                names = await sftp.readdir(path)
            except _GONE:
                return []
            found = []
            for entry in names:
                name, attrs = entry.filename, entry.attrs
                if name in (".", ".."):
                    continue
                if attrs.type == asyncssh.FILEXFER_TYPE_SYMLINK:
                    try:
                        attrs = await sftp.stat(f"{path.rstrip('/')}/{name}")
                    except asyncssh.SFTPError:
                        continue
                if attrs.type == asyncssh.FILEXFER_TYPE_DIRECTORY:
                    found.append(Child(name + "/", None))
                elif attrs.type == asyncssh.FILEXFER_TYPE_REGULAR and not _is_temporary(name):
                    info = ObjectInfo(folder + name, attrs.size or 0, float(attrs.mtime or 0))
                    found.append(Child(name, info))
            return found

        children: Children = await self._run("list", folder, read)
        return children

    # ---- around calls

    async def _run(self, action: str, key: str, call: Callable[[Any], Awaitable[T]]) -> T:
        """Once more if a connection that was good before turns out to be broken; every call may be repeated."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._room, self._later = loop, asyncio.Semaphore(AT_ONCE), set()
        async with self._room:
            renewed = False
            while True:
                sftp = await self._link.session()
                try:
                    return await call(sftp)
                except LOST as error:
                    self._link.drop(sftp)
                    if renewed:
                        raise self._explain(error, action, key) from error
                    renewed = True
                except _GONE as error:
                    if action in ("get", "head"):
                        raise self._missing(key) from None
                    raise self._explain(error, action, key) from error
                except (asyncssh.SFTPError, OSError, ValueError) as error:
                    raise self._explain(error, action, key) from error

    def _afterwards(self, work: Awaitable[None]) -> None:
        """What nobody has to wait for; `close` does."""
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _open(self, sftp: Any, path: str, flags: int) -> Any:
        """A cancelled call may have its file opened, and made, all the same: that is undone."""
        opening = asyncio.ensure_future(sftp.open(path, flags, encoding=None))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._afterwards(self._clean_up(sftp, opening, path if flags & asyncssh.FXF_CREAT else ""))
            raise

    async def _clean_up(self, sftp: Any, file: Any, temp: str) -> None:
        """Close a file, perhaps one that is still being opened; remove it if it is temporary."""
        with suppress(asyncssh.Error, OSError, ValueError):
            if isinstance(file, asyncio.Future):
                file = await file
            await file.close()
        if temp:
            with suppress(asyncssh.Error, OSError, ValueError):
                await sftp.remove(temp)

    def _path(self, key: str) -> str:
        if "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
            raise ObjectError(
                f"{self.name}: the key {key!r} can't be a file below this folder "
                "(empty, '.' and '..' path components and NUL are refused)",
                retryable=False,
            )
        return self._address.path + key

    def _missing(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.name}: no object {key!r}")

    def _explain(self, error: BaseException, action: str, key: str) -> ObjectError:
        what = f"{action} of {key!r}" if key else action
        said = str(error) or type(error).__name__
        if isinstance(error, LOST):
            return ObjectError(f"{self.name}: {what} failed: the connection broke ({said})")
        if isinstance(error, asyncssh.SFTPPermissionDenied):
            return ObjectError(
                f"{self.name}: {what} failed: the server's user may not do that; give it read and write permission",
                retryable=False,
            )
        if isinstance(error, OSError) and error.errno:
            said = os.strerror(error.errno)
        # OpenSSH says "Failure" for a full disk as for anything else.
        hint = "; look for a full disk or quota on the server" if isinstance(error, asyncssh.SFTPFailure) else ""
        return ObjectError(f"{self.name}: {what} failed: {said}{hint}")


def _is_temporary(name: str) -> bool:
    return name.startswith(".jfs.") and ".tmp." in name
