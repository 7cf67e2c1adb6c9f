# SPDX-License-Identifier: Apache-2.0
"""First pass over a binary backup: every segment and record checked and poured into scratch tables; then the footer.

Read from front to back, so a pipe will do. Segments may come in any order after the first two, several of a kind.
What a record must be like: spec metadata-format §1–§3; layout: metadata-semantics §15.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from core.dump import backup_format as bf
from core.dump.node_rules import bad_name, bad_slice, bad_target
from core.dump.reading import Reading
from core.meta import acl
from core.meta.records import DIRECTORY, MAX_FILE_LENGTH, ROOT, TRASH, decode_attr, decode_slices, node_space

#: JuiceFS writes up to 100 000 records to a segment, the largest some hundred MiB.
_LONGEST: Final = 2 << 30
_U32: Final = 0xFFFFFFFF
_I63: Final = (1 << 63) - 1
_TYPES: Final = range(1, 8)
_EVERY: Final = 2000


class Cut(Exception):
    """The file ends too early, or what follows can't be found in it."""


class BackupReader:
    """`await read()` fills `reading`; problems are in `reading.problems`."""

    def __init__(self, read: Callable[[int], bytes], reading: Reading) -> None:
        self._read = read
        self._out = reading
        self._problems = reading.problems
        self._scratch = reading.scratch
        self._rows = reading.scratch.rows
        self._at = 0
        self.offsets: dict[str, list[int]] = {}
        self.counts: dict[str, int] = {}
        self._take: dict[str, Callable[[Any], None]] = {
            "counters": self._counter, "nodes": self._node, "edges": self._edge, "chunks": self._chunk,
            "sliceRefs": self._reference, "xattrs": self._xattr, "parents": self._parent, "symlinks": self._symlink,
            "sustained": self._sustained, "delfiles": self._delfile, "dirstats": self._stat, "acls": self._acl,
            "quotas": lambda r: self._quota(0, r), "userQuotas": lambda r: self._quota(1, r),
            "groupQuotas": lambda r: self._quota(2, r), "changelogs": lambda r: None,
        }  # fmt: skip

    async def read(self, turn: Callable[[], Any]) -> None:
        try:
            await self._segments(turn)
            self._footer()
        except Cut as e:
            self._problems.error("", str(e))
        self._scratch.settle(all_of_it=True)

    # -- framing --------------------------------------------------------------------------------------------------

    def _bytes(self, size: int, what: str) -> bytes:
        parts, left = [], size
        while left:
            part = self._read(min(left, 1 << 20))
            if not part:
                raise Cut(f"the file ends at byte {self._at + size - left}, in the middle of {what}; use another copy")
            parts.append(part)
            left -= len(part)
        self._at += size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _segments(self, turn: Callable[[], Any]) -> None:
        while True:
            start = self._at
            (kind,) = bf.MARK.unpack(self._bytes(4, "a segment's head"))
            if kind == bf.MAGIC:
                return
            (size,) = bf.FOOTER_LENGTH.unpack(self._bytes(8, "a segment's head"))
            if kind not in bf.SEGMENTS:
                what = "the file is no binary backup" if not start else f"there is no segment of type {kind}"
                raise Cut(f"{what} (at byte {start}); is it a JSON dump? Then load it without --binary")
            name, lists = bf.SEGMENTS[kind]
            if size > _LONGEST:
                raise Cut(f"the segment at byte {start} claims {size} bytes; the file is damaged")
            if not self.offsets and name != "format":
                self._problems.error("", "the first segment is not the setting", name)
            payload = self._bytes(size, f"the {name} segment at byte {start}")
            self.offsets.setdefault(name, []).append(start)
            try:
                count = await self._segment(name, lists, payload, turn)
            except DecodeError as e:
                self._problems.error("", f"the {name} segment at byte {start} is damaged", e)
                count = 0
            self.counts[name] = self.counts.get(name, 0) + count

    async def _segment(self, name: str, lists: tuple[str, ...], payload: bytes, turn: Callable[[], Any]) -> int:
        if name == "format":
            self._out.take_setting(bytes(bf.Format.FromString(payload).data))
            return 1
        batch = bf.Batch.FromString(payload)
        for field, found in batch.ListFields():
            if field.name not in lists:
                self._problems.error("", f"a {name} segment holds {field.name}", len(found))
        count = 0
        for field in lists:
            take = self._take[field]
            for record in getattr(batch, field):
                take(record)
                count += 1
                if count % _EVERY == 0:
                    self._scratch.settle()
                    await turn()
        self._scratch.settle()
        await turn()
        return count

    def _footer(self) -> None:
        raw, tail = b"", b""
        while part := self._read(1 << 20):
            raw += part
            if len(raw) > _LONGEST:
                raise Cut("the footer has no end; the file is damaged")
        raw, tail = raw[:-8], raw[-8:]
        if len(tail) < 8 or bf.FOOTER_LENGTH.unpack(tail)[0] != len(raw):
            raise Cut(
                f"the footer at byte {self._at} doesn't have the length that the file's end tells; it is cut short"
            )
        try:
            footer = bf.Footer.FromString(raw)
        except DecodeError as e:
            raise Cut(f"the footer at byte {self._at} is damaged: {e}") from e
        if footer.magic != bf.MAGIC:
            self._problems.error("footer", "not the mark of a backup", hex(footer.magic))
        if footer.version != bf.VERSION:
            self._problems.error(
                "footer", "a version of the format that this program doesn't know; upgrade it", footer.version
            )
        told = {info.key.decode("utf-8", "replace"): info.value for info in footer.infos}
        for name in sorted(told.keys() | self.offsets.keys()):
            offsets, count = self.offsets.get(name, []), self.counts.get(name, 0)
            info = told.get(name)
            if info is None:
                self._problems.error("footer", f"says nothing about {len(offsets)} segments of {name}")
            elif sorted(info.offset) != offsets:
                self._problems.error("footer", f"places the segments of {name} elsewhere than they are")
            elif info.num != count:
                self._problems.error("footer", f"counts {info.num} records of {name}, the file has {count}")

    # -- records --------------------------------------------------------------------------------------------------

    def _wrong(self, what: str, kind: str, detail: object = "") -> None:
        self._problems.error(what, kind, detail)

    def _counter(self, r: Any) -> None:
        self._out.stated[r.key.decode("utf-8", "replace")] = r.value

    def _node(self, r: Any) -> None:
        ino, data = r.inode, r.data
        try:
            attr = decode_attr(data)
        except ValueError as e:
            self._wrong(f"inode {ino}", "its record is damaged", e)
            return
        if not 0 < ino <= _I63 or attr.type not in _TYPES or attr.length >= MAX_FILE_LENGTH or attr.parent > _I63:
            self._wrong(f"inode {ino}", "an impossible number, type, length or parent", f"{attr.type}, {attr.length}")
            return
        most = self._out.limits.caps.max_id
        if attr.uid > most or attr.gid > most:
            old, attr = attr, self._out.limits.owner(f"inode {ino}", attr)
            data = self._out.encode(attr)
            space = node_space(attr)
            self._out.given += [(1, old.uid, attr.uid, space)] if old.uid != attr.uid else []
            self._out.given += [(2, old.gid, attr.gid, space)] if old.gid != attr.gid else []
        self._rows["node"].append((ino, attr.type, 1, data))
        out = self._out
        if ino not in (ROOT, TRASH):
            out.used_space += node_space(attr)
            out.used_inodes += 1
            if ino > TRASH:
                out.max_trash = max(out.max_trash, ino - TRASH)
            elif ino > out.max_inode:
                out.max_inode = ino
        elif attr.type != DIRECTORY:
            self._wrong(f"inode {ino}", "the root is no directory")

    def _edge(self, r: Any) -> None:
        parent, ino, name, kind = r.parent, r.inode, r.name, r.type
        wrong = bad_name(name, parent)
        if not wrong and (not 0 < parent <= _I63 or not 0 < ino <= _I63 or kind not in _TYPES or ino in (ROOT, TRASH)):
            wrong = f"an impossible entry: inode {ino} of type {kind}"
        if wrong:
            self._wrong(f"directory inode {parent}, {name.decode('utf-8', 'backslashreplace')!r}", wrong)
            return
        self._rows["entry"].append((parent, name, kind, ino))

    def _chunk(self, r: Any) -> None:
        ino, raw = r.inode, r.slices
        where = f"inode {ino}, chunk {r.index}"
        try:
            slices = decode_slices(raw)
        except ValueError as e:
            self._wrong(where, str(e))
            return
        if not 0 < ino <= _I63 or r.index > 0x7FFFFFFF:
            self._wrong(where, "an impossible inode or index")
            return
        use, out = self._rows["use"], self._out
        for s in slices:
            wrong = bad_slice(s)
            if wrong:
                self._wrong(where, wrong, tuple(s))
            elif s.id:
                use.append((s.id, s.size, 1))
                if s.id > out.max_slice:
                    out.max_slice = s.id
        if raw:
            self._rows["chunk"].append((ino, r.index, raw))

    def _reference(self, r: Any) -> None:
        if not 0 < r.id <= _I63:
            self._wrong(f"slice {r.id}", "an impossible id")
            return
        self._out.max_slice = max(self._out.max_slice, r.id)
        self._rows["ref"].append((r.id, r.size, r.refs))

    def _xattr(self, r: Any) -> None:
        where = f"inode {r.inode}"
        if not 0 < r.inode <= _I63 or not 0 < len(r.name) <= 255 or len(r.value) > 65536:
            self._wrong(where, "an extended attribute that can't be", f"{len(r.name)} and {len(r.value)} bytes")
        elif self._out.limits.any_xattr or self._out.limits.xattr(where, r.name, r.value):
            self._rows["xattr"].append((r.inode, r.name, r.value))

    def _parent(self, r: Any) -> None:
        if not 0 < r.inode <= _I63 or not 0 < r.parent <= _I63:
            self._wrong(f"inode {r.inode}", "an impossible link count", r.parent)
        elif r.cnt > 0:
            self._rows["link"].append((r.inode, r.parent, r.cnt))

    def _symlink(self, r: Any) -> None:
        wrong = bad_target(r.target) if 0 < r.inode <= _I63 else "an impossible inode"
        if wrong:
            self._wrong(f"inode {r.inode}", wrong)
        else:
            self._rows["symlink"].append((r.inode, r.target))

    def _sustained(self, r: Any) -> None:
        if not 0 < r.sid <= _I63 or any(not 0 < ino <= _I63 for ino in r.inodes):
            self._wrong(f"session {r.sid}", "impossible numbers of open files")
            return
        self._out.max_session = max(self._out.max_session, r.sid)
        self._rows["sustained"].extend((r.sid, ino) for ino in r.inodes)

    def _delfile(self, r: Any) -> None:
        if not 0 < r.inode <= _I63 or r.length >= MAX_FILE_LENGTH:
            self._wrong(f"deleted inode {r.inode}", "an impossible number or length", r.length)
        else:
            self._out.max_inode = max(self._out.max_inode, r.inode if r.inode < TRASH else 0)
            self._rows["delfile"].append((r.inode, r.length, r.expire))

    def _stat(self, r: Any) -> None:
        if not 0 < r.inode <= _I63:
            self._wrong(f"inode {r.inode}", "an impossible number")
        else:
            self._rows["dirstat"].append((r.inode, r.dataLength, r.usedSpace, r.usedInodes))

    def _quota(self, kind: int, r: Any) -> None:
        if r.key > _I63 or (kind and r.key > _U32):
            self._wrong(f"quota of {r.key}", "an impossible number")
        else:
            self._rows["quota"].append((kind, r.key, r.maxSpace, r.maxInodes, r.usedSpace, r.usedInodes))

    def _acl(self, r: Any) -> None:
        try:
            acl.decode(r.data)
        except ValueError as e:
            self._wrong(f"ACL rule {r.id}", str(e))
            return
        self._rows["acl"].append((r.id, r.data))
