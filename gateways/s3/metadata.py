# SPDX-License-Identifier: Apache-2.0
"""What an object carries beside its bytes: the extended attributes s3-etag, s3-meta, s3-tags and s3-ext.

Pure functions; no IO, no clock. The first three are shared with JuiceFS gateways byte for byte, `s3-ext` is ours
and ignored by them. Source: spec s3 §4.1-4.3.
"""

from __future__ import annotations

import hashlib
import mimetypes
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from core.meta.records import Attr
from gateways.s3.config import MAX_USER_METADATA_BYTES
from gateways.s3.errors import S3Error

X_ETAG: Final = b"s3-etag"
X_META: Final = b"s3-meta"
X_TAGS: Final = b"s3-tags"
X_OBJECT: Final = b"s3-object"
X_EXT: Final = b"s3-ext"

EMPTY_MD5: Final = "d41d8cd98f00b204e9800998ecf8427e"
DEFAULT_TYPE: Final = "binary/octet-stream"
DIRECTORY_TYPE: Final = "application/x-directory"

#: Volumes allow 64 KiB per attribute; per-part checksums go first when ours would pass this (§4.2).
MAX_EXT_BYTES: Final = 48 << 10

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

_SYNTHETIC = struct.Struct(">QQq")
_encoder = msgspec.json.Encoder(order="sorted")


class Ext(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The s3-ext attribute. length, mt: the file at publish; they tell whether etag, ck and parts still hold."""

    v: int
    length: int | None = msgspec.field(name="len", default=None)
    mt: int | None = None
    etag: str | None = None
    parts: list[tuple[int, int]] | None = None  # run lengths: (size, how many parts of that size)
    ck: dict[str, str] | None = None
    ckt: str | None = None
    pck: dict[str, list[str]] | None = None
    pnum: list[int] | None = None  # part numbers, if they aren't 1, 2, 3 …
    uid: str | None = None
    dir: bool = False
    mk: int = 0
    own: str | None = None
    lock: Any = None
    rt: Any = None
    # Of an upload directory: the checksum that parts will carry, and when it began.
    alg: str | None = None
    began: int | None = None

    def describes(self, attr: Attr) -> bool:
        return self.length == attr.length and self.mt == attr.mtime_ns


_ext_decoder = msgspec.json.Decoder(Ext)
_meta_decoder = msgspec.json.Decoder(dict[str, Any])


def decode_ext(xattrs: Mapping[bytes, bytes] | None) -> Ext | None:
    """The extension record, or None if there is none or somebody damaged it."""
    raw = xattrs.get(X_EXT) if xattrs else None
    if raw is None:
        return None
    try:
        return _ext_decoder.decode(raw)
    except msgspec.MsgspecError:
        return None


def encode_ext(ext: Ext) -> bytes:
    raw = msgspec.json.encode(ext)
    if len(raw) > MAX_EXT_BYTES:
        raw = msgspec.json.encode(msgspec.structs.replace(ext, pck=None, pnum=None))
    return raw


def plain_ext(length: int, mtime_ns: int, checksum: tuple[str, str] | None) -> bytes:
    """s3-ext of a plain PUT, written by hand: it is on the path of every small object. Same bytes as `encode_ext`."""
    if checksum is None:
        return b'{"v":1,"len":%d,"mt":%d}' % (length, mtime_ns)
    name, value = checksum
    return b'{"v":1,"len":%d,"mt":%d,"ck":{"%s":"%s"},"ckt":"FULL_OBJECT"}' % (
        length, mtime_ns, name.encode(), value.encode(),
    )  # fmt: skip


# -- ETags ---------------------------------------------------------------------------------------------------------


def synthetic_etag(ino: int, attr: Attr) -> str:
    """Strong ETag of a file that another front end wrote; the dash keeps clients from taking it for an MD5."""
    raw = _SYNTHETIC.pack(ino, attr.length, attr.mtime_ns)
    return hashlib.blake2b(raw, digest_size=16).hexdigest() + "-0"


def identify(ino: int, attr: Attr, xattrs: Mapping[bytes, bytes] | None) -> tuple[str, Ext | None]:
    """ETag without quotes, and the extension record if it still describes the content (§4.3)."""
    if attr.is_dir:
        return EMPTY_MD5, decode_ext(xattrs)
    if xattrs:
        stored = xattrs.get(X_ETAG)
        ext = decode_ext(xattrs)
        if ext is not None and ext.length is not None:
            if ext.describes(attr):
                if stored:
                    return stored.decode("ascii", "replace"), ext
                if ext.etag:
                    return ext.etag, ext
                return synthetic_etag(ino, attr), ext
        elif stored and attr.mtime_ns != attr.ctime_ns:
            # A JuiceFS gateway's object: its rename set ctime after the last write. A later write in place sets
            # both to one instant, and the stored value no longer holds.
            return stored.decode("ascii", "replace"), None
    return synthetic_etag(ino, attr), None


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


def decode_meta(xattrs: Mapping[bytes, bytes] | None) -> dict[str, str]:
    """s3-meta as lower-case names and text; {} if there is none or it is damaged."""
    raw = xattrs.get(X_META) if xattrs else None
    if not raw:
        return {}
    try:
        return {str(k).lower(): v if isinstance(v, str) else str(v) for k, v in _meta_decoder.decode(raw).items()}
    except msgspec.MsgspecError:
        return {}


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
