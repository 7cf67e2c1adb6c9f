# SPDX-License-Identifier: Apache-2.0
"""CopyObject: the slices of the source get another owner, no data moves.

ETag and checksums come along because the content is the same; a checksum that nobody stored is computed by reading.
Source: spec s3 §6 (checksums of copies), §11.5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import msgspec

from core.vfs.etags import X_ETAG, X_EXT, X_META, X_TAGS, Ext, encode_ext, identify, synthetic_etag
from core.vfs.filesystem import Content, Found, Published, SourceChanged
from gateways.http.messages import Response
from gateways.s3 import checksums, xml
from gateways.s3.conditions import check_source, parse_write
from gateways.s3.errors import S3Error
from gateways.s3.intake import Hashes, Plan, hash_range
from gateways.s3.keys import parse_copy_source
from gateways.s3.objects import check_version, find_object
from gateways.s3.publish import check_target, publish, publish_directory
from gateways.s3.put_object import check_upload_headers, chosen_mtime, described
from gateways.s3.service import Call, Service, xml_response

_NS: Final = 1_000_000_000
#: Between clone and publish, compaction may replace slices of the source; of each chunk it does so once.
TRIES: Final = 20

T = TypeVar("T")


class Source(NamedTuple):
    bucket: str
    key: bytes
    found: Found
    etag: str
    known: bool  # the ETag is stored, not made up
    ext: Ext | None

    @property
    def length(self) -> int:
        return 0 if self.found.attr.is_dir else self.found.attr.length


async def open_source(service: Service, call: Call) -> Source:
    """The source of a copy, authorized and with its conditions tested."""
    # A value of form encoding: Go SDKs write spaces as "+"; a literal plus always comes as %2B.
    named = parse_copy_source(call.headers["x-amz-copy-source"].replace("+", "%20"))
    service.check_bucket(named.bucket)
    service.authorize("s3:GetObject", named.bucket, named.key, call.auth)
    if named.version_id:
        check_version({"versionId": named.version_id})
    found = await find_object(service, call, named.bucket, named.key)
    etag, ext = identify(found.ino, found.attr, found.xattrs)
    seconds = found.attr.mtime_ns // _NS
    check_source(call.headers, etag, seconds, service.clock() / 1e9, "x-amz-copy-source-")
    known = found.attr.is_dir or etag != synthetic_etag(found.ino, found.attr)
    return Source(named.bucket, named.key, found, etag, known, ext)


def _directive(headers: dict[str, str], name: str) -> bool:
    """True for REPLACE."""
    value = headers.get(name, "COPY")
    if value not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", f"Unknown {name}: it must be COPY or REPLACE.")
    return value == "REPLACE"


async def copy_object(service: Service, call: Call) -> Response:
    headers, bucket, key = call.headers, call.bucket, call.key
    path = service.object_path(bucket, key, any_bytes=False)
    replace_meta = _directive(headers, "x-amz-metadata-directive")
    replace_tags = _directive(headers, "x-amz-tagging-directive")
    check_upload_headers(service, headers)
    source = await open_source(service, call)
    limit = service.config.max_copy_bytes
    if limit and source.length > limit:
        raise S3Error("InvalidRequest", f"The specified copy source is larger than {limit} bytes.")
    if key.endswith(b"/") and source.length:
        raise S3Error("DirectoryObjectContainsData")
    xattrs = _described(service, call, source, replace_meta, replace_tags)
    itself = (source.bucket, source.key) == (bucket, key)
    if itself and not (replace_meta or replace_tags or "x-amz-storage-class" in headers):
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )
    wanted = parse_write(headers)
    ext = await _extension(service, call, source)
    mtime_ns = chosen_mtime(service, headers)
    if source.known and not source.found.attr.is_dir:
        xattrs[X_ETAG] = source.etag.encode()
    if key.endswith(b"/"):
        await publish_directory(
            service, bucket, key, path, wanted=wanted,
            xattrs={X_META: None, X_TAGS: None, **xattrs, X_EXT: encode_ext(Ext(v=1, dir=True))},
        )  # fmt: skip
        return _answer(source.etag, mtime_ns, ext)
    xattrs[X_EXT] = encode_ext(msgspec.structs.replace(ext, length=source.length, mt=mtime_ns))
    condition = await check_target(service, path, key, wanted) if wanted else None
    if itself:
        await _redescribe(service, source, xattrs, mtime_ns)
        return _answer(source.etag, mtime_ns, ext)

    async def bind(content: Content) -> Published:
        return await publish(
            service, bucket, key, path, content, xattrs=xattrs, mtime_ns=mtime_ns, condition=condition, wanted=wanted
        )

    made = await clone_into(service, call, source, 0, source.length, bind)
    etag = source.etag if source.known else synthetic_etag(made.ino, made.attr)
    return _answer(etag, mtime_ns, ext)


async def clone_into(
    service: Service, call: Call, source: Source, start: int, length: int, bind: Callable[[Content], Awaitable[T]]
) -> T:
    """Clone a range of the source and bind it; again, if the source was compacted in between.

    `bind` raises `SourceChanged` for that, and has discarded the content then.
    """
    for _ in range(TRIES):
        content = await clone(service, source.found, start, length)
        try:
            return await bind(content)
        except SourceChanged:
            # Compacted, or replaced: what the digests describe must still be there.
            again = await find_object(service, call, source.bucket, source.key)
            if (again.ino, again.attr.mtime_ns) != (source.found.ino, source.found.attr.mtime_ns):
                break
    raise S3Error("ConditionalRequestConflict", "The source changed while it was copied. Retry.")


async def clone(service: Service, found: Found, start: int, length: int) -> Content:
    if not length:
        return Content(0, {})
    return await service.fs.clone_content([(found.ino, start, length)])


def _described(
    service: Service, call: Call, source: Source, replace_meta: bool, replace_tags: bool
) -> dict[bytes, bytes]:
    """s3-meta and s3-tags of the copy: each from the source or from the request."""
    asked = described(service, call.headers)
    stored = source.found.xattrs or {}
    out: dict[bytes, bytes] = {}
    for name, replace in ((X_META, replace_meta), (X_TAGS, replace_tags)):
        value = asked.get(name) if replace else stored.get(name)
        if value:
            out[name] = value
    return out


async def _extension(service: Service, call: Call, source: Source) -> Ext:
    """What the copy says about its content: the source's record, or with the checksum that was asked for."""
    old = source.ext
    kept = Ext(v=1)
    if old is not None and not source.found.attr.is_dir:
        kept = Ext(v=1, parts=old.parts, ck=old.ck, ckt=old.ckt, pck=old.pck, pnum=old.pnum)
    asked = call.headers.get("x-amz-checksum-algorithm")
    if not asked:
        return kept
    name = checksums.find_algorithm(asked).name
    if kept.ck and name in kept.ck:
        return kept
    plan = Plan(None, False, "", None, checksums.Requested(), name, "")
    hashes = Hashes(plan)
    await hash_range(service, source.found, 0, source.length, hashes)
    assert hashes.crc is not None
    return Ext(v=1, parts=kept.parts, ck={name: checksums.encode(hashes.crc.digest())}, ckt="FULL_OBJECT")


async def _redescribe(service: Service, source: Source, xattrs: dict[bytes, bytes], mtime_ns: int) -> None:
    """A copy onto itself changes attributes only: the inode, its links and its place in snapshots stay."""
    ino = source.found.ino
    await service.fs.set_xattrs(ino, {X_META: None, X_TAGS: None, **xattrs})
    await service.fs.set_times(ino, mtime_ns=mtime_ns)


def _answer(etag: str, mtime_ns: int, ext: Ext) -> Response:
    seconds, nanos = divmod(mtime_ns, _NS)
    pairs = list((ext.ck or {}).items())
    return xml_response(
        xml.copy_object_result(etag, seconds, nanos, pairs, (ext.ckt or "FULL_OBJECT") if pairs else "")
    )
