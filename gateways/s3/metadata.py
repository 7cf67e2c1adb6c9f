# SPDX-License-Identifier: Apache-2.0
"""What an object carries beside its bytes: headers to s3-meta and back, folder markers, runs of parts.

Pure functions; no IO, no clock. The attributes themselves and the rule of ETags are `core/vfs/etags.py`, which all HTTP
doors share. Source: spec s3 §4.1, §4.2.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from typing import Final

import msgspec

from core.meta.records import Attr
from core.vfs.etags import X_EXT, X_META, decode_ext, decode_meta
from gateways.s3.config import MAX_USER_METADATA_BYTES
from gateways.s3.errors import S3Error

X_OBJECT: Final = b"s3-object"

DEFAULT_TYPE: Final = "binary/octet-stream"
DIRECTORY_TYPE: Final = "application/x-directory"

#: Request headers kept in s3-meta besides x-amz-meta-* (§4.1); JuiceFS sends every entry back as a header.
KEPT_HEADERS: Final = (
    "cache-control", "content-disposition", "content-language", "expires", "x-amz-website-redirect-location",
)  # fmt: skip
#: Entries of s3-meta that are never answered as headers: they are computed, or were kept by mistake (§4.1).
HIDDEN_META: Final = frozenset(
    {"etag", "md5sum", "last-modified", "x-amz-tagging", "content-length", "content-md5", "transfer-encoding",
     "x-amz-storage-class", "connection", "date", "server"}
)  # fmt: skip

#: The attribute value of a plain PUT without any header worth keeping, as JuiceFS writes it.
PLAIN_META: Final = b'{"content-type":"binary/octet-stream"}'
#: Marks a directory that this family of gateways made because a key needed it (§3.6).
IMPLICIT_DIR: Final[Mapping[bytes, bytes]] = {X_EXT: b'{"v":1,"mk":1}'}

_encoder = msgspec.json.Encoder(order="sorted")


def explicit_dir(attr: Attr, xattrs: Mapping[bytes, bytes] | None) -> bool:
    """Was this directory created as an object (§3.5)? atime 0 is what JuiceFS writes; a mount may erase it."""
    if attr.atime_ns == 0:
        return True
    raw = xattrs.get(X_EXT) if xattrs else None
    if raw is None or b'"dir"' not in raw:
        return False
    ext = decode_ext(xattrs)
    return ext is not None and ext.dir


# -- s3-meta -------------------------------------------------------------------------------------------------------


def text_of(value: str) -> str:
    """Header value as sent (latin-1 text of the bytes) to the text that it means."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        return value


def wire(value: str) -> str:
    """Text to a header value: UTF-8 bytes as latin-1, without anything that would end the header."""
    if not value.isascii():
        value = value.encode("utf-8", "surrogatepass").decode("latin-1")
    if "\n" in value or "\r" in value or "\0" in value:
        value = value.translate({10: " ", 13: " ", 0: ""})
    return value


def stored_encoding(value: str) -> str:
    """Content-Encoding without the framing of the upload: `gzip, aws-chunked` is gzip (§5.4)."""
    return ", ".join(p for p in (x.strip() for x in value.split(",")) if p and p.lower() != "aws-chunked")


def meta_from_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What a PUT, POST or REPLACE asks to keep. Raises MetadataTooLarge, InvalidArgument."""
    meta: dict[str, str] = {"content-type": text_of(headers.get("content-type") or DEFAULT_TYPE)}
    size = 0
    for name, value in headers.items():
        if name.startswith("x-amz-meta-"):
            value = text_of(value)
            size += len(name) - 11 + len(value.encode("utf-8", "surrogatepass"))
            meta[name] = value
        elif name in KEPT_HEADERS:
            meta[name] = text_of(value)
        elif name == "content-encoding":
            encoding = stored_encoding(value)
            if encoding:
                meta[name] = text_of(encoding)
    if size > MAX_USER_METADATA_BYTES:
        raise S3Error("MetadataTooLarge", f"user metadata of {size} bytes; {MAX_USER_METADATA_BYTES} are allowed")
    for name, value in meta.items():
        if "\r" in value or "\n" in value or "\0" in value:
            raise S3Error("InvalidArgument", f"header {name} holds a line break or NUL")
    return meta


def encode_meta(meta: Mapping[str, str]) -> bytes:
    return _encoder.encode(meta)


def guess_type(key: bytes) -> str:
    """Content type of a file that no S3 client wrote (§11.2)."""
    name = key.rsplit(b"/", 1)[-1].decode("utf-8", "replace")
    guessed, encoding = mimetypes.guess_type(name)
    return guessed if guessed and not encoding else DEFAULT_TYPE


_PLAIN_HEADERS: Final = [("Content-Type", DEFAULT_TYPE)]


def meta_headers(key: bytes, attr: Attr, xattrs: Mapping[bytes, bytes] | None) -> list[tuple[str, str]]:
    """Response headers from s3-meta, content type first (a new list)."""
    if xattrs and xattrs.get(X_META) == PLAIN_META and not attr.is_dir:
        return list(_PLAIN_HEADERS)
    meta = decode_meta(xattrs)
    kind = meta.pop("content-type", "")
    if not kind:
        kind = DIRECTORY_TYPE if attr.is_dir else guess_type(key)
    out = [("Content-Type", wire(kind))]
    for name, value in meta.items():
        if name in HIDDEN_META or not _is_token(name):
            continue
        out.append((_CANONICAL.get(name, name), wire(value)))
    return out


_CANONICAL: Final = {
    "cache-control": "Cache-Control", "content-disposition": "Content-Disposition", "expires": "Expires",
    "content-encoding": "Content-Encoding", "content-language": "Content-Language",
}  # fmt: skip

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


def _is_token(name: str) -> bool:
    return bool(name) and _TOKEN.issuperset(name)


# -- parts ---------------------------------------------------------------------------------------------------------


def pack_parts(sizes: list[int]) -> list[tuple[int, int]]:
    """Run lengths of part sizes."""
    runs: list[tuple[int, int]] = []
    for size in sizes:
        if runs and runs[-1][0] == size:
            runs[-1] = (size, runs[-1][1] + 1)
        else:
            runs.append((size, 1))
    return runs


def part_count(runs: list[tuple[int, int]]) -> int:
    return sum(count for _, count in runs)
