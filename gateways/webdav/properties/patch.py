# SPDX-License-Identifier: Apache-2.0
"""One PROPPATCH: its changes judged one by one, then applied together or not at all.

Source: spec webdav §6; RFC 4918 §9.2.
"""

from __future__ import annotations

from typing import Any, Final
from xml.etree.ElementTree import Element

from core.meta.base import WRITE
from core.vfs.api import ROOT_CALLER, Caller
from core.vfs.filesystem import FileSystem
from gateways.webdav.dates import parse_any_ns
from gateways.webdav.errors import DavError
from gateways.webdav.export import Node
from gateways.webdav.properties import store
from gateways.webdav.properties.dead import Dead, Name
from gateways.webdav.properties.live import EXECUTABLE, MICROSOFT, PROTECTED
from gateways.webdav.xmltext import DAV, LANG, inner_xml, split_tag

#: Names under which clients set the modification time (rclone uses the second).
_MODIFIED: Final = ((DAV, "getlastmodified"), (DAV, "lastmodified"))
_WIN_TIMES: Final = {
    (MICROSOFT, "Win32LastModifiedTime"): "mtime_ns",
    (MICROSOFT, "Win32LastAccessTime"): "atime_ns",
}


class Patch:
    """Collects changes in document order; `apply` makes them."""

    def __init__(self, fs: FileSystem, node: Node, *, caller: Caller = ROOT_CALLER, dead_props: bool = True) -> None:
        self._fs = fs
        self._caller = caller
        self._node = node
        self._dead_props = dead_props
        self._dead: dict[Name, Dead | None] = {}
        self._attrs: dict[str, Any] = {}

    def add(self, tag: str, value: Element | None) -> None:
        """Judge one change and keep it; None removes. 403 for protected properties, 409 for bad values."""
        name = split_tag(tag)
        if name in PROTECTED:
            raise DavError(403, condition="cannot-modify-protected-property")
        if value is None:
            if name in _MODIFIED or name == EXECUTABLE:
                raise DavError(403, condition="cannot-modify-protected-property")
            self._dead[name] = None
            return
        text = "".join(value.itertext()).strip()
        if name in _MODIFIED:
            ns = parse_any_ns(text)
            if ns is None:
                raise DavError(409, "The date can't be read.")
            self._attrs["mtime_ns"] = ns
            return
        if name == EXECUTABLE:
            if text not in ("T", "F"):
                raise DavError(409, "Only T and F are possible.")
            mode = self._node.found.attr.mode
            # Who may read may then execute, as with `chmod +x`.
            self._attrs["mode"] = mode | (mode & 0o444) >> 2 if text == "T" else mode & ~0o111
            return
        if name in _WIN_TIMES:
            # A failing PROPPATCH aborts copies of the Windows client: what can't be read is only stored (§6.2).
            ns = parse_any_ns(text)
            if ns is not None:
                self._attrs[_WIN_TIMES[name]] = ns
        if not self._dead_props:
            if name[0] == MICROSOFT:
                return  # a refusal would make Windows give up the copy
            raise DavError(403, "This server stores no properties.")
        self._dead[name] = Dead(inner_xml(value), value.get(LANG, ""))

    async def apply(self) -> None:
        if self._caller.uid:
            await self._fs.meta.require_access(self._caller, self._node.ino, self._node.found.attr, WRITE)
        if self._dead:
            await store.change(self._fs, self._node.ino, self._dead)
        if self._attrs:
            await self._fs.meta.setattr(self._node.ino, self._attrs, self._caller)
