# SPDX-License-Identifier: Apache-2.0
"""Walks a tree depth first, children by name, and renders it: the part of a JSON dump that may be large.

A page of a directory is listed and its details read in a few round trips; on engines behind a network the directories
that come next are read ahead meanwhile. A stack of frames holds one page per level; in trees so deep that this is much,
outer pages are dropped and listed again on the way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from core.dump.inodes import InodeSet
from core.dump.json_text import acl_text, entry_text, render
from core.dump.source import Detail, Source, StoreSource
from core.meta.records import DIRECTORY, Attr
from core.meta.store import DirEntry

if TYPE_CHECKING:
    from core.dump.json_writer import Text

#: Entries held in all open pages together before outer ones are dropped.
_HELD: Final = 50_000
#: Bytes of extended attributes and slice records in one reading; the number of inodes per reading adapts to it.
_DETAIL_BYTES: Final = 8 << 20


class _Frame:
    """An open directory. `page[at:]` isn't written yet; `last` is the name behind which the listing goes on."""

    __slots__ = ("at", "details", "empty", "ended", "indent", "ino", "last", "page")

    def __init__(self, ino: int, indent: str) -> None:
        self.ino = ino
        self.indent = indent  # of the entries' names
        self.page: list[DirEntry] = []
        self.details: dict[int, Detail] = {}  # of page[at : at + n]
        self.at = 0
        self.last = b""
        self.ended = False
        self.empty = True


class Walk:
    def __init__(
        self, source: Source, text: Text, *, page: int, threads: int, progress: Callable[[int], None] | None
    ) -> None:
        self._source = source
        self._text = text
        self._page = page
        self._batch = page
        self._progress = progress
        self._rules: dict[int, str] = {}
        self._missing: set[int] = set()
        self._seen = InodeSet()
        self._ahead: dict[int, asyncio.Task[list[DirEntry]]] = {}
        self._most_ahead = threads if isinstance(source, StoreSource) and source.remote else 0
        self.entries = 0
        self.without_inode = 0
        self.moved = 0
        self.missing_acls = 0

    async def close(self) -> None:
        for task in self._ahead.values():
            task.cancel()
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)
        self._ahead.clear()

    async def tree(self, key: str, ino: int, attr: Attr) -> None:
        """Write `"key": {…}` for the directory and everything below it."""
        (detail,) = await self._source.details([(ino, attr)])
        await self._load_rules([attr])
        self._seen.add(ino)
        self._text.add(f'  "{key}": ' + render("    ", ino, attr, detail, self._rules))
        stack = [_Frame(ino, "      ")]
        self._open(stack[0])
        while stack:
            frame = stack[-1]
            if frame.at < len(frame.page):
                await self._write_run(stack)
            elif frame.ended:
                stack.pop()
                indent = frame.indent[2:]
                self._text.add(f"\n{indent}}}\n{indent[2:]}}}")
                await self._text.pass_on()
            else:
                await self._next_page(stack)

    def _open(self, frame: _Frame) -> None:
        self._text.add(f',\n{frame.indent[2:]}"entries": {{')

    async def _next_page(self, stack: list[_Frame]) -> None:
        frame = stack[-1]
        task = self._ahead.pop(frame.ino, None) if not frame.last else None
        page = await (task or self._source.page(frame.ino, frame.last, self._page))
        frame.ended = len(page) < self._page
        if page:
            frame.last = page[-1].name
        frame.page, frame.at, frame.details = page, 0, {}
        self._drop_outer(stack)
        self._read_ahead(frame)
        await asyncio.sleep(0)  # engines that answer from memory would keep the loop for themselves

    @staticmethod
    def _drop_outer(stack: list[_Frame]) -> None:
        held = 0
        for frame in reversed(stack):
            rest = len(frame.page) - frame.at
            if held and held + rest > _HELD:
                # The entries before `at` are written, so listing goes on behind the last of them.
                if frame.at:
                    frame.last = frame.page[frame.at - 1].name
                    frame.page, frame.at, frame.details, frame.ended = [], 0, {}, False
            else:
                held += rest

    def _read_ahead(self, frame: _Frame) -> None:
        """Start listing the next directories of this page."""
        for entry in frame.page[frame.at :]:
            if len(self._ahead) >= self._most_ahead:
                return
            if entry.type == DIRECTORY and entry.ino not in self._ahead and entry.ino not in self._seen:
                self._ahead[entry.ino] = asyncio.create_task(self._list(entry.ino))

    async def _list(self, ino: int) -> list[DirEntry]:
        return await self._source.page(ino, b"", self._page)

    async def _write_run(self, stack: list[_Frame]) -> None:
        """Write entries of the innermost page up to and including the next directory, which is then entered."""
        frame = stack[-1]
        page, details, rules, text = frame.page, frame.details, self._rules, self._text
        indent = frame.indent
        inner = indent + "  "
        opening = f"\n{indent}"
        while frame.at < len(page):
            entry = page[frame.at]
            attr = entry.attr
            if attr is None or entry.ino not in details:
                if attr is not None:
                    await self._load_details(frame)
                    details = frame.details
                    continue
                self.without_inode += 1
                frame.at += 1
                continue
            frame.at += 1
            if attr.type == DIRECTORY and not self._seen.add(entry.ino):
                self.moved += 1
                continue
            comma = "" if frame.empty else ","
            frame.empty = False
            text.add(
                f"{comma}{opening}{entry_text(entry.name)}: {render(inner, entry.ino, attr, details[entry.ino], rules)}"
            )
            self.entries += 1
            if attr.type == DIRECTORY:
                child = _Frame(entry.ino, indent + "    ")
                self._open(child)
                stack.append(child)
                self._read_ahead(frame)
                break
            text.add(f"\n{indent}}}")
        await text.pass_on()
        if self._progress is not None:
            self._progress(self.entries)

    async def _load_details(self, frame: _Frame) -> None:
        wanted = [(e.ino, e.attr) for e in frame.page[frame.at : frame.at + self._batch] if e.attr is not None]
        found = await self._source.details(wanted)
        frame.details = {ino: detail for (ino, _), detail in zip(wanted, found, strict=True)}
        size = 0
        for detail in found:
            if detail.xattrs:
                size += sum(map(len, detail.xattrs.values()))
            if detail.chunks:
                size += sum(map(len, detail.chunks.values()))
        if size > _DETAIL_BYTES:
            self._batch = max(1, self._batch // 2)
        elif size < _DETAIL_BYTES // 4:
            self._batch = min(self._page, self._batch * 2)
        await self._load_rules([attr for _, attr in wanted])

    async def _load_rules(self, attrs: list[Attr]) -> None:
        wanted = {i for a in attrs if a.access_acl or a.default_acl for i in (a.access_acl, a.default_acl) if i}
        new = sorted(wanted - self._rules.keys() - self._missing)
        if new:
            for rule_id, raw in zip(new, await self._source.acls(new), strict=True):
                if raw is None:
                    self._missing.add(rule_id)
                else:
                    self._rules[rule_id] = acl_text(raw)
        if self._missing:
            self.missing_acls += sum((a.access_acl in self._missing) + (a.default_acl in self._missing) for a in attrs)
