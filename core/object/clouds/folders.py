# SPDX-License-Identifier: Apache-2.0
"""A remote folder tree as a sorted list of keys, for stores that can only list one folder.

The order of core/object/walk.py: names with `/` after a folder's name. Memory: the names of one folder per level, and
those of the few folders that are listed ahead, so that the wait for one answer is not paid per folder.
Source: spec data-path §4.1 (file-like stores: a recursive walk emulates the full listing).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from core.object.api import ObjectInfo

#: Folders of one level that are asked for before their turn.
AHEAD = 4


class Child(NamedTuple):
    """name: within its folder, ending in `/` if it is a folder itself (then info is None)."""

    name: str
    info: ObjectInfo | None


#: A name for `list[Child]`, because `list` is a method inside stores.
Children = list[Child]

#: The children of a folder ("" is the root, else it ends in `/`) in any order; [] if it doesn't exist.
Lister = Callable[[str], Awaitable[Children]]


async def walk(children: Lister, prefix: str, after: str, ahead: int = AHEAD) -> AsyncIterator[ObjectInfo]:
    """Objects with key.startswith(prefix) and key > after, in byte order of the keys."""
    folder, slash, _ = prefix.rpartition("/")
    if prefix.startswith("/") or ".." in folder.split("/"):
        return
    levels = [_Level(folder + slash, await children(folder + slash), prefix, after)]
    try:
        while levels:
            level = levels[-1]
            if not level.left:
                levels.pop()
                continue
            child = level.left.pop()
            if child.info is not None:
                yield child.info
                continue
            base = level.base + child.name
            found = await level.listed(base, children, ahead)
            levels.append(_Level(base, found, prefix, after))
    finally:
        waiting = [task for level in levels for task in level.tasks.values()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


class _Level:
    """One folder on the way: what is left of it (next one last), and the listings under way below it."""

    def __init__(self, base: str, found: list[Child], prefix: str, after: str) -> None:
        self.base = base
        wanted = [child for child in found if _wanted(base + child.name, child.info is None, prefix, after)]
        wanted.sort(key=lambda child: child.name, reverse=True)
        self.left = wanted
        self.tasks: dict[str, asyncio.Task[list[Child]]] = {}

    async def listed(self, base: str, children: Lister, ahead: int) -> list[Child]:
        for child in reversed(self.left[-ahead:] if ahead else []):
            name = self.base + child.name
            if child.info is None and name not in self.tasks:
                self.tasks[name] = asyncio.ensure_future(_run(children, name))
        task = self.tasks.pop(base, None)
        if task is None:
            return await children(base)
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            raise


async def _run(children: Lister, name: str) -> list[Child]:
    return await children(name)


def _wanted(key: str, folder: bool, prefix: str, after: str) -> bool:
    if folder:
        # A folder counts if some key below it may match: they all begin with `key`.
        return (key.startswith(prefix) or prefix.startswith(key)) and (key > after or after.startswith(key))
    return key > after and key.startswith(prefix)
