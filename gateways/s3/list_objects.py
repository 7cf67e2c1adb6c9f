# SPDX-License-Identifier: Apache-2.0
"""ListObjects V1, V2 and ListObjectVersions: parameters in, documents out. The page itself comes from `listing.py`.

Without versioning every object is one version called "null" that is the latest; test suites and boto3's
`object_versions` clean buckets up through that. Source: spec s3 §10.2, §10.4, §10.5.
"""

from __future__ import annotations

from typing import Final

from core.vfs.etags import identify
from gateways.http.messages import Response
from gateways.s3 import xml
from gateways.s3.config import MAX_KEYS
from gateways.s3.errors import S3Error
from gateways.s3.listing import Page, Query, decode_token, encode_token, list_page
from gateways.s3.service import Call, Service, xml_response
from gateways.s3.xml import ObjectEntry, Owner

_NS: Final = 1_000_000_000


def parse_limit(params: dict[str, str], name: str, default: int = MAX_KEYS) -> int:
    """max-keys and its kin: 0…; more than the default counts as the default; negative or text is refused."""
    text = params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise S3Error("InvalidArgument", f"{name} must be an integer from 0 on.", extra=(("ArgumentName", name),))
    return min(int(text[:10]), default)


def wants_url(params: dict[str, str]) -> bool:
    """encoding-type=url; any other kind is refused."""
    kind = params.get("encoding-type")
    if not kind:
        return False
    if kind != "url":
        raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request: only 'url' is known.")
    return True


async def _page(service: Service, call: Call, after: bytes, after_prefix: bool, limit: int, url: bool) -> Page:
    config = service.config
    page = await list_page(
        service.fs, call.bucket,
        Query(
            prefix=call.raw_param("prefix"), delimiter=call.raw_param("delimiter"), after=after,
            after_prefix=after_prefix, max_keys=limit, raw_names=url, dir_objects=not config.hide_dir_object,
            empty_dirs=config.list_empty_dirs,
        ),
        multi=service.multi,
    )  # fmt: skip
    service.skipped_names += page.skipped
    return page


def _split(page: Page, owner: Owner | None) -> tuple[list[ObjectEntry], list[bytes]]:
    """Entries and common prefixes of a page."""
    entries: list[ObjectEntry] = []
    prefixes: list[bytes] = []
    for key, node, xattrs in page.items:
        if node is None:
            prefixes.append(key)
            continue
        attr = node.attr
        etag, ext = identify(node.ino, attr, xattrs)
        algorithms: tuple[str, ...] = ()
        kind = ""
        if ext is not None and ext.ck:
            algorithms, kind = tuple([name.upper() for name in ext.ck]), ext.ckt or "FULL_OBJECT"
        seconds, nanos = divmod(attr.mtime_ns, _NS)
        entries.append(
            ObjectEntry(
                key, 0 if attr.is_dir else attr.length, etag, seconds, nanos, owner,
                checksum_algorithms=algorithms, checksum_type=kind,
            )
        )  # fmt: skip
    return entries, prefixes


async def list_objects(service: Service, call: Call) -> Response:
    params = call.params
    url, limit = wants_url(params), parse_limit(params, "max-keys")
    marker, delimiter = call.raw_param("marker"), call.raw_param("delimiter")
    page = await _page(service, call, marker, False, limit, url)
    entries, prefixes = _split(page, service.owner(call.auth.identity))
    next_marker = page.last.key if page.truncated and page.last is not None and delimiter else None
    return xml_response(
        xml.list_objects_v1(
            call.bucket, entries, prefixes, prefix=call.raw_param("prefix"), delimiter=delimiter, marker=marker,
            next_marker=next_marker, max_keys=limit, truncated=page.truncated, url=url,
        )
    )  # fmt: skip


async def list_objects_v2(service: Service, call: Call) -> Response:
    params = call.params
    url, limit = wants_url(params), parse_limit(params, "max-keys")
    token = params.get("continuation-token")
    start_after = call.raw_param("start-after")
    after, after_prefix = decode_token(token) if token else (start_after, False)
    page = await _page(service, call, after, after_prefix, limit, url)
    wants_owner = params.get("fetch-owner", "").lower() == "true"
    entries, prefixes = _split(page, service.owner(call.auth.identity) if wants_owner else None)
    return xml_response(
        xml.list_objects_v2(
            call.bucket, entries, prefixes, prefix=call.raw_param("prefix"), delimiter=call.raw_param("delimiter"),
            start_after=start_after or None, continuation_token=token,
            next_continuation_token=encode_token(page.last) if page.truncated and page.last is not None else None,
            max_keys=limit, truncated=page.truncated, url=url,
        )
    )  # fmt: skip


async def list_object_versions(service: Service, call: Call) -> Response:
    params = call.params
    url, limit = wants_url(params), parse_limit(params, "max-keys")
    marker, version_marker = call.raw_param("key-marker"), params.get("version-id-marker", "")
    if version_marker and not marker:
        raise S3Error("InvalidArgument", "A version-id marker cannot be specified without a key marker.")
    page = await _page(service, call, marker, False, limit, url)
    entries, prefixes = _split(page, service.owner(call.auth.identity))
    last = page.last if page.truncated else None
    return xml_response(
        xml.list_versions(
            call.bucket, entries, prefixes, prefix=call.raw_param("prefix"), delimiter=call.raw_param("delimiter"),
            key_marker=marker, version_id_marker=version_marker, next_key_marker=last.key if last else None,
            next_version_id_marker="null" if last and last.node else None, max_keys=limit, truncated=page.truncated,
            url=url,
        )
    )  # fmt: skip
