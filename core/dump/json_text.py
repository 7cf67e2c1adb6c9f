# SPDX-License-Identifier: Apache-2.0
"""One inode of a JSON dump as text, in the very layout of the original. Pure; spec metadata-semantics §15.1."""

from __future__ import annotations

import json
import struct
from typing import Any, Final

from core.dump.escape import escape, html_safe
from core.dump.source import Detail
from core.meta import acl
from core.meta.records import FILE, SYMLINK, Attr

TYPE_NAMES: Final = {
    1: "regular", 2: "directory", 3: "symlink", 4: "fifo", 5: "blockdev", 6: "chardev", 7: "socket",
}  # fmt: skip
_NS: Final = 1_000_000_000
_SLICE = struct.Struct(">IQIII")


def plain(value: Any) -> str:
    """A value below the document's first level, indented as Go does it."""
    text = json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n  ")
    return html_safe(text)


def string(raw: bytes) -> str:
    """The name of an extended attribute as a JSON string: the only text that isn't escaped by `%`. Bytes that are no
    UTF-8 become \\udcXX, which we read back as those bytes; the original can't carry them at all."""
    try:
        return html_safe(json.dumps(raw.decode(), ensure_ascii=False))
    except UnicodeDecodeError:
        return html_safe(json.dumps(raw.decode("utf-8", "surrogateescape")))


def _escaped(raw: bytes) -> str:
    return f'"{html_safe(escape(raw))}"'


def attr_text(ino: int, a: Attr) -> str:
    at, an = divmod(a.atime_ns, _NS)
    mt, mn = divmod(a.mtime_ns, _NS)
    ct, cn = divmod(a.ctime_ns, _NS)
    flags = f'"flags":{a.flags},' if a.flags else ""
    text = (
        f'{{"inode":{ino},{flags}"type":"{TYPE_NAMES.get(a.type, a.type)}","mode":{a.mode},"uid":{a.uid},"gid":{a.gid},'
        f'"atime":{at},"mtime":{mt},"ctime":{ct}'
    )
    if an:
        text += f',"atimensec":{an}'
    if mn:
        text += f',"mtimensec":{mn}'
    if cn:
        text += f',"ctimensec":{cn}'
    text += f',"nlink":{a.nlink},"length":{a.length if a.type == FILE else 0}'
    if a.rdev:
        text += f',"rdev":{a.rdev}'
    if a.tier:
        text += f',"tier":{a.tier}'
    return text + "}"


def acl_text(raw: bytes) -> str:
    rule = acl.decode(raw)

    def named(entries: tuple[tuple[int, int], ...]) -> str:
        if not entries:
            return "null"
        return "[" + ",".join(f'{{"id":{ident},"perm":{perm}}}' for ident, perm in entries) + "]"

    return (
        f'{{"owner":{rule.owner},"group":{rule.group},"other":{rule.other},"mask":{rule.mask},'
        f'"users":{named(rule.users)},"groups":{named(rule.groups)}}}'
    )


def chunks_text(chunks: dict[int, bytes], indent: str) -> str:
    """One chunk on the line of its key, several on lines of their own; empty if there is nothing in them.

    Records that are cut short are left out; `sluice check` names them.
    """
    found = []
    for index in sorted(chunks) if len(chunks) > 1 else chunks:
        raw = chunks[index]
        slices = []
        for pos, ident, size, off, length in _SLICE.iter_unpack(raw[: len(raw) // 24 * 24]):
            where = f',"pos":{pos}' if pos else ""
            part = f',"off":{off}' if off else ""
            slices.append(f'{{"id":{ident}{where},"size":{size}{part},"len":{length}}}')
        if slices:
            found.append(f'{{"index":{index},"slices":[{",".join(slices)}]}}')
    if len(found) > 1:
        lines = f",\n{indent}  ".join(found)
        return f"[\n{indent}  {lines}\n{indent}]"
    return f"[{found[0]}]" if found else ""


def render(indent: str, ino: int, attr: Attr, detail: Detail, rules: dict[int, str]) -> str:
    """The fields of an entry object, from its brace on; without the closing brace and without a newline at the end."""
    text = f'{{\n{indent}"attr": {attr_text(ino, attr)}'
    if attr.type == SYMLINK:
        text += f',\n{indent}"symlink": {_escaped(detail.target or b"")}'
    if detail.xattrs:
        pairs = ",".join(
            f'{{"name":{string(name)},"value":{_escaped(value)}}}' for name, value in sorted(detail.xattrs.items())
        )
        text += f',\n{indent}"xattrs": [{pairs}]'
    if attr.access_acl and attr.access_acl in rules:
        text += f',\n{indent}"posix_acl_access": {rules[attr.access_acl]}'
    if attr.default_acl and attr.default_acl in rules:
        text += f',\n{indent}"posix_acl_default": {rules[attr.default_acl]}'
    if detail.chunks and (chunks := chunks_text(detail.chunks, indent)):
        text += f',\n{indent}"chunks": {chunks}'
    return text


def entry_text(name: bytes) -> str:
    """A name as a key. The original writes it as it is, without escaping `<`, `>` and `&`."""
    return f'"{escape(name)}"'
