# SPDX-License-Identifier: Apache-2.0
"""One page of a listing: prefix, delimiter, where to go on, how many; ETags only for the keys that are shown.

Stateless: a page begins where the last one's token says, whatever gateway made it. A common prefix counts as one and
is skipped as a whole when a page resumes after it. Rendering is in `list_objects.py`.

Costs in metadata trips with delimiter "/": the directory, one page of it, one batch of xattrs; two more if the resume
point could hide directories that sort later. Source: spec s3 §10.
"""

from __future__ import annotations

import base64
import binascii
import errno
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from core.errors import FsError
from core.meta.records import DIRECTORY
from core.vfs.filesystem import FileSystem
from gateways.s3.errors import S3Error
from gateways.s3.keys import HIDDEN, check_key, volume_path
from gateways.s3.metadata import explicit_dir
from gateways.s3.walk import AFTER, Key, Walk

#: Keys under one common prefix that are passed over one by one before it is cheaper to start again behind them.
PATIENCE: Final = 64


class Item(NamedTuple):
    """One line of a page: a key with its node, or a common prefix (node None)."""

    key: bytes
    node: Key | None
    xattrs: dict[bytes, bytes] | None = None


class Page(NamedTuple):
    items: list[Item]
    truncated: bool
    skipped: int = 0  # names that aren't UTF-8 and were left out

    @property
    def last(self) -> Item | None:
        return self.items[-1] if self.items else None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a bucket. after_prefix: `after` was a common prefix, so nothing below it is wanted."""

    prefix: bytes = b""
    delimiter: bytes = b""
    after: bytes = b""
    after_prefix: bool = False
    max_keys: int = 1000
    raw_names: bool = True
    xattrs: bool = True
    dir_objects: bool = True
    empty_dirs: bool = True


def start_bound(query: Query) -> bytes | None:
    """Keys wanted are > this; None: no key can be."""
    prefix, after = query.prefix, query.after
    if not after or after < prefix:
        return b""
    if not after.startswith(prefix):
        return None
    if query.after_prefix:
        return after + AFTER
    if query.delimiter:
        at = after.find(query.delimiter, len(prefix))
        if at >= 0:  # the group that the marker lies in has been emitted
            return after[: at + len(query.delimiter)] + AFTER
    return after


async def list_page(fs: FileSystem, bucket: str, query: Query, *, multi: bool) -> Page:
    """Raises NoSuchBucket. A prefix that no key can have gives an empty page."""
    prefix, delimiter = query.prefix, query.delimiter
    cut = prefix.rfind(b"/") + 1
    base, partial = prefix[:cut], prefix[cut:]
    bound = start_bound(query)
    if base:
        try:
            check_key(base, multi=multi, any_bytes=True)
        except S3Error:  # such as a leading slash: it matches nothing
            bound = None
    if bound is None or query.max_keys == 0 or len(partial) > 255:
        await _require_bucket(fs, bucket, multi)
        return Page([], False)
    path = volume_path(bucket, base, multi=multi)
    try:
        found = await fs.lookup(path, xattrs=bool(base))
    except FsError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise
        if not base:
            raise S3Error("NoSuchBucket") from e
        await _require_bucket(fs, bucket, multi)
        return Page([], False)
    if found.attr.type != DIRECTORY:
        if not base:
            raise S3Error("NoSuchBucket")
        return Page([], False)

    flat = delimiter == b"/"
    at_root = not base and not multi
    walk = Walk(
        fs, found.ino, b"" if path == b"/" else path, base, partial=partial, descend=not flat,
        hidden=HIDDEN if at_root else frozenset(), raw_names=query.raw_names, dir_objects=query.dir_objects,
        page=min(query.max_keys + 1, 1001),
    )  # fmt: skip
    items: list[Item] = []
    if base and not partial and not bound and query.dir_objects and explicit_dir(found.attr, found.xattrs):
        items.append(Item(base, Key(base, found.ino, found.attr, True), found.xattrs))
    truncated = await _collect(walk, query, bound, items)
    if query.xattrs:
        await _load_xattrs(fs, items)
    return Page(items, truncated, walk.skipped)


async def _collect(walk: Walk, query: Query, bound: bytes, items: list[Item]) -> bool:
    """Fill items up to max_keys; True if there is more."""
    delimiter, start, limit = query.delimiter, len(query.prefix), query.max_keys
    group: bytes | None = None  # the common prefix that was emitted last
    while True:
        passed = 0
        async with aclosing(walk.keys(bound)) as keys:
            async for node in keys:
                key = node.key
                at = key.find(delimiter, start) if delimiter else -1
                if at < 0:
                    if len(items) >= limit:
                        return True
                    items.append(Item(key, node))
                    continue
                common = key[: at + len(delimiter)]
                if common == group:
                    passed += 1
                    if passed > PATIENCE:
                        break
                    continue
                if not query.empty_dirs and key == common and not node.is_key and not await _has_key(walk, node):
                    continue
                if len(items) >= limit:
                    return True
                group = common
                items.append(Item(common, None))
            else:
                return False
        assert group is not None
        bound = group + AFTER


async def _has_key(walk: Walk, node: Key) -> bool:
    """Is there any object below this directory? (`--list-empty-dirs=no`)"""
    below = Walk(walk.fs, node.ino, walk.base[1] + b"/" + node.key[len(walk.base[2]) : -1], node.key, page=16)
    async with aclosing(below.keys()) as keys:
        async for _ in keys:
            return True
    return False


async def _load_xattrs(fs: FileSystem, items: list[Item]) -> None:
    wanted = [i for i, item in enumerate(items) if item.node is not None and not item.node.attr.is_dir]
    if wanted:
        inos = [items[i].node.ino for i in wanted]  # type: ignore[union-attr]
        for i, xattrs in zip(wanted, await fs.get_xattrs(inos), strict=True):
            item = items[i]
            items[i] = Item(item.key, item.node, xattrs)


async def _require_bucket(fs: FileSystem, bucket: str, multi: bool) -> None:
    if not multi:
        return
    try:
        found = await fs.lookup(volume_path(bucket, multi=True))
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise S3Error("NoSuchBucket") from e
        raise
    if not found.attr.is_dir:
        raise S3Error("NoSuchBucket")


# -- tokens --------------------------------------------------------------------------------------------------------


def encode_token(last: Item) -> str:
    """`v1|key or common prefix|flags` in base64url; flag p: a common prefix."""
    raw = b"v1|" + last.key + (b"|p" if last.node is None else b"|k")
    return base64.urlsafe_b64encode(raw).decode("ascii")


def decode_token(token: str) -> tuple[bytes, bool]:
    """(last key, was a common prefix). 400 InvalidArgument for anything that isn't ours."""
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    head, _, flags = raw.rpartition(b"|")
    if not head.startswith(b"v1|") or flags not in (b"k", b"p"):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect.")
    return head[3:], flags == b"p"
