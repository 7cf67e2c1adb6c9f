# SPDX-License-Identifier: Apache-2.0
"""`/.minio.sys/buckets/BUCKET/.metadata.bin`: what a bucket has been told to be, in the form JuiceFS gateways use.

Two little-endian 16-bit words 1, 1, then one MessagePack map. Keys that we don't know are preserved. A bucket made by
mkdir has no such file: defaults apply. Source: spec s3 §4.6.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import struct
from typing import Any, Final

import msgspec

from core.errors import FsError
from core.vfs.etags import X_ETAG
from core.vfs.filesystem import ImplicitDirs
from gateways.s3.service import Service

log = logging.getLogger("sluice.s3")

_HEADER: Final = struct.pack("<HH", 1, 1)
#: The extension type of Go's MessagePack library for times: 64-bit seconds, 32-bit nanoseconds, big endian.
_GO_TIME: Final = 5
_TIME: Final = struct.Struct(">QI")
#: Bigger ones are damaged: the largest member is a policy of 20 KiB.
_MAX_BYTES: Final = 1 << 20

#: Members after Name, Created and LockEnabled, in the order of the file; empty means unset.
DOCUMENTS: Final = (
    "PolicyConfigJSON", "NotificationConfigXML", "LifecycleConfigXML", "ObjectLockConfigXML", "VersioningConfigXML",
    "EncryptionConfigXML", "TaggingConfigXML", "QuotaConfigJSON", "ReplicationConfigXML", "BucketTargetsConfigJSON",
    "BucketTargetsConfigMetaJSON",
)  # fmt: skip


def encode(members: dict[str, Any]) -> bytes:
    return _HEADER + msgspec.msgpack.encode(members)


def decode(raw: bytes) -> dict[str, Any] | None:
    """All members, or None if the file is of another version or damaged."""
    if raw[:4] != _HEADER:
        return None
    try:
        members = msgspec.msgpack.decode(raw[4:])
    except msgspec.MsgspecError:
        return None
    return members if isinstance(members, dict) else None


def new_members(bucket: str, created_ns: int) -> dict[str, Any]:
    seconds, nanos = divmod(created_ns, 1_000_000_000)
    return {
        "Name": bucket,
        "Created": msgspec.msgpack.Ext(_GO_TIME, _TIME.pack(seconds, nanos)),
        "LockEnabled": False,
        **dict.fromkeys(DOCUMENTS, b""),
    }


def created_ns(members: dict[str, Any]) -> int | None:
    """Creation time, None if it isn't there or is Go's zero time."""
    created = members.get("Created")
    if isinstance(created, msgspec.msgpack.Ext) and created.code == _GO_TIME and len(bytes(created.data)) == _TIME.size:
        seconds, nanos = _TIME.unpack(bytes(created.data))
        if 0 < seconds < 1 << 40:
            return int(seconds * 1_000_000_000 + nanos)
    return None


def folder(bucket: str) -> bytes:
    return b"/.minio.sys/buckets/" + bucket.encode("latin-1")


async def load(service: Service, bucket: str) -> dict[str, Any]:
    """Members of a bucket's file, {} if it has none. Damage is logged and counts as none."""
    path = folder(bucket) + b"/.metadata.bin"
    try:
        found = await service.fs.lookup(path, chunk=True)
        if not found.attr.is_file or found.attr.length > _MAX_BYTES:
            raise FsError(errno.ENOENT)
        raw = bytes(await service.fs.read(found, 0, found.attr.length))
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            return {}
        raise
    members = decode(raw)
    if members is None:
        log.warning("metadata of bucket %s can't be read (damaged or of a newer version); defaults apply", bucket)
        return {}
    return members


async def save(service: Service, bucket: str, members: dict[str, Any]) -> None:
    raw = encode(members)
    config = service.config
    content = await service.fs.content_of(raw)
    try:
        await service.fs.publish(
            folder(bucket) + b"/.metadata.bin", content, mode=config.file_mode,
            xattrs={X_ETAG: hashlib.md5(raw).hexdigest().encode()}, parents=ImplicitDirs(mode=config.dir_mode),
            skip_trash=True,
        )  # fmt: skip
    except BaseException:
        await service.fs.discard(content)
        raise


async def create(service: Service, bucket: str) -> None:
    await save(service, bucket, new_members(bucket, service.clock()))


async def remove(service: Service, bucket: str) -> None:
    """With the bucket; what is already gone is fine."""
    try:
        await service.fs.remove_tree(folder(bucket), skip_trash=True)
    except FsError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
