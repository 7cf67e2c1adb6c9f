# SPDX-License-Identifier: Apache-2.0
"""Bodies on their way in: stored once, hashed once, proven before anybody can see them.

Two ways. A small body is collected, proven, and stored in one call without any thread. A big one is copied into the
volume's block buffers as it comes; each MiB is hashed in a thread while the next one is received, so hashing costs
latency only where it is slower than the network. Only the hashes that are needed are computed.
Source: spec s3 §2.4 (lengths), §5.4 (aws-chunked), §6 (integrity), §18 (performance).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple

from core.chunk.api import FileRange
from core.object.api import Buffer
from core.vfs.filesystem import Content, Found
from gateways.http.messages import read_announced
from gateways.s3 import checksums
from gateways.s3.auth.model import PayloadMode
from gateways.s3.aws_chunked import AwsChunkedDecoder, decoded_length
from gateways.s3.errors import S3Error
from gateways.s3.service import Call, Service

#: A body up to this size is cheaper to hash on the loop than to hand to a thread (measured: 64 KiB of MD5 and CRC take
#: about 0.1 ms, a thread hop about the same).
SMALL_BYTES: Final = 64 << 10
#: Pieces hashed at once in a thread.
SEGMENT: Final = 1 << 20


class Receipt(NamedTuple):
    """A body that is stored and proven, but bound to no name yet. etag without quotes."""

    content: Content
    length: int
    etag: str
    checksum: tuple[str, str] | None  # (algorithm, base64)


class Plan(NamedTuple):
    """What a request's headers say about its body."""

    length: int | None  # of the object; None: chunked transfer coding that doesn't say
    chunked: bool
    sha256: str
    md5: bytes | None
    requested: checksums.Requested
    algorithm: str  # checksum to compute, "" for none
    etag: str  # "md5" or "crc64"


class Hashes:
    """Everything that one pass over the bytes computes."""

    __slots__ = ("crc", "md5", "sha256")

    def __init__(self, plan: Plan) -> None:
        self.md5 = hashlib.md5(usedforsecurity=False) if plan.etag == "md5" or plan.md5 is not None else None
        self.sha256 = hashlib.sha256() if plan.sha256 else None
        self.crc = checksums.new_hasher(plan.algorithm) if plan.algorithm else None

    def update(self, data: Buffer) -> None:
        if self.md5 is not None:
            self.md5.update(data)
        if self.crc is not None:
            self.crc.update(data)
        if self.sha256 is not None:
            self.sha256.update(data)


def plan_body(service: Service, call: Call, limit: int, algorithm: str = "") -> Plan:
    """Judge the headers before a byte is read. algorithm: what the multipart upload was created with."""
    headers, auth = call.headers, call.auth
    chunked = auth.payload.chunked
    wanted = checksums.requested(headers)
    if chunked:
        length: int | None = decoded_length(headers)
    else:
        length = call.body.length
        if "content-length" not in headers and "transfer-encoding" not in headers:
            raise S3Error("MissingContentLength")
        if wanted.in_trailer:
            raise S3Error("InvalidRequest", "A checksum in a trailer needs an aws-chunked body.")
    if length is not None and length > limit:
        raise S3Error(
            "EntityTooLarge", extra=(("ProposedSize", str(length)), ("MaxSizeAllowed", str(limit)))
        )  # fmt: skip
    name = wanted.algorithm
    if algorithm and name and name != algorithm:
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {algorithm}, actual checksum Type: {name}",
        )
    name = name or algorithm
    config = service.config
    if not name and config.default_checksum and checksums.is_fast(checksums.DEFAULT):
        name = checksums.DEFAULT
    etag = config.etag
    if etag == "crc64" and name != "crc64nvme":
        etag = "md5"  # one checksum only: MD5 is what remains for the ETag
    return Plan(length, chunked, auth.sha256 if auth.payload is PayloadMode.SHA256 else "",
                checksums.content_md5(headers), wanted, name, etag)  # fmt: skip


async def receive(service: Service, call: Call, plan: Plan, limit: int) -> Receipt:
    """Store the body. Whatever goes wrong, nothing of it remains."""
    if plan.length is not None and plan.length <= SMALL_BYTES:
        return await _receive_small(service, call, plan)
    return await _receive_stream(service, call, plan, limit)


async def _receive_small(service: Service, call: Call, plan: Plan) -> Receipt:
    body, length = call.body, plan.length
    assert length is not None
    trailers: dict[str, str] = {}
    if plan.chunked:
        decoder = AwsChunkedDecoder.for_request(call.auth, call.headers)
        pieces: list[Buffer] = []
        while raw := await body.read():
            pieces += [bytes(p) for p in decoder.feed(raw)]
        decoder.finish()
        trailers = decoder.trailers
        data: Buffer = b"".join(pieces)
    else:
        data = await read_announced(body, length)
    if len(data) != length:
        raise S3Error("IncompleteBody")
    hashes = Hashes(plan)
    hashes.update(data)
    etag, checksum = _prove(plan, hashes, trailers)
    return Receipt(await service.fs.content_of(data), length, etag, checksum)


async def _receive_stream(service: Service, call: Call, plan: Plan, limit: int) -> Receipt:
    decoder = AwsChunkedDecoder.for_request(call.auth, call.headers) if plan.chunked else None
    hashes = Hashes(plan)
    loop = asyncio.get_running_loop()
    writer = service.fs.new_content(plan.length)
    hashing: asyncio.Future[None] | None = None
    total = 0
    deadline = loop.time() + service.config.max_body_s
    try:
        await writer.open()
        room: memoryview | None = None
        # Of the room: [0, start) is being hashed, [start, filled) has come since then.
        start = filled = 0
        async with aclosing(_pieces(call, decoder)) as pieces:
            async for piece in pieces:
                view = memoryview(piece)
                total += len(view)
                if loop.time() > deadline:
                    raise S3Error(
                        "RequestTimeout", "The body took too long; send it as a multipart upload with smaller parts."
                    )
                if total > limit or (plan.length is not None and total > plan.length):
                    raise S3Error("EntityTooLarge" if total > limit else "IncompleteBody")
                while view:
                    if room is None:
                        room = writer.buffer()
                    n = min(len(room) - filled, len(view))
                    room[filled : filled + n] = view[:n]
                    view = view[n:]
                    filled += n
                    full = filled == len(room)
                    if not full and filled - start < SEGMENT:
                        continue
                    # The block may be uploaded and reused once it has been advanced over: hash first.
                    if hashing is not None:
                        await hashing
                    hashing = loop.run_in_executor(None, hashes.update, room[start:filled])
                    if full:
                        await hashing
                        hashing = None
                        room = None  # no view of it may be left when the writer gets the next one
                        await writer.advance(filled)
                        start = filled = 0
                    else:
                        start = filled
        if plan.length is not None and total != plan.length:
            raise S3Error("IncompleteBody")
        if hashing is not None:
            await hashing
            hashing = None
        if room is not None and filled > start:
            hashes.update(room[start:filled])
        etag, checksum = _prove(plan, hashes, decoder.trailers if decoder is not None else {})
        if filled:
            await writer.advance(filled)
        return Receipt(await writer.finish(), total, etag, checksum)
    except BaseException:
        if hashing is not None:  # the thread still reads the buffer that `abort` gives back
            await asyncio.wait([hashing])
        await writer.abort()
        raise


async def _pieces(call: Call, decoder: AwsChunkedDecoder | None) -> AsyncGenerator[Buffer, None]:
    body = call.body
    if decoder is None:
        while raw := await body.read():
            yield raw
        return
    while raw := await body.read():
        for piece in decoder.feed(raw):
            yield piece
    decoder.finish()


def _prove(plan: Plan, hashes: Hashes, trailers: dict[str, str]) -> tuple[str, tuple[str, str] | None]:
    """Compare every digest that the client sent. Returns ETag and checksum."""
    if hashes.sha256 is not None and not hmac.compare_digest(hashes.sha256.hexdigest(), plan.sha256):
        raise S3Error("XAmzContentSHA256Mismatch")
    md5 = hashes.md5.digest() if hashes.md5 is not None else b""
    if plan.md5 is not None and not hmac.compare_digest(md5, plan.md5):
        raise S3Error("BadDigest")
    checksum: tuple[str, str] | None = None
    digest = b""
    if hashes.crc is not None:
        digest = hashes.crc.digest()
        wanted = plan.requested
        if wanted.algorithm:
            expected = wanted.digest
            if expected is None:
                name = checksums.HEADER_PREFIX + wanted.algorithm
                if name not in trailers:
                    raise S3Error("MalformedTrailerError")
                expected = checksums.decode(wanted.algorithm, trailers[name])
            checksums.check(wanted.algorithm, expected, digest)
        checksum = (plan.algorithm, checksums.encode(digest))
    if plan.etag == "md5":
        return md5.hex(), checksum
    return f"CRC64-{digest.hex()}-0", checksum


async def hash_range(service: Service, found: Found, start: int, length: int, hashes: Hashes) -> None:
    """Hash bytes of an existing file, for copies that need digests nobody stored."""
    loop = asyncio.get_running_loop()
    async for part in service.fs.iter_range(found, start, length):
        if isinstance(part, FileRange):
            await loop.run_in_executor(None, _hash_file, part, hashes)
        elif len(part) > SMALL_BYTES:
            await loop.run_in_executor(None, hashes.update, part)
        else:
            hashes.update(part)


def _hash_file(part: FileRange, hashes: Hashes) -> None:
    left = part.length
    with open(part.path, "rb") as f:
        f.seek(part.offset)
        while left:
            data = f.read(min(left, SEGMENT))
            if not data:
                raise OSError(5, "a block file is shorter than its record says")
            hashes.update(data)
            left -= len(data)
