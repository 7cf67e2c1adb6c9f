# SPDX-License-Identifier: Apache-2.0
"""What all operations share: one request being served, the volume behind it, and the questions asked everywhere.

A handler is `async def operation(service, call) -> Response`; it raises `S3Error`, or lets the file system's `OSError`
pass with `call.context` saying what it was about. Source: spec s3 §3.1 (modes), §7.1 (who may), §8 (owners).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final

from core.errors import FsError
from core.vfs.api import ROOT_CALLER, Caller
from core.vfs.filesystem import FileSystem, Found, ImplicitDirs
from gateways.http.messages import Body, Request, Response
from gateways.s3.auth import Auth, Identity, owner_id
from gateways.s3.config import S3Config
from gateways.s3.errors import Context, S3Error
from gateways.s3.keys import check_bucket_name, check_key, volume_path
from gateways.s3.metadata import IMPLICIT_DIR
from gateways.s3.xml_lists import Owner

#: A bucket that existed a moment ago exists (§18): saves a trip per PUT into new directories.
BUCKET_TTL_S: Final = 1.0

XML_TYPE: Final = ("Content-Type", "application/xml")

#: What an anonymous caller may do under each preset (§7.2; the presets of `mc anonymous`).
_READ: Final = frozenset({"s3:GetBucketLocation", "s3:ListBucket", "s3:GetObject"})
_WRITE: Final = frozenset(
    {"s3:GetBucketLocation", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
     "s3:ListBucketMultipartUploads"}
)  # fmt: skip
PRESETS: Final = {
    "": frozenset[str](),
    "download": _READ,
    "upload": _WRITE,
    "public": _READ | _WRITE | {"s3:DeleteObject"},
}


class Call:
    """One request being served. key: percent-decoded bytes; params: query, the first of each name."""

    __slots__ = (
        "auth", "bucket", "context", "headers", "host_bucket", "key", "method", "operation", "params", "request",
        "request_id",
    )  # fmt: skip

    def __init__(self, request: Request, request_id: str) -> None:
        self.request = request
        self.request_id = request_id
        self.method = request.method
        self.headers = request.headers
        self.params: dict[str, str] = {}
        self.bucket = ""
        self.host_bucket = ""
        self.key = b""
        self.operation = ""
        self.context = Context.READ
        self.auth: Auth

    @property
    def body(self) -> Body:
        return self.request.body

    def raw_param(self, name: str) -> bytes:
        """A parameter as the bytes that were sent."""
        return self.params.get(name, "").encode("utf-8", "surrogateescape")


class Service:
    """The volume as S3 sees it. clock: nanoseconds since the epoch."""

    def __init__(
        self, fs: FileSystem, config: S3Config, *, clock: Callable[[], int] = time.time_ns,
        caller: Caller = ROOT_CALLER, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.fs = fs
        self.config = config
        self.clock = clock
        self.caller = caller
        self.multi = config.multi_buckets
        self.parents = ImplicitDirs(mode=config.dir_mode, xattrs=IMPLICIT_DIR)
        self.created: dict[tuple[str, int], int] = {}  # creation times of buckets by name and inode
        self.skipped_names = 0  # for the metrics: file names that a listing could not show
        self._monotonic = monotonic
        self._buckets: dict[str, float] = {}

    # -- who may -------------------------------------------------------------------------------------------------

    def authorize(self, action: str, bucket: str, key: bytes, auth: Auth) -> None:
        """The one place that decides; raises AccessDenied. Simple for now: root, and anonymous presets (§7 comes)."""
        if auth.identity.root:
            if self.config.read_only and not action.startswith(("s3:Get", "s3:List", "s3:Head")):
                raise S3Error("AccessDenied", "This gateway was started read-only.")
            return
        if auth.identity.anonymous and action in PRESETS[self.config.anonymous]:
            if self.config.read_only and action not in _READ:
                raise S3Error("AccessDenied", "This gateway was started read-only.")
            return
        raise S3Error("AccessDenied")

    def owner(self, identity: Identity) -> Owner:
        """Who owns things in answers to this caller: everything is root's, and root is the only user so far."""
        config = self.config
        if identity.anonymous:
            return Owner(config.owner_id or owner_id("anonymous"), config.owner_name or "anonymous")
        return Owner(
            config.owner_id or identity.owner_id or owner_id(identity.access_key),
            config.owner_name or identity.display_name or identity.access_key,
        )

    # -- names ---------------------------------------------------------------------------------------------------

    def check_bucket(self, bucket: str) -> None:
        """Can there be such a bucket at all?"""
        if self.multi:
            check_bucket_name(bucket, relaxed=self.config.relaxed_bucket_names)
        elif bucket != self.config.bucket:
            check_bucket_name(bucket, relaxed=True)
            raise S3Error("NoSuchBucket")

    def path(self, bucket: str, key: bytes = b"") -> bytes:
        return volume_path(bucket, key, multi=self.multi)

    def object_path(self, bucket: str, key: bytes, *, any_bytes: bool = True) -> bytes:
        """Path of a key that came from a client."""
        check_key(key, multi=self.multi, any_bytes=any_bytes)
        return volume_path(bucket, key, multi=self.multi)

    def sys_path(self, bucket: str, *names: bytes) -> bytes:
        """A place for our own files: /.sys/[BUCKET/]… (§4.4)."""
        parts = [b"", b".sys"]
        if self.multi:
            parts.append(bucket.encode("latin-1"))
        return b"/".join([*parts, *names])

    # -- buckets -------------------------------------------------------------------------------------------------

    def bucket_is_known(self, bucket: str) -> bool:
        return not self.multi or self._buckets.get(bucket, -1.0) > self._monotonic()

    def forget_bucket(self, bucket: str) -> None:
        self._buckets.pop(bucket, None)

    async def require_bucket(self, bucket: str) -> None:
        """Raises NoSuchBucket. A trip only if nobody asked within the last second."""
        if not self.bucket_is_known(bucket):
            await self.find_bucket(bucket)

    async def find_bucket(self, bucket: str) -> Found:
        """The bucket's directory (1 trip). Raises NoSuchBucket."""
        try:
            found = await self.fs.lookup(self.path(bucket), self.caller)
        except FsError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.forget_bucket(bucket)
                raise S3Error("NoSuchBucket") from e
            raise
        if not found.attr.is_dir:
            raise S3Error("NoSuchBucket")
        if len(self._buckets) > 10_000:
            self._buckets.clear()
        self._buckets[bucket] = self._monotonic() + BUCKET_TTL_S
        return found

    async def missing_key(self, bucket: str) -> S3Error:
        """NoSuchKey, or NoSuchBucket if that is why."""
        await self.require_bucket(bucket)
        return S3Error("NoSuchKey")


def xml_response(document: bytes, headers: list[tuple[str, str]] | None = None) -> Response:
    return Response(200, [XML_TYPE, *(headers or ())], document)
