# SPDX-License-Identifier: Apache-2.0
"""Objects as files of HDFS (storage `hdfs`), bucket `[hdfs://]namenode:port[,namenode:port…][/base]` or a nameservice.

A put writes `.jfs.<base name>.tmp.<random>` beside its target, then renames it over the target, which HDFS does in one
step. Client: hdfs-native (Rust), which speaks to name and data nodes itself; HADOOP_CONF_DIR tells it of nameservices,
Kerberos from the usual ticket cache. Its calls block, in threads here: its asyncio layer (0.14.7) panics as soon as it
has to wait before another try ("there is no reactor running").
Source: spec data-path §4.2; Hadoop file system specification.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from hdfs_native import Client, WriteOptions

from core.errors import ConfigError, ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, frozen
from core.object.clouds.folders import Child, walk

T = TypeVar("T")

FORM: Final = "hdfs://NAMENODE:8020/BASE, hdfs://NAMENODE1:8020,NAMENODE2:8020/BASE or NAMESERVICE/BASE"
DEFAULT_PORT: Final = 8020
#: What the configuration calls the name nodes of a bucket that lists several.
_SERVICE: Final = "sluice"
#: Calls at once, a thread each.
AT_ONCE: Final = 32
#: The library's own tries are few and quick: what lasts longer is the caller's to retry, who knows its deadline.
_PATIENCE: Final = {
    "dfs.client.failover.max.attempts": "3",
    "dfs.client.failover.sleep.base.millis": "50",
    "dfs.client.failover.sleep.max.millis": "500",
    "dfs.client.socket-timeout": "30000",
}
#: Longest wait of `close` for threads.
_CLOSE_S: Final = 5.0

Children = list[Child]  # a name of its own: `list` is a method in the class


class Address(NamedTuple):
    """What the client is made of."""

    url: str
    config: Mapping[str, str]
    base: str  # begins and ends with a slash
    where: str


def parse(bucket: str) -> Address:
    """ConfigError shows the forms."""
    text = bucket.strip()
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() != "hdfs":
        raise ConfigError(f"hdfs: the bucket's scheme is not hdfs; it looks like {FORM}")
    authority, _, path = (rest if separator else text).partition("/")
    if "@" in authority:
        raise ConfigError(f"hdfs: the user doesn't belong into the bucket, give --access-key; it looks like {FORM}")
    nodes = [node for node in authority.split(",") if node]
    if not nodes:
        raise ConfigError(f"hdfs: the bucket names no name node; it looks like {FORM}")
    for node in nodes:
        port = node.rpartition(":")[2] if ":" in node else ""
        if (port and not (port.isdecimal() and 0 < int(port) < 65536)) or not re.match(r"[^:]", node):
            raise ConfigError(f"hdfs: {node!r} is no NAMENODE:PORT; the bucket looks like {FORM}")
    parts = [part for part in path.split("/") if part]
    if any(part in (".", "..") or ":" in part for part in parts):
        raise ConfigError("hdfs: the path of the bucket has a component that HDFS refuses (`.`, `..` or a colon)")
    base = f"/{'/'.join(parts)}/" if parts else "/"
    where = f"hdfs://{authority}{base}"
    if len(nodes) == 1:
        return Address(f"hdfs://{nodes[0]}", {}, base, where)
    names = [f"nn{i}" for i in range(len(nodes))]
    config = {
        "dfs.nameservices": _SERVICE,
        f"dfs.ha.namenodes.{_SERVICE}": ",".join(names),
        f"dfs.client.failover.proxy.provider.{_SERVICE}": (
            "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider"
        ),
    }
    for name, node in zip(names, nodes, strict=True):
        full = node if ":" in node else f"{node}:{DEFAULT_PORT}"
        config[f"dfs.namenode.rpc-address.{_SERVICE}.{name}"] = full
    return Address(f"hdfs://{_SERVICE}", config, base, where)


# The library takes the user from the environment of the process, so all HDFS stores of one process have the same.
_users: set[str] = set()


def _act_as(user: str) -> None:
    if not user:
        return
    if _users - {user}:
        raise ConfigError(
            f"hdfs: this process already uses HDFS as {next(iter(_users - {user}))!r}; a second user needs a process "
            "of its own"
        )
    _users.add(user)
    os.environ["HADOOP_USER_NAME"] = user


class HDFSStore(ObjectStore):
    """`HDFSStore("hdfs://namenode:8020/jfs", user)`. A put that returned is on all data nodes of its pipeline."""

    features = Features(ranges=True)

    def __init__(self, bucket: str, access_key: str = "", secret_key: str = "") -> None:
        self._at = parse(bucket)
        self.name = self._at.where
        self._user = access_key
        self._client: Any = None
        self._connecting = threading.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sluice-hdfs")

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        path = self._path(key)
        whole = frozen(data)  # a thread reads it, perhaps after this call was cancelled
        given_up = threading.Event()
        try:
            await self._run("put", key, lambda hdfs: _put(hdfs, path, whole, given_up))
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        path = self._path(key)
        clip(0, start, length)  # refuses negative values

        def read(hdfs: Any) -> bytes:
            file = hdfs.read(path)
            begin, n = clip(len(file), start, length)
            data: bytes = file.read_range(begin, n) if n else b""
            if len(data) != n:
                raise ObjectError(f"{self.name}: get of {key!r}: {len(data)} bytes came where {n} were announced")
            return data

        return await self._run("get", key, read)

    async def delete(self, key: str) -> None:
        path = self._path(key.rstrip("/"))
        folder = key.endswith("/")

        def remove(hdfs: Any) -> None:
            if hdfs.get_file_info(path).isdir == folder:  # else there is no such object
                hdfs.delete(path, False)

        try:
            await self._run("delete", key, remove)
        except ObjectNotFound:
            return
        except ObjectError:
            if not folder:  # one that isn't empty is no object, so success
                raise

    async def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        status = await self._run("head", key, lambda hdfs: hdfs.get_file_info(path))
        if status.isdir:
            raise self._missing(key)
        return ObjectInfo(key, status.length, status.modification_time / 1000)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in walk(self._children, prefix, after):
            yield info

    async def create(self) -> None:
        path = self._at.base.rstrip("/") or "/"
        await self._run("create", "", lambda hdfs: hdfs.mkdirs(path, 0o755, True))

    async def close(self) -> None:
        """Waits a moment for threads that still clean up. The library has no close: the last user of a client ends
        its connections."""
        self._client = None
        ended = asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        await asyncio.wait([ended], timeout=_CLOSE_S)

    async def _children(self, folder: str) -> Children:
        path = self._path(folder.rstrip("/")) if folder else self._at.base.rstrip("/") or "/"

        def read(hdfs: Any) -> Children:
            found = []
            for status in hdfs.list_status(path, False):
                name = status.path.rpartition("/")[2]
                if status.isdir:
                    found.append(Child(name + "/", None))
                elif not (name.startswith(".jfs.") and ".tmp." in name) and status.path != path:
                    info = ObjectInfo(folder + name, status.length, status.modification_time / 1000)
                    found.append(Child(name, info))
            return found

        try:
            return await self._run("list", folder, read)
        except ObjectNotFound:
            return []

    # ---- around calls

    async def _run(self, action: str, key: str, call: Callable[[Any], T]) -> T:
        def work() -> T:
            with self._connecting:
                if self._client is None:
                    self._client = self._connect()
                hdfs = self._client
            return call(hdfs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (ObjectError, ConfigError, asyncio.CancelledError):
            raise
        except FileNotFoundError as error:
            if action == "put":
                raise self._explain(error, action, key) from error
            raise self._missing(key) from error
        except BaseException as error:
            # A panic of the library is no Exception; nothing else that isn't one comes out of a thread of ours.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            if action in ("get", "head", "delete", "list") and "is not a directory" in str(error):
                raise self._missing(key) from error
            raise self._explain(error, action, key) from error

    def _connect(self) -> Any:
        """Makes no connection yet; that happens with the first call."""
        _act_as(self._user)
        return Client(self._at.url, {**_PATIENCE, **self._at.config})

    def _path(self, key: str) -> str:
        if any(part in ("", ".", "..") or ":" in part for part in key.split("/")) or "\0" in key:
            raise ObjectError(
                f"{self.name}: the key {key!r} can't be a path of HDFS "
                "(empty, '.' and '..' components, colons and NUL are refused)",
                retryable=False,
            )
        return self._at.base + key

    def _missing(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.name}: no object {key!r}")

    def _explain(self, error: BaseException, action: str, key: str) -> ObjectError:
        what = f"{action} of {key!r}" if key else action
        said = (str(error) or type(error).__name__).replace("\\n", "\n").splitlines()[0][:400]
        for pattern, retryable, advice in _MEANINGS:
            if pattern.search(said):
                return ObjectError(f"{self.name}: {what} failed: {advice} ({said})", retryable=retryable)
        return ObjectError(f"{self.name}: {what} failed: {said}")


def _put(hdfs: Any, path: str, data: bytes, given_up: threading.Event) -> None:
    folder, _, base = path.rpartition("/")
    temp = f"{folder}/.jfs.{base[:200]}.tmp.{random.getrandbits(63)}"
    try:
        file = hdfs.create(temp, WriteOptions(overwrite=True, create_parent=True))
        if data:
            file.write(data)
        file.close()
        if given_up.is_set():
            raise ObjectError("cancelled")
        hdfs.rename(temp, path, True)
    except BaseException:
        with suppress(Exception):
            hdfs.delete(temp, False)
        raise


#: Text of the refusal, whether another try may help, cause and next step.
_MEANINGS: Final = (
    (re.compile("AccessControlException|Permission denied", re.I), False,
     "the user may not do that; give the right one as --access-key, or allow it with `hdfs dfs -chown`"),
    (re.compile("SafeMode", re.I), True, "HDFS is in safe mode; wait, or look why with `hdfs dfsadmin -safemode get`"),
    (re.compile("QuotaExceeded", re.I), False, "a quota of HDFS is used up; raise it with `hdfs dfsadmin`"),
    (re.compile("StandbyException", re.I), True, "this name node is a standby; name all of them"),
    (re.compile("sasl|kerberos|gssapi|credential", re.I), False,
     "log-in failed; check the Kerberos ticket (klist) and HADOOP_CONF_DIR"),
    (re.compile("connection refused|refused|unreachable|timed out|reset|closed|EOF|end of file", re.I), True,
     "HDFS can't be reached; check that the name node runs and that host and port are right"),
)  # fmt: skip
