# SPDX-License-Identifier: Apache-2.0
"""Any service of Apache OpenDAL as an object store.

`OpendalStore(name, scheme, settings)`; the settings are OpenDAL's own words for the service. One request per call,
except a full read with a checksum (OpenDAL doesn't hand out the metadata of what it reads: a HEAD runs beside it).
`bytes` go in and out as they are; any other buffer is copied once, since OpenDAL takes nothing else. Nothing is retried
here. Source: core/object/api.py; spec data-path §3.4, §4.1; OpenDAL's Python API.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from core.errors import ConfigError, DataCorrupt, ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, joined, views
from core.object.checksum import crc32c
from core.object.clouds.failures import failure_of, is_past_the_end, scrub
from core.object.clouds.folders import Child, Children, walk

EXTRA = "clouds"
# A service that accepts a connection and says nothing must not hang a command forever. Reads and writes of a block have
# the shorter time-outs of the data path around them (60 s by default), which users may raise for slow lines.
TIMEOUT_S = 60.0
IO_TIMEOUT_S = 600.0
CHECKSUM_FIELD = "crc32c"

# Settings whose values must not appear in any text.
_SECRET_WORDS = ("key", "secret", "token", "password", "credential", "sas", "signature")


class OpendalStore(ObjectStore):
    """One container of a service.

    folders: the service lists one folder at a time, in any order; False: keys in byte order from one listing.
    checksum: keep the CRC-32C of each object as user metadata and compare it on full reads.
    make: coroutine function that makes the container, because OpenDAL can't. timeout_s: head, delete, a page of a list;
    io_timeout_s: a read or a write. class_setting: OpenDAL's word for the storage class of what is put, if it has one.
    keys_hint: what to do if no credentials were found.
    """

    def __init__(
        self,
        name: str,
        scheme: str,
        settings: Mapping[str, str],
        *,
        folders: bool = False,
        checksum: bool = False,
        make: Callable[[], Awaitable[None]] | None = None,
        secrets: Iterable[str] = (),
        class_setting: str = "",
        keys_hint: str = "",
        timeout_s: float = TIMEOUT_S,
        io_timeout_s: float = IO_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.features = Features(ranges=True)
        self._scheme = scheme
        self._folders = folders
        self._checksum = checksum
        self._make = make
        self._more_secrets = tuple(secrets)
        self._timeouts_s = timeout_s, io_timeout_s
        self._class_setting = class_setting
        self._keys_hint = keys_hint
        self.use(settings)

    def use(self, settings: Mapping[str, str]) -> None:
        """Go on with other settings (a renewed token); calls under way keep the old ones."""
        given = {name: value for name, value in settings.items() if value}
        self._settings = given
        self._secrets = (
            *(value for name, value in given.items() if any(word in name for word in _SECRET_WORDS)),
            *self._more_secrets,
        )
        self._operator = _operator(self.name, self._scheme, given, self._secrets, self._timeouts_s)
        self._start_after = bool(self._operator.capability().list_with_start_after)

    def use_class(self, storage_class: str, tag: str) -> bool:
        """Storage class of what is put from now on. True: all that was asked for is honoured."""
        if self._class_setting and storage_class:
            self.use({**self._settings, self._class_setting: storage_class})
        return bool(self._class_setting) and not tag

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        path = self._path("put", key)
        body = joined(data)
        if not isinstance(body, bytes):
            body = bytes(body)
        options: dict[str, Any] = {}
        if self._checksum:
            options["user_metadata"] = {CHECKSUM_FIELD: str(crc32c(views(body)))}
        await self._do("put", key, self._operator.write, path, body, **options)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        path = self._path("get", key)
        if length == 0:
            await self.head(key)
            return b""
        if start == 0 and length is None:
            return await (self._get_verified(key, path) if self._checksum else self._read(key, path))
        try:
            data = await self._read(key, path, offset=start, size=length)
        except _PastTheEnd:
            # The range or a part of it lies behind the end; the range that doesn't is fetched if there is one.
            size = (await self.head(key)).size
            begin, n = clip(size, start, length)
            if n == 0:
                return b""
            if length is not None and n == length:
                raise ObjectError(
                    f"{self.name}: get of {key!r}: less than {length} bytes came from {start} on"
                ) from None
            data = await self._read(key, path, offset=begin, size=n)
        if length is not None and len(data) > length:
            raise ObjectError(f"{self.name}: get of {key!r}: {len(data)} bytes came where {length} were asked for")
        return data

    async def delete(self, key: str) -> None:
        try:
            await self._do("delete", key, self._operator.delete, self._path("delete", key))
        except ObjectNotFound:
            pass

    async def head(self, key: str) -> ObjectInfo:
        found = await self._do("head", key, self._operator.stat, self._path("head", key))
        if not found.is_file:
            raise ObjectNotFound(f"{self.name}: no object {key!r} (it is a folder)")
        return _info(key, found)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        if self._folders:
            async for info in walk(self._children, prefix, after):
                yield info
            return
        options: dict[str, Any] = {"recursive": True}
        if after and self._start_after:
            options["start_after"] = after
        last = after
        # OpenDAL trims paths: what comes may be more than was asked for, never less.
        entries = await self._do("list", prefix, self._operator.list, prefix, **options)
        while (entry := await self._next(entries, prefix)) is not None:
            key = entry.path
            if key.endswith("/") or not key.startswith(prefix) or key <= after:
                continue
            if key <= last:
                raise ObjectError(
                    f"{self.name}: list of {prefix!r} returned {key!r} after {last!r}; this service does not list in "
                    "key order",
                    retryable=False,
                )
            last = key
            yield _info(key, entry.metadata)

    async def create(self) -> None:
        if self._make is not None:
            await self._make()
        elif self._folders:
            await self._do("create", "", self._operator.create_dir, "/")

    # ---- below the contract

    async def _do(
        self, action: str, key: str, call: Callable[..., Awaitable[Any]], *values: Any, **options: Any
    ) -> Any:
        try:
            return await call(*values, **options)
        except Exception as error:
            if type(error).__module__ != "opendal.exceptions":
                raise
            if action == "get" and is_past_the_end(error):
                raise _PastTheEnd from None
            raise failure_of(self.name, action, key, error, self._secrets, self._keys_hint) from None

    async def _read(self, key: str, path: str, **options: Any) -> bytes:
        data: bytes = await self._do("get", key, self._operator.read, path, **options)
        return data

    async def _get_verified(self, key: str, path: str) -> bytes:
        """The object and, asked for at the same time, its metadata."""
        async with asyncio.TaskGroup() as group:
            found = group.create_task(_outcome(self._do("head", key, self._operator.stat, path)))
            body = group.create_task(_outcome(self._read(key, path)))
        data: bytes = _value(body.result())
        text = (_value(found.result()).user_metadata or {}).get(CHECKSUM_FIELD, "")
        if text.isdigit() and (crc := crc32c(views(data))) != int(text):
            raise DataCorrupt(
                f"{self.name}: {key!r} ({len(data)} bytes) has CRC-32C {crc}, stored with {text}; the object or its "
                "transport is damaged"
            )
        return data

    async def _next(self, entries: Any, prefix: str, action: str = "list") -> Any:
        try:
            return await self._do(action, prefix, entries.__anext__)
        except StopAsyncIteration:
            return None

    async def _children(self, base: str) -> Children:
        found = []
        try:
            entries = await self._do("list folder", base, self._operator.list, base or "/")
            while (entry := await self._next(entries, base, "list folder")) is not None:
                name = entry.path.removeprefix(base)
                if not name or name == "/":
                    continue  # the folder itself
                found.append(Child(name, None if name.endswith("/") else _info(entry.path, entry.metadata)))
        except ObjectNotFound:
            return []
        return found

    def _path(self, action: str, key: str) -> str:
        """OpenDAL would silently give these keys another name."""
        if key != key.strip() or key.startswith("/") or "//" in key:
            raise ObjectError(
                f"{self.name}: {action} of {key!r} is impossible: keys with spaces at an end, a leading slash or an "
                "empty part can't be used with this client",
                retryable=False,
            )
        return key


class _PastTheEnd(Exception):
    """A range that ends behind the object's end."""


async def _outcome(work: Awaitable[Any]) -> Any:
    """The result or the error, so that a task group ends with the error itself instead of a group of it."""
    try:
        return await work
    except (ObjectError, _PastTheEnd) as error:
        return error


def _value(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _info(key: str, metadata: Any) -> ObjectInfo:
    changed = metadata.last_modified
    return ObjectInfo(key, metadata.content_length, changed.timestamp() if changed is not None else 0.0)


def _operator(
    name: str, scheme: str, settings: Mapping[str, str], secrets: Iterable[str], timeouts_s: tuple[float, float]
) -> Any:
    try:
        import opendal
        import opendal.layers
    except ImportError:
        raise ConfigError(
            f"{name}: this storage needs the package opendal; install it with `pip install 'sluicefs[{EXTRA}]'`"
        ) from None
    try:
        layer = opendal.layers.TimeoutLayer(timeout=timeouts_s[0], io_timeout=timeouts_s[1])
        return opendal.AsyncOperator(scheme, **settings).layer(layer)
    except Exception as error:  # ConfigInvalid, Unsupported (a build without this service), TypeError
        text = scrub(str(error).split("\n", 1)[0].partition(" => ")[2] or str(error).split("\n", 1)[0], secrets)
        raise ConfigError(f"{name}: these settings can't be used: {text}") from None
