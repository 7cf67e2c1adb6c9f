# SPDX-License-Identifier: Apache-2.0
"""What other doors keep beside the bytes of a file, as far as WebDAV shows it: ETag, content type, language, coding.

Pure functions. What is stored, and the rule of ETags, is `core/vfs/etags.py`, which all HTTP doors share.
Source: spec webdav §4.1, §7, §14.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from core.meta.records import Attr
from core.vfs.etags import X_ETAG, X_EXT, X_META, X_TAGS, decode_meta, identify, plain_ext, synthetic_etag

#: What describes the content rather than the file: new content drops it (§8).
OF_CONTENT: Final = (X_ETAG, X_META, X_TAGS, X_EXT)

DIRECTORY_TYPE: Final = "httpd/unix-directory"
DEFAULT_TYPE: Final = "application/octet-stream"
MAX_TYPE: Final = 255
_UNSPECIFIC: Final = frozenset({"", "binary/octet-stream", DEFAULT_TYPE})


def etag_of(ino: int, attr: Attr, xattrs: Mapping[bytes, bytes] | None) -> str:
    """Of a file, without quotes; always strong."""
    return identify(ino, attr, xattrs)[0] if xattrs else synthetic_etag(ino, attr)


def facts_of(length: int, mtime_ns: int, etag: str, kind: str) -> dict[bytes, bytes]:
    """Attributes of new content: its MD5 as ETag, valid while length and mtime stay, and the type a client named."""
    facts: dict[bytes, bytes] = {}
    if etag:
        facts[X_ETAG], facts[X_EXT] = etag.encode(), plain_ext(length, mtime_ns, None)
    if kind and kind.isascii() and kind.isprintable() and len(kind) <= MAX_TYPE:
        facts[X_META] = msgspec.json.encode({"content-type": kind})
    return facts


def stored_meta(xattrs: Mapping[bytes, bytes] | None) -> dict[str, str]:
    """s3-meta in lower case, values that can't be headers left out."""
    return {name: value for name, value in decode_meta(xattrs).items() if not any(c in value for c in "\r\n\0")}


def content_type(name: bytes, xattrs: Mapping[bytes, bytes] | None) -> str:
    """The stored type if it says anything, else by the name's extension; the bytes are never looked at (§4.1)."""
    if xattrs and X_META in xattrs:
        stored = stored_meta(xattrs).get("content-type", "")
        if stored not in _UNSPECIFIC and stored.isprintable() and stored.isascii():
            return stored
    dot = name.rfind(b".")
    return _TYPES.get(name[dot + 1 :].lower(), DEFAULT_TYPE) if dot >= 0 else DEFAULT_TYPE


_BY_TYPE: Final = {
    "text/plain": "txt text log conf cfg ini", "text/html": "html htm", "text/css": "css", "text/csv": "csv",
    "text/markdown": "md markdown", "text/calendar": "ics", "text/vcard": "vcf", "text/xml": "xml xsl",
    "text/javascript": "js mjs", "application/json": "json", "application/pdf": "pdf", "application/zip": "zip",
    "application/gzip": "gz tgz", "application/x-tar": "tar", "application/x-bzip2": "bz2", "application/x-xz": "xz",
    "application/zstd": "zst", "application/x-7z-compressed": "7z", "application/vnd.rar": "rar",
    "application/rtf": "rtf", "application/msword": "doc dot", "application/vnd.ms-excel": "xls",
    "application/vnd.ms-powerpoint": "ppt", "application/epub+zip": "epub", "application/wasm": "wasm",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.oasis.opendocument.text": "odt", "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.presentation": "odp", "application/x-sh": "sh", "application/toml": "toml",
    "application/yaml": "yaml yml", "application/sql": "sql", "application/vnd.apache.parquet": "parquet",
    "image/png": "png", "image/jpeg": "jpg jpeg jpe", "image/gif": "gif", "image/webp": "webp", "image/avif": "avif",
    "image/svg+xml": "svg", "image/tiff": "tif tiff", "image/bmp": "bmp", "image/vnd.microsoft.icon": "ico",
    "image/heic": "heic", "audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/ogg": "ogg oga opus", "audio/flac": "flac",
    "audio/wav": "wav", "video/mp4": "mp4 m4v", "video/webm": "webm", "video/quicktime": "mov qt",
    "video/x-matroska": "mkv", "video/x-msvideo": "avi", "video/mpeg": "mpg mpeg", "font/woff": "woff",
    "font/woff2": "woff2", "font/ttf": "ttf", "font/otf": "otf", "text/x-python": "py", "text/x-c": "c h cc cpp hpp",
    "message/rfc822": "eml",
}  # fmt: skip
_TYPES: Final = {ext.encode(): kind for kind, exts in _BY_TYPE.items() for ext in exts.split()}
