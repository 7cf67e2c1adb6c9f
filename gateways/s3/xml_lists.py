# SPDX-License-Identifier: Apache-2.0
"""Response bodies that list things: buckets, objects, versions, uploads, parts.

Built as lists of strings, one f-string per entry: a page of 1000 keys takes a few milliseconds. Keys are bytes; with
`url` they are percent-encoded, as the client asked by `encoding-type=url`.
Source: spec s3 §9 (ListBuckets), §10.5 (objects, versions), §12 (uploads, parts), §8 (escapes and times).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gateways.s3.xml_text import DECLARATION, NAMESPACE, escape, iso_time, url_encode


class Owner(NamedTuple):
    id: str
    display_name: str


class BucketEntry(NamedTuple):
    name: str
    created_s: int
    created_ns: int = 0
    region: str = ""


class ObjectEntry(NamedTuple):
    """One key of a listing. etag without quotes, "" if unknown. version_id and is_latest only matter for versions."""

    key: bytes
    size: int
    etag: str
    mtime_s: int
    mtime_ns: int = 0
    owner: Owner | None = None
    storage_class: str = "STANDARD"
    checksum_algorithms: tuple[str, ...] = ()  # such as ("CRC32",)
    checksum_type: str = ""
    version_id: str = "null"
    is_latest: bool = True
    delete_marker: bool = False


class UploadEntry(NamedTuple):
    key: bytes
    upload_id: str
    initiated_s: int
    initiated_ns: int
    owner: Owner
    storage_class: str = "STANDARD"
    checksum_algorithm: str = ""
    checksum_type: str = ""


class PartEntry(NamedTuple):
    """checksums: algorithm as in headers (`crc32`) -> base64."""

    number: int
    size: int
    etag: str
    mtime_s: int
    mtime_ns: int = 0
    checksums: tuple[tuple[str, str], ...] = ()


def name_writer(url: bool) -> Callable[[bytes], str]:
    """How keys, prefixes and markers are written in this listing."""
    return url_encode if url else _plain


def _plain(key: bytes) -> str:
    return escape(key.decode("utf-8", "surrogateescape"))


def owner_xml(owner: Owner, tag: str = "Owner") -> str:
    return f"<{tag}><ID>{escape(owner.id)}</ID><DisplayName>{escape(owner.display_name)}</DisplayName></{tag}>"


def checksum_xml(checksums: Iterable[tuple[str, str]]) -> str:
    """`<ChecksumCRC32>…` for each (algorithm, base64)."""
    return "".join([f"<Checksum{name.upper()}>{escape(value)}</Checksum{name.upper()}>" for name, value in checksums])


def _root(name: str) -> str:
    return f'{DECLARATION}<{name} xmlns="{NAMESPACE}">'


def list_buckets(
    owner: Owner, buckets: Iterable[BucketEntry], *, prefix: str | None = None, continuation_token: str | None = None
) -> bytes:
    out = [_root("ListAllMyBucketsResult"), owner_xml(owner), "<Buckets>"]
    for b in buckets:
        region = f"<BucketRegion>{escape(b.region)}</BucketRegion>" if b.region else ""
        out.append(
            f"<Bucket><Name>{escape(b.name)}</Name><CreationDate>{iso_time(b.created_s, b.created_ns)}</CreationDate>"
            f"{region}</Bucket>"
        )
    out.append("</Buckets>")
    if continuation_token is not None:
        out.append(f"<ContinuationToken>{escape(continuation_token)}</ContinuationToken>")
    if prefix is not None:
        out.append(f"<Prefix>{escape(prefix)}</Prefix>")
    out.append("</ListAllMyBucketsResult>")
    return "".join(out).encode()


def _contents(out: list[str], objects: Iterable[ObjectEntry], write: Callable[[bytes], str]) -> None:
    owners: dict[Owner | None, str] = {None: ""}
    for o in objects:
        owner = owners.get(o.owner)
        if owner is None:
            assert o.owner is not None
            owner = owners[o.owner] = owner_xml(o.owner)
        checksum = ""
        if o.checksum_algorithms:
            checksum = "".join([f"<ChecksumAlgorithm>{escape(a)}</ChecksumAlgorithm>" for a in o.checksum_algorithms])
            if o.checksum_type:
                checksum += f"<ChecksumType>{escape(o.checksum_type)}</ChecksumType>"
        etag = f"<ETag>&quot;{escape(o.etag)}&quot;</ETag>" if o.etag else ""
        out.append(
            f"<Contents><Key>{write(o.key)}</Key><LastModified>{iso_time(o.mtime_s, o.mtime_ns)}</LastModified>"
            f"{etag}{checksum}<Size>{o.size}</Size><StorageClass>{escape(o.storage_class)}</StorageClass>"
            f"{owner}</Contents>"
        )


def _prefixes(out: list[str], prefixes: Iterable[bytes], write: Callable[[bytes], str]) -> None:
    out.extend([f"<CommonPrefixes><Prefix>{write(p)}</Prefix></CommonPrefixes>" for p in prefixes])


def _optional(tag: str, value: bytes | None, write: Callable[[bytes], str]) -> str:
    return "" if value is None else f"<{tag}>{write(value)}</{tag}>"


def _truncated(truncated: bool, url: bool) -> str:
    encoding = "<EncodingType>url</EncodingType>" if url else ""
    return f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>{encoding}"


def list_objects_v1(
    bucket: str, objects: Iterable[ObjectEntry], common_prefixes: Iterable[bytes] = (), *, prefix: bytes = b"",
    delimiter: bytes | None = None, marker: bytes = b"", next_marker: bytes | None = None, max_keys: int = 1000,
    truncated: bool = False, url: bool = False,
) -> bytes:  # fmt: skip
    """next_marker: only when truncated and a delimiter was given."""
    write = name_writer(url)
    out = [
        _root("ListBucketResult"),
        f"<Name>{escape(bucket)}</Name><Prefix>{write(prefix)}</Prefix><Marker>{write(marker)}</Marker>",
        _optional("NextMarker", next_marker, write),
        f"<MaxKeys>{max_keys}</MaxKeys>",
        _optional("Delimiter", delimiter or None, write),
        _truncated(truncated, url),
    ]
    _contents(out, objects, write)
    _prefixes(out, common_prefixes, write)
    out.append("</ListBucketResult>")
    return "".join(out).encode()


def list_objects_v2(
    bucket: str, objects: Sequence[ObjectEntry], common_prefixes: Sequence[bytes] = (), *, prefix: bytes = b"",
    delimiter: bytes | None = None, start_after: bytes | None = None, continuation_token: str | None = None,
    next_continuation_token: str | None = None, max_keys: int = 1000, truncated: bool = False, url: bool = False,
) -> bytes:  # fmt: skip
    """continuation_token: echoed if it was sent, even when empty. Owner elements come with the entries' `owner`."""
    write = name_writer(url)
    out = [
        _root("ListBucketResult"),
        f"<Name>{escape(bucket)}</Name><Prefix>{write(prefix)}</Prefix>",
        "" if continuation_token is None else f"<ContinuationToken>{escape(continuation_token)}</ContinuationToken>",
        ""
        if next_continuation_token is None
        else f"<NextContinuationToken>{escape(next_continuation_token)}</NextContinuationToken>",
        _optional("StartAfter", start_after, write),
        f"<KeyCount>{len(objects) + len(common_prefixes)}</KeyCount><MaxKeys>{max_keys}</MaxKeys>",
        _optional("Delimiter", delimiter or None, write),
        _truncated(truncated, url),
    ]
    _contents(out, objects, write)
    _prefixes(out, common_prefixes, write)
    out.append("</ListBucketResult>")
    return "".join(out).encode()


def list_versions(
    bucket: str, versions: Iterable[ObjectEntry], common_prefixes: Iterable[bytes] = (), *, prefix: bytes = b"",
    delimiter: bytes | None = None, key_marker: bytes = b"", version_id_marker: str = "",
    next_key_marker: bytes | None = None, next_version_id_marker: str | None = None, max_keys: int = 1000,
    truncated: bool = False, url: bool = False,
) -> bytes:  # fmt: skip
    write = name_writer(url)
    out = [
        _root("ListVersionsResult"),
        f"<Name>{escape(bucket)}</Name><Prefix>{write(prefix)}</Prefix><KeyMarker>{write(key_marker)}</KeyMarker>",
        f"<VersionIdMarker>{escape(version_id_marker)}</VersionIdMarker>",
        _optional("NextKeyMarker", next_key_marker, write),
        ""
        if next_version_id_marker is None
        else f"<NextVersionIdMarker>{escape(next_version_id_marker)}</NextVersionIdMarker>",
        f"<MaxKeys>{max_keys}</MaxKeys>",
        _optional("Delimiter", delimiter or None, write),
        _truncated(truncated, url),
    ]
    for v in versions:
        owner = owner_xml(v.owner) if v.owner else ""
        head = (
            f"<Key>{write(v.key)}</Key><VersionId>{escape(v.version_id)}</VersionId>"
            f"<IsLatest>{'true' if v.is_latest else 'false'}</IsLatest>"
            f"<LastModified>{iso_time(v.mtime_s, v.mtime_ns)}</LastModified>"
        )
        if v.delete_marker:
            out.append(f"<DeleteMarker>{head}{owner}</DeleteMarker>")
            continue
        etag = f"<ETag>&quot;{escape(v.etag)}&quot;</ETag>" if v.etag else ""
        out.append(
            f"<Version>{head}{etag}<Size>{v.size}</Size><StorageClass>{escape(v.storage_class)}</StorageClass>"
            f"{owner}</Version>"
        )
    _prefixes(out, common_prefixes, write)
    out.append("</ListVersionsResult>")
    return "".join(out).encode()


def _checksum_kind(algorithm: str, kind: str) -> str:
    if not algorithm:
        return ""
    tail = f"<ChecksumType>{escape(kind)}</ChecksumType>" if kind else ""
    return f"<ChecksumAlgorithm>{escape(algorithm.upper())}</ChecksumAlgorithm>{tail}"


def list_multipart_uploads(
    bucket: str, uploads: Iterable[UploadEntry], common_prefixes: Iterable[bytes] = (), *, prefix: bytes = b"",
    delimiter: bytes | None = None, key_marker: bytes = b"", upload_id_marker: str = "",
    next_key_marker: bytes | None = None, next_upload_id_marker: str | None = None, max_uploads: int = 1000,
    truncated: bool = False, url: bool = False,
) -> bytes:  # fmt: skip
    write = name_writer(url)
    out = [
        _root("ListMultipartUploadsResult"),
        f"<Bucket>{escape(bucket)}</Bucket><KeyMarker>{write(key_marker)}</KeyMarker>",
        f"<UploadIdMarker>{escape(upload_id_marker)}</UploadIdMarker>",
        _optional("NextKeyMarker", next_key_marker, write),
        ""
        if next_upload_id_marker is None
        else f"<NextUploadIdMarker>{escape(next_upload_id_marker)}</NextUploadIdMarker>",
        f"<Prefix>{write(prefix)}</Prefix>",
        _optional("Delimiter", delimiter or None, write),
        f"<MaxUploads>{max_uploads}</MaxUploads>",
        _truncated(truncated, url),
    ]
    for u in uploads:
        out.append(
            f"<Upload><Key>{write(u.key)}</Key><UploadId>{escape(u.upload_id)}</UploadId>"
            f"{owner_xml(u.owner, 'Initiator')}{owner_xml(u.owner)}"
            f"<StorageClass>{escape(u.storage_class)}</StorageClass>"
            f"<Initiated>{iso_time(u.initiated_s, u.initiated_ns)}</Initiated>"
            f"{_checksum_kind(u.checksum_algorithm, u.checksum_type)}</Upload>"
        )
    _prefixes(out, common_prefixes, write)
    out.append("</ListMultipartUploadsResult>")
    return "".join(out).encode()


def list_parts(
    bucket: str, key: bytes, upload_id: str, parts: Iterable[PartEntry], *, owner: Owner, marker: int = 0,
    next_marker: int = 0, max_parts: int = 1000, truncated: bool = False, storage_class: str = "STANDARD",
    checksum_algorithm: str = "", checksum_type: str = "",
) -> bytes:  # fmt: skip
    """next_marker: number of the last part of the page."""
    out = [
        _root("ListPartsResult"),
        f"<Bucket>{escape(bucket)}</Bucket><Key>{_plain(key)}</Key><UploadId>{escape(upload_id)}</UploadId>",
        owner_xml(owner, "Initiator"),
        owner_xml(owner),
        f"<StorageClass>{escape(storage_class)}</StorageClass><PartNumberMarker>{marker}</PartNumberMarker>"
        f"<NextPartNumberMarker>{next_marker}</NextPartNumberMarker><MaxParts>{max_parts}</MaxParts>",
        _truncated(truncated, False),
        _checksum_kind(checksum_algorithm, checksum_type),
    ]
    for p in parts:
        out.append(
            f"<Part><PartNumber>{p.number}</PartNumber><LastModified>{iso_time(p.mtime_s, p.mtime_ns)}</LastModified>"
            f"<ETag>&quot;{escape(p.etag)}&quot;</ETag><Size>{p.size}</Size>{checksum_xml(p.checksums)}</Part>"
        )
    out.append("</ListPartsResult>")
    return "".join(out).encode()
