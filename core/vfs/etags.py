# SPDX-License-Identifier: Apache-2.0
"""What HTTP doors keep with a file: the attributes s3-etag, s3-meta, s3-tags and s3-ext, and which ETag follows.

Written down once, so that S3 and WebDAV give one file one ETag. The first three attributes are shared with JuiceFS
gateways byte for byte, `s3-ext` is ours and ignored by them. Pure functions; no IO, no clock.
Source: spec s3 §4.1–§4.3; spec webdav §14.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from core.meta.records import Attr

X_ETAG: Final = b"s3-etag"
X_META: Final = b"s3-meta"
X_TAGS: Final = b"s3-tags"
X_EXT: Final = b"s3-ext"

#: ETag of directories that are objects: that of no bytes.
EMPTY_MD5: Final = "d41d8cd98f00b204e9800998ecf8427e"

#: Volumes allow 64 KiB per attribute; per-part checksums go first when ours would pass this (§4.2).
MAX_EXT_BYTES: Final = 48 << 10

_SYNTHETIC: Final = struct.Struct(">QQq")


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


def decode_meta(xattrs: Mapping[bytes, bytes] | None) -> dict[str, str]:
    """s3-meta as lower-case names and text; {} if there is none or it is damaged."""
    raw = xattrs.get(X_META) if xattrs else None
    if not raw:
        return {}
    try:
        return {str(k).lower(): v if isinstance(v, str) else str(v) for k, v in _meta_decoder.decode(raw).items()}
    except msgspec.MsgspecError:
        return {}
