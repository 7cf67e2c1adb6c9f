# SPDX-License-Identifier: Apache-2.0
"""PROPFIND: a request document to a question, and the streamed multistatus that answers it.

A directory is read page by page with attributes; extended attributes of a page come in one more round trip. The first
page is small so that the first byte leaves at once. Source: spec webdav §5, §18.2, §19; RFC 4918 §9.1; RFC 8144.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from core.meta.records import DIRECTORY, FILE, SYMLINK, TRASH as TRASH_INO
from core.meta.store import DirEntry
from core.vfs.filesystem import FileSystem
from gateways.webdav.errors import DavError
from gateways.webdav.export import Export, Node
from gateways.webdav.locks.table import LockTable
from gateways.webdav.names import HIDDEN, TRASH, Path, href, quote_name
from gateways.webdav.properties import live
from gateways.webdav.properties.dead import X_DEAD, Name
from gateways.webdav.properties.live import Maker, Quota, Resource
from gateways.webdav.xmltext import DAV, parse, split_tag

HEAD: Final = b'<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">'
TAIL: Final = b"</D:multistatus>"
_OK: Final = "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>"
_MISSING: Final = "</D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>"
_FIRST_PAGE: Final = 100
_PAGE: Final = 1000
#: Buffered answers beyond this leave at once.
FLUSH: Final = 64 << 10


class Question(NamedTuple):
    """What is asked of each resource. names: None means all (with `include`); only_names: propname."""

    names: tuple[Name, ...] | None
    include: tuple[Name, ...] = ()
    only_names: bool = False
    minimal: bool = False

    @property
    def wants_quota(self) -> bool:
        return any(name in live.QUOTA_NAMES for name in (self.names or self.include))


def parse_question(body: bytes, *, minimal: bool = False) -> Question:
    if not body.strip():
        return Question(None, minimal=minimal)
    root = parse(body)
    if root.tag != "{DAV:}propfind":
        raise DavError(400, "The body must be a DAV: propfind element.")
    names: tuple[Name, ...] | None = None
    include: tuple[Name, ...] = ()
    kind = ""
    for child in root:
        space, local = split_tag(child.tag)
        if space != DAV:
            continue
        found = tuple(dict.fromkeys(split_tag(each.tag) for each in child))
        if local in ("prop", "allprop", "propname"):
            if kind:
                raise DavError(400, "Only one of prop, allprop and propname may be asked.")
            kind = local
            if local == "prop":
                names = found
        elif local == "include":
            include += found
    if not kind:
        raise DavError(400, "One of prop, allprop and propname must be asked.")
    return Question(names, include if kind == "allprop" else (), kind == "propname", minimal)


def renderer(question: Question, *, no_locks: bool = False) -> Callable[[Resource], str]:
    """A function that turns a resource into its `response` element; what can be is decided here, once."""
    if question.names is not None:
        return _named(question.names, question.minimal)
    makers = dict(live.ALL)
    if no_locks:
        for name in live.LOCK_NAMES:
            del makers[name]
    if question.only_names:
        return _only_names(makers)
    makers.update({name: live.ASKED[name] for name in question.include if name in live.ASKED})
    return _all(list(makers.values()))


def _response(r: Resource, propstats: str) -> str:
    return f"<D:response><D:href>{escape(r.href)}</D:href>{propstats}</D:response>"


def _all(makers: Sequence[Maker]) -> Callable[[Resource], str]:
    def render(r: Resource) -> str:
        text = "".join([make(r) for make in makers])
        if r.xattrs and X_DEAD in r.xattrs:
            text += "".join([live.dead_element(name, value) for name, value in r.dead.items()])
        return _response(r, f"<D:propstat><D:prop>{text}{_OK}")

    return render


def _only_names(makers: dict[Name, Maker]) -> Callable[[Resource], str]:
    def render(r: Resource) -> str:
        text = "".join([live.dead_element(name, None) for name, make in makers.items() if make(r)])
        text += "".join([live.dead_element(name, None) for name in r.dead])
        return _response(r, f"<D:propstat><D:prop>{text}{_OK}")

    return render


def _named(names: Iterable[Name], minimal: bool) -> Callable[[Resource], str]:
    plan = [(name, live.LIVE.get(name), live.dead_element(name, None)) for name in names]

    def render(r: Resource) -> str:
        found, missing = [], []
        for name, make, empty in plan:
            text = make(r) if make is not None else ""
            if not text and r.xattrs and X_DEAD in r.xattrs:
                value = r.dead.get(name)
                text = live.dead_element(name, value) if value is not None else ""
            if text:
                found.append(text)
            else:
                missing.append(empty)
        propstats = f"<D:propstat><D:prop>{''.join(found)}{_OK}" if found or not missing else ""
        if missing and not minimal:
            propstats += f"<D:propstat><D:prop>{''.join(missing)}{_MISSING}"
        if not propstats:
            propstats = f"<D:propstat><D:prop>{_OK}"
        return _response(r, propstats)

    return render


class Walk:
    """The members of one answer. prefix: names in front of every URL; root_name: displayname of the root."""

    def __init__(
        self, export: Export, table: LockTable | None, *, prefix: Path = (), root_name: bytes = b"",
        quota: Quota | None = None,
    ) -> None:  # fmt: skip
        self._export = export
        self._table = table if table is not None and len(table) else None
        self._prefix = prefix
        self._root_name = root_name
        self._quota = quota
        self._lock_prefix = (prefix, export.root)

    def top(self, node: Node) -> Resource:
        name = node.path[-1] if node.path else self._root_name
        return Resource(
            name,
            node.ino,
            node.found.attr,
            node.found.xattrs or {},
            href(self._prefix + node.path, collection=node.is_dir),
            locks=self._locks(self._export.place(node.path)),
            quota=self._quota,
            lock_prefix=self._lock_prefix,
        )

    def _locks(self, place: Path) -> Sequence:  # type: ignore[type-arg]
        return self._table.covering(place) if self._table is not None else ()

    async def members(self, node: Node) -> AsyncIterator[list[Resource]]:
        """Pages of members in name order. A member that goes meanwhile is left out."""
        fs = self._export.fs
        base = href(self._prefix + node.path, collection=True)
        hide = HIDDEN if not node.real else frozenset()
        place = self._export.place(node.path)
        after, size = b"", _FIRST_PAGE
        while True:
            page = await fs.list_dir(node.ino, after, size, attrs=True)
            more = len(page) == size
            if page:
                after = page[-1].name
            shown = [entry for entry in page if entry.name not in hide]
            yield await self._page(fs, node, shown, base, place)
            if not more:
                break
            size = _PAGE
        if not node.real and self._export.show_trash:
            trash = await self._export.find((TRASH,))
            if trash is not None:
                url = href((*self._prefix, TRASH), collection=True)
                yield [Resource(TRASH, trash.ino, trash.found.attr, {}, url, quota=self._quota)]

    async def _page(self, fs: FileSystem, node: Node, page: list[DirEntry], base: str, place: Path) -> list[Resource]:
        direct = [e for e in page if e.attr is not None and e.type in (FILE, DIRECTORY)]
        xattrs = await fs.get_xattrs([e.ino for e in direct])
        out: list[Resource] = []
        locked = self._table is not None
        quota, lock_prefix = self._quota, self._lock_prefix
        by_name = dict(zip((e.name for e in direct), xattrs, strict=True)) if len(direct) != len(page) else None
        if by_name is None:
            for entry, values in zip(direct, xattrs, strict=True):
                name, _, ino, attr = entry
                assert attr is not None
                url = base + quote_name(name) + ("/" if attr.type == DIRECTORY else "")
                locks = self._locks((*place, name)) if locked else ()
                out.append(Resource(name, ino, attr, values, url, locks=locks, quota=quota, lock_prefix=lock_prefix))
            return out
        for entry in page:
            found_ino, found_attr, found_values = entry.ino, entry.attr, by_name.get(entry.name)
            if found_values is None:
                if entry.type != SYMLINK:
                    continue
                target = await self._export.find((*node.path, entry.name))
                if target is None:
                    continue
                found_ino, found_attr, found_values = target.ino, target.found.attr, target.found.xattrs or {}
            assert found_attr is not None
            url = base + quote_name(entry.name) + ("/" if found_attr.is_dir else "")
            out.append(
                Resource(
                    entry.name,
                    found_ino,
                    found_attr,
                    found_values,
                    url,
                    locks=self._locks((*place, entry.name)),
                    quota=quota,
                    lock_prefix=lock_prefix,
                )
            )
        return out


async def answer(
    walk: Walk, node: Node, depth: int, render: Callable[[Resource], str], *, root: bool = True, limit: int = 0
) -> AsyncIterator[bytes]:
    """The document in pieces. depth: 0, 1, or -1 for infinity with at most `limit` resources."""
    yield HEAD + (render(walk.top(node)).encode("utf-8", "replace") if root else b"")
    if depth and node.is_dir:
        count = 1
        pending = [node]
        seen = {node.ino, TRASH_INO}  # the trash is asked for by name only
        while pending:
            here = pending.pop()
            async for page in walk.members(here):
                if depth < 0 and count + len(page) > limit:
                    page = page[: limit - count]
                    yield "".join(map(render, page)).encode("utf-8", "replace") + _cut(walk.top(node)) + TAIL
                    return
                count += len(page)
                if page:
                    yield "".join(map(render, page)).encode("utf-8", "replace")
                if depth < 0:
                    for r in reversed(page):
                        # A link to a folder above would never end.
                        if r.attr.is_dir and r.ino not in seen:
                            seen.add(r.ino)
                            deeper = await walk._export.find((*here.path, r.name))
                            if deeper is not None:
                                pending.append(deeper)
    yield TAIL


def _cut(top: Resource) -> bytes:
    """RFC 4918 has no word for it; 507 for the collection is what clients of search know (§5)."""
    return (
        f"<D:response><D:href>{escape(top.href)}</D:href>"
        "<D:status>HTTP/1.1 507 Insufficient Storage</D:status></D:response>"
    ).encode()
