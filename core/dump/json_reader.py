# SPDX-License-Identifier: Apache-2.0
"""First pass over a JSON dump: read all of it, find everything that is wrong, pour what it says into a scratch table.

The tree is walked with a stack of our own (any depth), one file at a time, so memory is bounded by what one file holds.
A directory's record is made when its end is reached: only then its link count, statistics and usage are known.
The first occurrence of an inode counts; others are hard links (spec metadata-semantics §15.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from core.dump.escape import unescape
from core.dump.inodes import InodeSet
from core.dump.json_document import (
    ATTR_KEYS,
    ENTRY_KEYS,
    TYPES,
    DelFileDoc,
    EntryDoc,
    QuotaDoc,
    as_entry,
    problem_of,
)  # fmt: skip
from core.dump.json_scan import Malformed, Scanner
from core.dump.node_rules import bad_name, bad_slice, bad_target
from core.dump.reading import Reading
from core.meta import acl
from core.meta.records import DIRECTORY, FILE, INTERNAL_BASE, ROOT, SYMLINK, TRASH, Attr, Slice, encode_slices

_NS: Final = 1_000_000_000
#: The next entry if it is no directory and its fields are in the usual order: it is taken whole by the C scanner.
_LEAF = re.compile(r'\s*(,?)\s*"([^"\\\x00-\x1f]*)"\s*:\s*(?=\{\s*"attr"\s*:\s*\{[^{}]*?"type"\s*:\s*"(?!directory))')
_QUOTAS: Final = {"Quotas": 0, "UserQuotas": 1, "GroupQuotas": 2}
_TICK: Final = 1000


class _Directory:
    """A directory that is being read."""

    __slots__ = ("below_inodes", "below_space", "fields", "ino", "inodes", "length", "name", "new", "parent",
                 "space", "started", "subdirs", "trash")  # fmt: skip

    def __init__(self, name: bytes, parent: int, trash: int) -> None:
        self.name = name
        self.parent = parent
        self.trash = trash  # 0 outside; 1 the trash root, 2 an hourly directory, 3 something in it
        self.fields: dict[str, Any] = {}
        self.ino = 0  # 0: unknown, what is in it can't be placed
        self.new = True
        self.started = False  # behind the brace of its entries
        self.subdirs = 0
        self.length = self.space = self.inodes = 0  # of its entries
        self.below_space = self.below_inodes = 0  # of its whole subtree


class JsonReader:
    """`await read()` fills `reading`; problems are in `reading.problems`."""

    def __init__(self, read: Callable[[int], bytes], reading: Reading) -> None:
        self._scan = Scanner(read)
        self._out = reading
        self._problems = reading.problems
        self._scratch = reading.scratch
        self._rows = reading.scratch.rows
        self._seen = InodeSet()
        self._rules: dict[bytes, int] = {}
        self._stack: list[_Directory] = []
        self._top = ROOT  # the inode that becomes the root
        self._done: set[str] = set()

    async def read(self, turn: Callable[[], Any]) -> None:
        """`turn` is awaited now and then, for progress and other tasks."""
        scan = self._scan
        try:
            for key in scan.members():
                if key in self._done:
                    self._problems.error(key, "a part of the file that was there before")
                self._done.add(key)
                await self._part(key, turn)
            if scan.peek():
                self._problems.error("", "something follows the end of the document", scan.where())
        except Malformed as e:
            self._problems.error(self._path(), "the file is damaged or cut short here", e)
            return
        for needed in ("Setting", "FSTree"):
            if needed not in self._done:
                self._problems.error("", f"the file has no {needed}; is it a dump of a volume?")
        self._scratch.settle(all_of_it=True)
        self._link_counts()

    async def _part(self, key: str, turn: Callable[[], Any]) -> None:
        scan = self._scan
        if key == "Setting":
            self._out.take_setting(scan.value())
        elif key == "Counters":
            stated = scan.value() or {}
            if isinstance(stated, dict):
                self._out.stated = stated
            else:
                self._problems.error(key, "is no object")
        elif key == "Sustained":
            for held in scan.elements():
                count = len(held.get("inodes") or ()) if isinstance(held, dict) else 0
                if count:
                    self._problems.note(key, "files that were open but removed are not in a JSON dump", count)
        elif key == "DelFiles":
            for found in scan.elements():
                self._deleted(found)
        elif key == "ChangeLog":
            for _ in scan.elements():
                pass
        elif key in _QUOTAS:
            self._quotas(key)
        elif key in ("FSTree", "Trash"):
            await self._tree(key, turn)
        else:
            self._problems.note(key, "a part of the file that this version doesn't know; it is ignored")
            scan.value()

    def _deleted(self, found: Any) -> None:
        try:
            doc = msgspec.convert(found, DelFileDoc)
        except msgspec.ValidationError as e:
            self._problems.error("DelFiles", problem_of(e))
            return
        self._rows["delfile"].append((doc.inode, doc.length, doc.expire))

    def _quotas(self, key: str) -> None:
        scan, kind = self._scan, _QUOTAS[key]
        if scan.peek() == "n":
            scan.value()
            return
        for ident in scan.members():
            found = scan.value()
            try:
                doc = msgspec.convert(found, QuotaDoc)
                number = int(ident)
                if not 0 <= number < 1 << 63:
                    raise ValueError
            except msgspec.ValidationError as e:
                self._problems.error(f"{key} {ident}", problem_of(e))
            except ValueError:
                self._problems.error(f"{key} {ident}", "is no number")
            else:
                self._rows["quota"].append((kind, number, doc.maxSpace, doc.maxInodes, 0, 0))

    # -- the tree -------------------------------------------------------------------------------------------------

    async def _tree(self, key: str, turn: Callable[[], Any]) -> None:
        scan, stack = self._scan, self._stack
        trash = key == "Trash"
        if scan.peek() == "n":
            scan.value()
            return
        top = _Directory(b".trash" if trash else b"", ROOT, 1 if trash else 0)
        scan.expect("{")
        stack.append(top)
        count = 0
        while stack:
            if not stack[-1].started:
                self._field(stack[-1])
                count += 1
            else:
                count += self._leaves(stack[-1])
                self._entry(stack[-1])
            if count >= _TICK:
                count = 0
                self._scratch.settle()
                await turn()
        self._scratch.settle()

    def _field(self, folder: _Directory) -> None:
        """One field of an entry object, or its end."""
        scan = self._scan
        if scan.skip_if("}"):
            self._close(folder)
            return
        if folder.fields:
            scan.expect(",")
        key = scan.key()
        if key != "entries":
            if key in folder.fields:
                self._problems.error(self._path(), "a field that was there before", key)
            folder.fields[key] = scan.value()
            return
        folder.fields[key] = None
        if scan.peek() == "n":
            scan.value()
            return
        attr = folder.fields.get("attr")
        ino = attr.get("inode") if isinstance(attr, dict) else None
        if not isinstance(attr, dict):
            self._problems.error(self._path(), "entries stand before attr, so nothing can be placed; reorder the file")
        elif attr.get("type") != "directory":
            self._problems.error(self._path(), "something that is no directory has entries")
        elif type(ino) is int and 0 < ino < 1 << 63:
            self._enter(folder, ino)
        scan.expect("{")
        folder.started = True
        folder.subdirs = 0

    def _enter(self, folder: _Directory, ino: int) -> None:
        """The directory's number is known: may it be used?"""
        if len(self._stack) == 1:
            if folder.trash:
                if ino != TRASH:
                    self._problems.error("/.trash", f"the trash has inode {ino} instead of {TRASH}")
            elif ino >= INTERNAL_BASE:
                self._problems.error("/", f"the root has the reserved inode {ino}")
            else:
                self._top, self._out.top = ino, ino
                ino = ROOT
        elif not self._stack[-2].ino or not self._placeable(folder.trash, ino, DIRECTORY):
            return
        folder.ino = ino
        if not self._seen.add(ino if ino != ROOT else self._top):
            folder.new = False
            self._problems.loss(self._path(), "a directory that is already elsewhere in the tree", f"inode {ino}")
            folder.ino = 0

    def _placeable(self, trash: int, ino: int, kind: int) -> bool:
        """`trash`: where it lies, as in _Directory (2: in the trash root)."""
        if trash == 2:
            if ino > TRASH and kind == DIRECTORY:
                return True
            self._problems.error(
                self._path(), "the trash holds something else than an hourly directory", f"inode {ino}"
            )
        elif ino >= INTERNAL_BASE or ino in (ROOT, self._top):
            self._problems.error(self._path(), "a reserved inode number", ino)
        else:
            return True
        return False

    def _leaves(self, folder: _Directory) -> int:
        """The fast way over many files; stops at what needs a closer look, after a while, or where the window ends."""
        scan, count = self._scan, 0
        while count < _TICK and (found := _LEAF.match(scan.text, scan.at)) is not None:
            if bool(found[1]) != bool(folder.fields["entries"]):
                break
            name = unescape(found[2])
            if wrong := bad_name(name, folder.ino, folder.trash):
                self._problems.error(self._path(name), wrong)
            scan.at = found.end()
            folder.fields["entries"] = True
            self._leaf(folder, name, scan.value())
            count += 1
        return count + 1

    def _entry(self, folder: _Directory) -> None:
        """One member of `entries`, or their end."""
        scan = self._scan
        if scan.skip_if("}"):
            folder.started = False
            return
        if folder.fields["entries"]:
            scan.expect(",")
        folder.fields["entries"] = True
        name = unescape(scan.key())
        wrong = bad_name(name, folder.ino, folder.trash)
        if wrong:
            self._problems.error(self._path(name), wrong)
        scan.expect("{")
        self._stack.append(_Directory(name, folder.ino, min(folder.trash + 1, 3) if folder.trash else 0))

    def _close(self, child: _Directory) -> None:
        """An entry object has ended that was read field by field."""
        stack = self._stack
        fields = child.fields
        entries = fields.pop("entries", False)
        attr = fields.get("attr")
        if not isinstance(attr, dict) or attr.get("type") != "directory":
            path = self._path()
            stack.pop()
            if not stack:
                self._problems.error(path or "/", "the top of the tree is no directory")
            else:
                self._leaf(stack[-1], child.name, fields)
            return
        ino = attr.get("inode")
        if child.ino == 0 and child.new and entries is False and type(ino) is int and 0 < ino < 1 << 63:
            self._enter(child, ino)  # a directory without `entries`
        self._directory(child, self._document(fields, self._path()))
        stack.pop()

    def _document(self, fields: dict[str, Any], path: str) -> EntryDoc | None:
        if not fields.keys() <= ENTRY_KEYS:
            self._problems.note(path, "fields that this version doesn't know", ", ".join(fields.keys() - ENTRY_KEYS))
        try:
            doc = as_entry(fields)
        except msgspec.ValidationError as e:
            self._problems.error(path, problem_of(e))
            return None
        if not fields["attr"].keys() <= ATTR_KEYS:
            unknown = ", ".join(fields["attr"].keys() - ATTR_KEYS)
            self._problems.note(path, "attributes that this version doesn't know", unknown)
        return doc

    # -- records --------------------------------------------------------------------------------------------------

    def _directory(self, folder: _Directory, doc: EntryDoc | None) -> None:
        if doc is None or not folder.ino:
            return
        ino, top = folder.ino, len(self._stack) == 1
        # Directories of the trash keep two links, whatever they hold; one that lies in it counts as elsewhere.
        nlink = 2 if folder.trash in (1, 2) else 2 + folder.subdirs
        parent = ROOT if top else folder.parent
        attr = self._attr(doc, nlink, 4096, parent, self._path())
        if ino == TRASH and not doc.attr.mode and not doc.attr.ctime and not folder.inodes:
            return  # how a volume without a trash is dumped
        self._rows["node"].append((ino, DIRECTORY, 1, self._out.encode(attr)))
        self._extras(ino, doc, self._path())
        if ino != TRASH and folder.trash != 3:
            self._rows["dirstat"].append((ino, folder.length, folder.space, folder.inodes))
        below_space, below_inodes = folder.space + folder.below_space, folder.inodes + folder.below_inodes
        self._rows["below"].append((ino, below_space, below_inodes))
        if ino not in (ROOT, TRASH):
            self._out.count_node(attr, 4096, owned=ino < TRASH)
            if ino > TRASH:
                self._out.max_trash = max(self._out.max_trash, ino - TRASH)
            else:
                self._out.max_inode = max(self._out.max_inode, ino)
        if not top:
            above = self._stack[-2]
            self._place(above, folder.name, DIRECTORY, ino, 0, 4096)
            above.subdirs += 1
            above.below_space += below_space
            above.below_inodes += below_inodes

    def _leaf(self, folder: _Directory, name: bytes, fields: Any) -> None:
        """Anything but a directory."""
        path = ""
        if not isinstance(fields, dict) or not fields.keys() <= ENTRY_KEYS or "attr" not in fields:
            path = self._path(name)
            if not isinstance(fields, dict) or "attr" not in fields:
                self._problems.error(path, "an entry without attr")
                return
            if fields.pop("entries", None):
                self._problems.error(path, "something that is no directory has entries")
        doc = self._document(fields, path) if path else self._quick(fields, name)
        if doc is None:
            return
        attr, ino = doc.attr, doc.attr.inode
        kind = TYPES[attr.type]
        if kind == DIRECTORY:
            self._problems.error(self._path(name), "fields in an order that can't be read; attr has to come first")
            return
        if ino >= INTERNAL_BASE or ino in (ROOT, self._top) or folder.trash == 1:
            self._stack.append(_Directory(name, 0, 0))
            fine = self._placeable(2 if folder.trash == 1 else 0, ino, kind)
            self._stack.pop()
            if not fine:
                return
        if not folder.ino:
            return
        length = attr.length if kind == FILE else 0
        space = (length + 4095) & ~4095 if length else 4096
        self._place(folder, name, kind, ino, length, space)
        if not self._seen.add(ino):
            self._rows["again"].append((ino,))
            return
        if kind == SYMLINK:
            target = unescape(doc.symlink or "")
            wrong = bad_target(target)
            if wrong:
                self._problems.error(self._path(name), wrong)
            self._rows["symlink"].append((ino, target))
            size = len(target)
        else:
            size = length
        record = self._attr(doc, 1, size, folder.ino, "", name)
        self._rows["node"].append((ino, kind, 1, self._out.encode(record)))
        self._out.count_node(record, space)
        if ino > self._out.max_inode:
            self._out.max_inode = ino
        if doc.xattrs:
            self._extras(ino, doc, self._path(name))
        if doc.chunks:
            self._chunks(ino, kind, doc, name)

    def _quick(self, fields: dict[str, Any], name: bytes) -> EntryDoc | None:
        """`_document` without making a path for what is right."""
        try:
            doc = as_entry(fields)
        except msgspec.ValidationError as e:
            self._problems.error(self._path(name), problem_of(e))
            return None
        if not fields["attr"].keys() <= ATTR_KEYS:
            self._document(fields, self._path(name))
        return doc

    def _place(self, folder: _Directory, name: bytes, kind: int, ino: int, length: int, space: int) -> None:
        self._rows["entry"].append((folder.ino, name, kind, ino))
        folder.length += length
        folder.space += space
        folder.inodes += 1

    def _attr(self, doc: EntryDoc, nlink: int, length: int, parent: int, path: str, name: bytes = b"") -> Attr:
        a = doc.attr
        access = self._rule(doc.posix_acl_access.rule()) if doc.posix_acl_access is not None else 0
        default = self._rule(doc.posix_acl_default.rule()) if doc.posix_acl_default is not None else 0
        attr = Attr(
            TYPES[a.type], a.mode, a.uid, a.gid,
            a.atime * _NS + a.atimensec, a.mtime * _NS + a.mtimensec, a.ctime * _NS + a.ctimensec,
            nlink, length, a.rdev, parent, a.flags, access, default, a.tier,
        )  # fmt: skip
        if a.uid > self._out.limits.caps.max_id or a.gid > self._out.limits.caps.max_id:
            attr = self._out.limits.owner(path or self._path(name), attr)
        return attr

    def _rule(self, rule: acl.Rule) -> int:
        """Rules get new numbers, by their first occurrence."""
        raw = acl.encode(rule)
        known = self._rules.get(raw)
        if known is None:
            known = self._rules[raw] = len(self._rules) + 1
            self._rows["acl"].append((known, raw))
        return known

    def _extras(self, ino: int, doc: EntryDoc, path: str) -> None:
        for xattr in doc.xattrs or ():
            name, value = xattr.name.encode("utf-8", "surrogateescape"), unescape(xattr.value)
            if not 0 < len(name) <= 255:
                self._problems.error(path, "the name of an extended attribute must have 1 to 255 bytes", len(name))
            elif len(value) > 65536:
                self._problems.error(path, "an extended attribute has more than 65536 bytes", xattr.name)
            elif self._out.limits.any_xattr or self._out.limits.xattr(path, name, value):
                self._rows["xattr"].append((ino, name, value))

    def _chunks(self, ino: int, kind: int, doc: EntryDoc, name: bytes) -> None:
        if kind != FILE:
            self._problems.error(self._path(name), "something that is no file has chunks")
            return
        use = self._rows["use"]
        for chunk in doc.chunks or ():
            if not chunk.slices:
                continue
            slices = []
            for s in chunk.slices:
                ident = s.id or s.chunkid
                record = Slice(s.pos, ident, s.size, s.off, s.len)
                wrong = bad_slice(record)
                if wrong:
                    self._problems.error(self._path(name), f"chunk {chunk.index}: {wrong}", tuple(record))
                    continue
                slices.append(record)
                if ident:
                    use.append((ident, s.size, 1))
                    if ident > self._out.max_slice:
                        self._out.max_slice = ident
            self._rows["chunk"].append((ino, chunk.index, encode_slices(slices)))

    # -- hard links -----------------------------------------------------------------------------------------------

    def _link_counts(self) -> None:
        """Every place of hard-linked files: the first one is only in the inode's record so far."""
        db = self._scratch.ledger
        if not db.one("SELECT EXISTS (SELECT 1 FROM again)"):
            return
        db.execute("CREATE INDEX IF NOT EXISTS by_inode ON entry (ino)")
        for place, ino, kind, other in db.execute(
            "SELECT e.parent, e.ino, e.type, n.type FROM again l JOIN entry e ON e.ino = l.ino"
            " LEFT JOIN node n ON n.ino = e.ino WHERE n.ino IS NULL OR n.type != e.type LIMIT 1000"
        ):
            self._problems.error(
                self._scratch.path_of(place), f"inode {ino} is of type {kind} here and {other or 'damaged'} elsewhere"
            )
        db.execute(
            "INSERT INTO link SELECT e.ino, e.parent, COUNT(*) FROM again l JOIN entry e ON e.ino = l.ino GROUP BY 1, 2"
        )
        db.execute(
            "UPDATE node SET links = (SELECT SUM(n) FROM link WHERE link.ino = node.ino)"
            " WHERE ino IN (SELECT ino FROM again)"
        )

    def _path(self, name: bytes | None = None) -> str:
        """Of the entry that is being read, for people."""
        parts = [folder.name for folder in self._stack[1:]]
        if self._stack and self._stack[0].trash:
            parts.insert(0, b".trash")
        if name is not None:
            parts.append(name)
        if not self._stack:
            return ""
        return "/" + "/".join(part.decode("utf-8", "backslashreplace") for part in parts)
