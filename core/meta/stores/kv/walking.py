# SPDX-License-Identifier: Apache-2.0
"""Walking paths through a key-value store: each component needs the inode of the one before.

Cold, that is two round trips per component (entry, then attributes; the attributes of one and the entry of the next
travel together, so a path of n names takes n + 1). But what a path led to last time is guessed, all of it is asked for
at once, and the walk follows the answers: a warm path takes one trip, and a wrong guess costs one more, at the same
moment of the database. Nothing is believed that wasn't read in this call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from core.meta import keys as k
from core.meta.records import FILE, Attr, Entry
from core.meta.store import Resolved, Step
from core.meta.stores.kv import values as v
from core.meta.stores.kv.changes import group_value
from core.meta.stores.kv.driver import Pair, Range
from core.meta.stores.kv.guesses import Guesses
from core.meta.stores.kv.keys import KeyCodec

#: A path can't be deeper than this many trips; every trip walks at least one component.
MOST_TRIPS: Final = 5000


class Walk:
    """One walk: `wanted` says what to read next, `follow` takes it in; repeat until `done`."""

    def __init__(
        self, codec: KeyCodec, guesses: Guesses, base: int, names: Sequence[bytes], *, xattrs: bool, chunk: bool
    ) -> None:
        self._codec = codec
        self._guesses = guesses
        self._base, self._names = base, names
        self._xattrs, self._chunk = xattrs, chunk
        self.done: Resolved | None = None

    def wanted(
        self, values: dict[bytes, bytes | None], ranges: dict[Range, list[Pair]]
    ) -> tuple[list[bytes], list[Range]]:
        """Keys and ranges that aren't read yet, as far as the path can be guessed."""
        codec, keys, places = self._codec, [codec_key(self._codec, self._base)], list[Range]()
        at = self._base
        known = True
        for name in self._names:
            raw = codec.encode(k.entry(at, name))
            keys.append(raw)
            value = values[raw] if raw in values else self._guesses.get(raw)
            if value is None or len(value) != 9:
                known = False
                break
            at = v.decode(k.entry(at, name), value).ino
            keys.append(codec_key(codec, at))
        if known and self._xattrs:
            places.append(codec.group(k.xattrs(at)))
        if known and self._chunk:
            keys.append(codec.encode(k.chunk(at, 0)))
        return [key for key in keys if key not in values], [place for place in places if place not in ranges]

    def follow(self, values: dict[bytes, bytes | None], ranges: dict[Range, list[Pair]]) -> None:
        """Walk as far as the answers reach; sets `done` if that is the end."""
        codec = self._codec
        base = codec_key(codec, self._base)
        if base not in values:
            return
        root = attr = v.decode(k.node(self._base), values[base])
        at, steps = self._base, list[Step]()
        for name in self._names:
            if attr is None or not attr.is_dir:
                break
            key = k.entry(at, name)
            raw = codec.encode(key)
            if raw not in values:
                return
            entry: Entry | None = v.decode(key, values[raw])
            if entry is None:
                break
            node = codec_key(codec, entry.ino)
            if node not in values:
                return
            at = entry.ino
            attr = v.decode(k.node(at), values[node])
            steps.append(Step(entry, attr))
        if len(steps) < len(self._names) or attr is None:
            self.done = Resolved(root, steps, None, None)
            return
        self._finish(root, steps, at, attr, values, ranges)

    def _finish(
        self, root: Attr, steps: list[Step], at: int, attr: Attr, values: dict[bytes, bytes | None],
        ranges: dict[Range, list[Pair]],
    ) -> None:  # fmt: skip
        found = chunk = None
        if self._xattrs:
            place = self._codec.group(k.xattrs(at))
            if place not in ranges:
                return
            found = group_value(self._codec, k.xattrs(at), ranges[place])
        if self._chunk and attr.type == FILE:
            raw = self._codec.encode(k.chunk(at, 0))
            if raw not in values:
                return
            chunk = values[raw] or b""
        self.done = Resolved(root, steps, found, chunk)


def codec_key(codec: KeyCodec, ino: int) -> bytes:
    return codec.encode(k.node(ino))
