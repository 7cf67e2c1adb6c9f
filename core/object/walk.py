# SPDX-License-Identifier: Apache-2.0
"""A folder tree as a sorted list of keys, page by page.

Byte order of full keys is the order of names with `/` after a folder's name ("a.b" before "a/x", "a/x" before "a0").
Memory: the names of one folder per level, and one page. Symbolic links are followed; a link to one of its own
ancestors is not. Source: spec data-path §4.3. Runs in a thread; no asyncio here.
"""

from __future__ import annotations

import os
import stat

from core.object.api import ObjectInfo

PAGE = 1000


class Walk:
    """`page()` returns the next objects with key.startswith(prefix) and key > after; [] at the end."""

    def __init__(self, root: str, prefix: str, after: str) -> None:
        self._root = os.fsencode(root)
        self._prefix = os.fsencode(prefix)
        self._after = os.fsencode(after)
        self._started = False
        # One level: names still to visit (reversed, folders with a trailing slash), and the folder's identity.
        self._stack: list[tuple[bytes, list[bytes], tuple[int, int]]] = []

    def page(self) -> list[ObjectInfo]:
        if not self._started:
            self._started = True
            folder, slash, _ = self._prefix.rpartition(b"/")
            if b".." in folder.split(b"/") or folder.startswith(b"/"):
                return []
            self._enter(folder + slash)
        found: list[ObjectInfo] = []
        while self._stack and len(found) < PAGE:
            base, names, _ = self._stack[-1]
            if not names:
                self._stack.pop()
                continue
            key = base + names.pop()
            if key.endswith(b"/"):
                self._enter(key)
                continue
            try:
                info = os.stat(self._root + key)
            except OSError:
                continue  # deleted since the folder was read, or a dangling link
            if stat.S_ISREG(info.st_mode):
                found.append(ObjectInfo(os.fsdecode(key), info.st_size, info.st_mtime))
        return found

    def _enter(self, base: bytes) -> None:
        """Push the wanted names of a folder."""
        path = self._root + base
        try:
            info = os.stat(path)
            identity = (info.st_dev, info.st_ino)
            if any(identity == level[2] for level in self._stack):
                return
            with os.scandir(path) as entries:
                names = [entry.name + b"/" if entry.is_dir() else entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return
        names = [name for name in names if self._wanted(base, name)]
        names.sort(reverse=True)
        self._stack.append((base, names, identity))

    def _wanted(self, base: bytes, name: bytes) -> bool:
        key = base + name
        if name.endswith(b"/"):
            # A folder counts if some key below it may match: its keys all begin with `key`.
            in_prefix = key.startswith(self._prefix) or self._prefix.startswith(key)
            return in_prefix and (key > self._after or self._after.startswith(key))
        if name.startswith(b".jfs.") and b".tmp." in name:
            return False  # a put in progress, or what a crash left of one
        return key > self._after and key.startswith(self._prefix)
