# SPDX-License-Identifier: Apache-2.0
"""Names: from a request path to bucket and key, which names are legal, and where they lie on the volume.

Keys are bytes: the percent-decoded path, UTF-8 unless another front end made a file name that is not. Bucket names are
ASCII text. Nothing here looks at the volume; links and existence are the file system's business.
Source: spec s3 §2.1, §2.2 (paths), §3.1 (buckets), §3.2 (hidden names), §3.3 (keys), §11.5 (copy source), §12 (ids).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from gateways.s3.errors import S3Error

MAX_KEY_BYTES = 1024
#: A key segment becomes a file name; the volume stores names of up to 255 bytes.
MAX_SEGMENT_BYTES = 255
MAX_PART_NUMBER = 10_000

#: Names at the volume root that S3 never shows or serves. Deeper down they are ordinary.
HIDDEN = frozenset({b".sys", b".minio.sys", b".trash", b".stats", b".config", b".accesslog", b".control"})
#: `/minio/…` is where health checks and metrics live, so it can't be a bucket.
RESERVED_BUCKETS = frozenset({"minio"})

_BAD_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
_BAD_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3")
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]", re.ASCII)
_RELAXED_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9_]", re.ASCII)
_IPV4 = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)
_UPLOAD_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)

_HEX = {(a + b).encode(): bytes((int(a + b, 16),)) for a in "0123456789abcdefABCDEF" for b in "0123456789abcdefABCDEF"}


class Target(NamedTuple):
    """What a request addresses. No bucket: the service. No key: the bucket."""

    bucket: str
    key: bytes


def percent_decode(raw: bytes) -> bytes:
    """Decode once; `+` is a literal plus. Broken encoding is 400 `InvalidURI`."""
    if b"%" not in raw:
        return raw
    first, *rest = raw.split(b"%")
    out = [first]
    try:
        for piece in rest:
            out.append(_HEX[piece[:2]])
            out.append(piece[2:])
    except KeyError:
        raise S3Error("InvalidURI") from None
    return b"".join(out)


def parse_path(raw_path: str, host_bucket: str = "") -> Target:
    """Bucket and key of a raw request path (latin-1 text, still encoded). Names are not checked here.

    host_bucket: bucket that `bucket_from_host` found; then the whole path is the key.
    """
    if not raw_path.startswith("/"):
        if raw_path == "" or raw_path == "*":  # "*" is the target of a server-wide OPTIONS
            return Target(host_bucket, b"")
        raise S3Error("InvalidURI", "The request target must be a path that starts with a slash.")
    raw = raw_path.encode("latin-1")
    if host_bucket:
        return Target(host_bucket, percent_decode(raw[1:]))
    if raw == b"//":  # an old client lists its buckets like this
        return Target("", b"")
    bucket, _, key = raw[1:].partition(b"/")
    if not bucket:
        if key:
            raise S3Error("InvalidBucketName", "The bucket name is empty: the path starts with two slashes.")
        return Target("", b"")
    # Bytes that aren't ASCII stay visible as latin-1, so that the name check refuses them.
    return Target(percent_decode(bucket).decode("latin-1"), percent_decode(key))


def bucket_from_host(host: str, domains: Sequence[str]) -> str:
    """Bucket of a virtual-host request, "" for path style. The longest matching domain wins; the port is ignored."""
    if not domains:
        return ""
    if not host.startswith("["):
        host = host.partition(":")[0]
    name = host.lower().rstrip(".")
    best = ""
    for domain in domains:
        domain = domain.lower()
        if len(domain) > len(best) and (name == domain or name.endswith("." + domain)):
            best = domain
    return name[: -len(best) - 1] if best and name != best else ""


@lru_cache(maxsize=4096)
def valid_bucket_name(name: str, relaxed: bool = False) -> bool:
    """May a bucket be called this? relaxed: as `--relaxed-bucket-names` shows existing directories."""
    if name in RESERVED_BUCKETS or name.encode("utf-8", "replace") in HIDDEN:
        return False
    if relaxed:
        return _RELAXED_BUCKET.fullmatch(name) is not None and ".." not in name
    return (
        _BUCKET.fullmatch(name) is not None
        and ".." not in name
        and ".-" not in name
        and "-." not in name
        and _IPV4.fullmatch(name) is None
        and not name.startswith(_BAD_PREFIXES)
        and not name.endswith(_BAD_SUFFIXES)
    )


def check_bucket_name(name: str, *, relaxed: bool = False, create: bool = False) -> None:
    """Refuse a request for a bucket that can't exist: hidden 403, on creation 400 `InvalidBucketName`, else 404."""
    if valid_bucket_name(name, relaxed):
        return
    if name.encode("utf-8", "replace") in HIDDEN:
        raise S3Error("AllAccessDisabled")
    raise S3Error("InvalidBucketName" if create else "NoSuchBucket")


def check_key(key: bytes, *, multi: bool, any_bytes: bool = False) -> None:
    """Refuse a key that has no path on the volume.

    multi: buckets are top-level directories, so the first key segment isn't at the volume root.
    any_bytes: accept bytes that aren't UTF-8 (reading or deleting a file that another front end named so).
    """
    if not key:
        raise S3Error("InvalidArgument", "The key is empty.")
    if len(key) > MAX_KEY_BYTES:
        raise S3Error(
            "KeyTooLongError",
            f"Your key is longer than {MAX_KEY_BYTES} bytes.",
            extra=(("Size", str(len(key))), ("MaxSizeAllowed", str(MAX_KEY_BYTES))),
        )
    # With slashes around it, every forbidden segment is one substring search.
    framed = b"/" + key if key.endswith(b"/") else b"/" + key + b"/"
    if b"//" in framed or b"/./" in framed or b"/../" in framed:
        raise S3Error("InvalidArgument", "A key can't have an empty segment or a segment '.' or '..': it is a path.")
    if b"\0" in key:
        raise S3Error("InvalidArgument", "A key can't contain a NUL byte.")
    if len(key) > MAX_SEGMENT_BYTES and max(map(len, key.split(b"/"))) > MAX_SEGMENT_BYTES:
        raise S3Error(
            "KeyTooLongError", f"A segment of your key (between slashes) is longer than {MAX_SEGMENT_BYTES} bytes."
        )
    if not any_bytes and not key.isascii():
        try:
            key.decode()
        except UnicodeDecodeError:
            raise S3Error("InvalidArgument", "The key is not valid UTF-8.") from None
    if not multi and key[:1] == b"." and key.partition(b"/")[0] in HIDDEN:
        raise S3Error("AllAccessDisabled")


def key_text(key: bytes) -> str:
    """A key as text; bytes that aren't UTF-8 become lone surrogates (xml_text writes them as `?`)."""
    return key.decode("utf-8", "surrogateescape")


def volume_path(bucket: str, key: bytes = b"", *, multi: bool) -> bytes:
    """Absolute path on the volume of a checked bucket and key; the slash of a directory object is dropped."""
    if key.endswith(b"/"):
        key = key[:-1]
    if not multi:
        return b"/" + key
    root = b"/" + bucket.encode("latin-1")
    return root + b"/" + key if key else root


class CopySource(NamedTuple):
    bucket: str
    key: bytes
    version_id: str  # "" when not given


def parse_copy_source(value: str) -> CopySource:
    """`x-amz-copy-source`: `BUCKET/KEY[?versionId=…]`, percent-encoded, optional leading slash. Names unchecked."""
    path, question, version = value.partition("?versionId=")
    if not question and value.endswith("?"):
        path = value[:-1]
    try:
        # Unlike in a request's path, a plus is a space here: s5cmd and other Go programs encode it as a form does,
        # and AWS decodes it so; a plus in a key comes as %2B.
        raw = percent_decode(path.replace("+", " ").encode("latin-1"))
    except (S3Error, UnicodeEncodeError):
        raise S3Error("InvalidArgument", "The copy source is not correctly percent-encoded.") from None
    bucket, slash, key = raw.removeprefix(b"/").partition(b"/")
    if not (bucket and slash and key) or (question and not version):
        raise S3Error(
            "InvalidArgument",
            "The copy source must name a bucket and a key, as in BUCKET/KEY or BUCKET/KEY?versionId=ID.",
            extra=(("ArgumentName", "x-amz-copy-source"), ("ArgumentValue", value)),
        )
    return CopySource(bucket.decode("latin-1"), key, version)


def check_upload_id(upload_id: str) -> None:
    """Ids become path segments: only the UUID form may pass."""
    if _UPLOAD_ID.fullmatch(upload_id) is None:
        raise S3Error("NoSuchUpload")


def parse_part_number(text: str) -> int:
    """1…10000, else 400 `InvalidArgument`."""
    if text.isascii() and text.isdigit() and len(text) <= 5:
        number = int(text)
        if 1 <= number <= MAX_PART_NUMBER:
            return number
    raise S3Error(
        "InvalidArgument",
        f"Part number must be an integer between 1 and {MAX_PART_NUMBER}, inclusive.",
        extra=(("ArgumentName", "partNumber"), ("ArgumentValue", text[:100])),
    )
