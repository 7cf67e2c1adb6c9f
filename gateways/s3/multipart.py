# SPDX-License-Identifier: Apache-2.0
"""Multipart uploads: create, upload and copy parts, complete, abort, list.

Completing clones the parts' slices into one content and publishes it: no data moves, and the object appears at once or
not at all. The object remembers its upload id, so that a repeated Complete gets the same answer.
Source: spec s3 §6 (checksums), §11.6 (conditions), §12.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import uuid
from typing import Final

from core.errors import FsError
from core.vfs.etags import X_ETAG, X_EXT, X_META, X_TAGS, Ext, encode_ext, identify, plain_ext
from core.vfs.filesystem import Content, ImplicitDirs, SourceChanged
from gateways.http.messages import Response
from gateways.s3 import checksums, xml
from gateways.s3.conditions import parse_write
from gateways.s3.config import MAX_BIG_XML_BYTES, MAX_PARTS
from gateways.s3.copy_object import TRIES, clone_into, open_source
from gateways.s3.documents import read_document
from gateways.s3.errors import Context, S3Error, from_errno
from gateways.s3.intake import Hashes, Plan, Receipt, hash_range, plan_body, receive
from gateways.s3.keys import parse_part_number
from gateways.s3.list_objects import parse_limit
from gateways.s3.metadata import X_OBJECT, pack_parts
from gateways.s3.publish import check_target, find_target, publish
from gateways.s3.put_object import check_upload_headers, described
from gateways.s3.ranges import parse_copy_range
from gateways.s3.service import Call, Service, xml_response
from gateways.s3.uploads import Part, Upload, find_parts, find_upload, part_numbers, remove_upload, upload_path
from gateways.s3.xml import CompletedPart, PartEntry

log = logging.getLogger("sluice.s3")

_NS: Final = 1_000_000_000


async def create_upload(service: Service, call: Call) -> Response:
    headers, key, bucket = call.headers, call.key, call.bucket
    service.object_path(bucket, key, any_bytes=False)
    if key.endswith(b"/"):
        raise S3Error("DirectoryObjectContainsData")
    check_upload_headers(service, headers)
    algorithm, kind = checksums.multipart_kind(headers)
    xattrs = {X_OBJECT: key, **described(service, headers)}
    xattrs[X_EXT] = encode_ext(
        Ext(v=1, alg=algorithm or None, ckt=kind or None, began=service.clock(), own=call.auth.identity.access_key)
    )
    await read_document(service, call)
    await service.require_bucket(bucket)
    upload_id = str(uuid.uuid4())
    await service.fs.mkdir(
        upload_path(service, bucket, upload_id), service.caller, mode=service.config.dir_mode, xattrs=xattrs,
        parents=ImplicitDirs(mode=service.config.dir_mode),
    )  # fmt: skip
    answer = []
    if algorithm:
        answer = [("x-amz-checksum-algorithm", algorithm.upper()), ("x-amz-checksum-type", kind)]
    return xml_response(xml.initiate_result(bucket, key, upload_id), answer)


# -- parts ---------------------------------------------------------------------------------------------------------


async def upload_part(service: Service, call: Call) -> Response:
    number = parse_part_number(call.params["partNumber"])
    check_upload_headers(service, call.headers)
    limit = service.config.max_put_bytes
    upload = await find_upload(service, call.bucket, call.key, call.params["uploadId"])
    plan = plan_body(service, call, limit, upload.algorithm)
    receipt = await receive(service, call, plan, limit)
    await _publish_part(service, upload, number, receipt)
    answer = [("ETag", f'"{receipt.etag}"')]
    if receipt.checksum is not None and (upload.algorithm or plan.requested.algorithm):
        answer.append((f"x-amz-checksum-{receipt.checksum[0]}", receipt.checksum[1]))
    return Response(200, answer)


async def _publish_part(service: Service, upload: Upload, number: int, receipt: Receipt) -> int:
    """Bind a part; replaces an earlier one of its number. Returns its mtime. `SourceChanged`: clone again."""
    mtime_ns = service.clock()
    xattrs = {X_ETAG: receipt.etag.encode(), X_EXT: plain_ext(receipt.length, mtime_ns, receipt.checksum)}
    try:
        await service.fs.publish(
            upload.path + b"/%d" % number, receipt.content, service.caller, mode=service.config.file_mode,
            xattrs=xattrs, mtime_ns=mtime_ns, skip_trash=True,
        )  # fmt: skip
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.EDQUOT, errno.ENOSPC, errno.ESTALE):
            await service.fs.discard(receipt.content)
        if isinstance(e, SourceChanged):
            raise
        raise from_errno(e, Context.UPLOAD) from e
    return mtime_ns


async def upload_part_copy(service: Service, call: Call) -> Response:
    """The data is cloned; only digests that nobody stored are computed by reading."""
    number = parse_part_number(call.params["partNumber"])
    upload = await find_upload(service, call.bucket, call.key, call.params["uploadId"])
    source = await open_source(service, call)
    start, length = 0, source.length
    text = call.headers.get("x-amz-copy-source-range")
    if text:
        start, length = parse_copy_range(text, source.length)
    if length > service.config.max_put_bytes:
        raise S3Error("EntityTooLarge")
    whole = length == source.length
    name = upload.algorithm
    ck = source.ext.ck if source.ext is not None and whole else None
    checksum = (name, ck[name]) if name and ck and name in ck and "-" not in ck[name] else None
    etag = source.etag if whole and source.known and "-" not in source.etag else ""
    need_md5 = not etag and service.config.etag == "md5"
    if need_md5 or (name and checksum is None):
        plan = Plan(None, False, "", None, checksums.Requested(), "" if checksum else name, "md5" if need_md5 else "")
        hashes = Hashes(plan)
        await hash_range(service, source.found, start, length, hashes)
        if hashes.md5 is not None:
            etag = hashes.md5.hexdigest()
        if hashes.crc is not None:
            checksum = (name, checksums.encode(hashes.crc.digest()))
    if not etag:
        etag = hashlib.md5(f"{source.etag}:{start}:{length}".encode(), usedforsecurity=False).hexdigest() + "-0"

    async def bind(content: Content) -> int:
        return await _publish_part(service, upload, number, Receipt(content, length, etag, checksum))

    mtime_ns = await clone_into(service, call, source, start, length, bind)
    seconds, nanos = divmod(mtime_ns, _NS)
    return xml_response(xml.copy_part_result(etag, seconds, nanos, (checksum,) if checksum else ()))


async def list_parts(service: Service, call: Call) -> Response:
    params = call.params
    upload = await find_upload(service, call.bucket, call.key, params["uploadId"])
    limit = parse_limit(params, "max-parts")
    marker = parse_limit(params, "part-number-marker", MAX_PARTS) if params.get("part-number-marker") else 0
    numbers = [n for n in await part_numbers(service, upload) if n > marker]
    parts = [p for p in await find_parts(service, upload, numbers[:limit]) if p is not None]
    entries = [
        PartEntry(p.number, p.size, p.etag, *divmod(p.attr.mtime_ns, _NS), tuple(p.checksums.items()))
        for p in parts
    ]  # fmt: skip
    return xml_response(
        xml.list_parts(
            call.bucket, call.key, upload.upload_id, entries, owner=service.owner(call.auth.identity), marker=marker,
            next_marker=numbers[:limit][-1] if numbers and limit else 0, max_parts=limit,
            truncated=limit > 0 and len(numbers) > limit, checksum_algorithm=upload.algorithm,
            checksum_type=upload.checksum_type,
        )
    )  # fmt: skip


# -- the end -------------------------------------------------------------------------------------------------------


async def abort_upload(service: Service, call: Call) -> Response:
    upload = await find_upload(service, call.bucket, call.key, call.params["uploadId"])
    await remove_upload(service, upload.path)
    return Response(204)


async def complete_upload(service: Service, call: Call) -> Response:
    bucket, key, upload_id = call.bucket, call.key, call.params["uploadId"]
    path = service.object_path(bucket, key)
    listed = xml.parse_complete(await read_document(service, call, limit=MAX_BIG_XML_BYTES))
    try:
        upload = await find_upload(service, bucket, key, upload_id)
    except S3Error as e:
        if e.code == "NoSuchUpload":
            again = await _completed_before(service, call, path)
            if again is not None:
                return again
        raise
    wanted = parse_write(call.headers)
    condition = await check_target(service, path, key, wanted) if wanted else None
    for attempt in range(TRIES):
        parts = _check_parts(service, listed, await find_parts(service, upload, [p.number for p in listed]))
        ext = _describe(call, upload, listed, parts)
        etag = _etag(parts)
        mtime_ns = service.clock()
        ext.length, ext.mt, ext.uid = sum(p.size for p in parts), mtime_ns, upload_id
        xattrs: dict[bytes, bytes] = {name: upload.xattrs[name] for name in (X_META, X_TAGS) if name in upload.xattrs}
        if service.config.keep_etag:
            xattrs[X_ETAG] = etag.encode()
        xattrs[X_EXT] = encode_ext(ext)
        content = await service.fs.clone_content([(p.ino, 0, p.size) for p in parts if p.size])
        try:
            await publish(
                service, bucket, key, path, content, xattrs=xattrs, mtime_ns=mtime_ns, condition=condition,
                wanted=wanted or None,
            )  # fmt: skip
            break
        except SourceChanged as e:
            if attempt + 1 == TRIES:
                raise S3Error("ConditionalRequestConflict", "Parts changed while they were joined. Retry.") from e
    try:
        await remove_upload(service, upload.path)
    except OSError as e:
        # The object is there and the client must hear so; housekeeping takes what is left.
        log.warning("upload %s was completed but not removed: %s", upload_id, e)
    return _complete_answer(service, call, etag, ext)


def _complete_answer(service: Service, call: Call, etag: str, ext: Ext) -> Response:
    scheme = "https" if call.request.secure else "http"
    host = call.headers.get("host", "localhost")
    where = f"{scheme}://{host}{call.request.raw_path}"
    pairs = list((ext.ck or {}).items())
    return xml_response(
        xml.complete_result(where, call.bucket, call.key, etag, pairs, (ext.ckt or "") if pairs else "")
    )


async def _completed_before(service: Service, call: Call, path: bytes) -> Response | None:
    """The same answer again, if the object still carries this upload id."""
    found = await find_target(service, path, call.key)
    if found is None:
        return None
    etag, ext = identify(found.ino, found.attr, found.xattrs)
    if ext is None or not ext.uid or ext.uid != call.params["uploadId"]:
        return None
    return _complete_answer(service, call, etag, ext)


def _check_parts(service: Service, listed: list[CompletedPart], found: list[Part | None]) -> list[Part]:
    """Every part that was named must be there as it was named, and big enough."""
    parts: list[Part] = []
    minimum = service.config.min_part_bytes
    for asked, part in zip(listed, found, strict=True):
        if part is None or part.etag != asked.etag:
            raise S3Error("InvalidPart", extra=(("PartNumber", str(asked.number)), ("ETag", asked.etag)))
        for name, value in asked.checksums.items():
            have = part.checksums.get(name)
            if have is not None and have != value:
                raise S3Error("InvalidPart", extra=(("PartNumber", str(asked.number)),))
        parts.append(part)
    for asked, part in zip(listed[:-1], parts, strict=False):
        if part.size < minimum:
            raise S3Error(
                "EntityTooSmall",
                extra=(
                    ("ProposedSize", str(part.size)), ("MinSizeAllowed", str(minimum)),
                    ("PartNumber", str(asked.number)), ("ETag", asked.etag),
                ),
            )  # fmt: skip
    return parts


def _etag(parts: list[Part]) -> str:
    """MD5 over the raw MD5s of the parts; what isn't one counts with its text."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        try:
            digest.update(bytes.fromhex(part.etag))
        except ValueError:
            digest.update(part.etag.encode())
    return f"{digest.hexdigest()}-{len(parts)}"


def _describe(call: Call, upload: Upload, listed: list[CompletedPart], parts: list[Part]) -> Ext:
    """The extension record of the object: part sizes and checksums; compares what the client says about the whole."""
    sizes = [p.size for p in parts]
    total = call.headers.get("x-amz-mp-object-size")
    if total is not None and (not total.isdigit() or int(total[:20]) != sum(sizes)):
        raise S3Error("InvalidRequest", "The provided 'x-amz-mp-object-size' header value does not match the parts.")
    ext = Ext(v=1, parts=pack_parts(sizes))
    name, kind = upload.algorithm, upload.checksum_type
    if name and kind == checksums.COMPOSITE:
        missing = next((a.number for a in listed if name not in a.checksums), None)
        if missing is not None:
            raise S3Error(
                "InvalidRequest",
                f"The upload was created using a {name} checksum. The complete request must include the checksum for "
                f"each part. It was missing for part {missing} in the request.",
            )
    asked_kind = call.headers.get("x-amz-checksum-type", "").upper()
    if asked_kind and kind and asked_kind != kind:
        raise S3Error("InvalidRequest", f"The upload was created using the {kind} checksum type.")
    if not name:
        name, kind = checksums.DEFAULT, checksums.FULL_OBJECT  # stored with each part unless that was switched off
    values = [p.checksums.get(name) for p in parts]
    if any(v is None for v in values):
        return ext  # such as parts of a JuiceFS gateway
    known = [v for v in values if v is not None]
    digests = [checksums.decode(name, v) for v in known]
    if kind == checksums.COMPOSITE:
        ext.ck = {name: checksums.composite(name, digests)}
    else:
        ext.ck = {name: checksums.encode(checksums.combine(name, zip(digests, sizes, strict=True)))}
    ext.ckt = kind
    if upload.algorithm:
        ext.pck = {name: known}
        numbers = [a.number for a in listed]
        if numbers != list(range(1, len(numbers) + 1)):
            ext.pnum = numbers
    sent = call.headers.get(checksums.HEADER_PREFIX + name)
    if sent is not None and sent.partition("-")[0] != ext.ck[name].partition("-")[0]:
        raise S3Error("BadDigest", f"The {name.upper()} you specified did not match the calculated checksum.")
    return ext
