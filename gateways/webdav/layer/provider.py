# SPDX-License-Identifier: Apache-2.0
"""The provider for WsgiDAV: resources over the volume, with native delete, copy and move.

COPY is a clone (no data moves) into the temporary area, given its name by one rename; MOVE is one rename; what they
replace goes to the trash as a whole. Source: spec webdav §10, §11, §23.1.
"""

from __future__ import annotations

import errno
from typing import Any, Final
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring

from core.errors import FsError
from core.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from core.vfs.api import Caller, Condition
from core.vfs.filesystem import Content
from core.vfs.temporary import new_temporary
from gateways.webdav import kept
from gateways.webdav.errors import DavError
from gateways.webdav.export import Node
from gateways.webdav.layer.context import KEY, Context
from gateways.webdav.layer.library import DAVCollection, DAVError, DAVNonCollection, DAVProvider
from gateways.webdav.names import Path, from_layer, volume_bytes
from gateways.webdav.properties import live

_NS: Final = 1_000_000_000
_EMPTY: Final = Content(0, {})


class VolumeProvider(DAVProvider):  # type: ignore[misc]
    """One for all users: which export a request sees is in its context."""

    def is_readonly(self) -> bool:
        return False  # read-only doors refuse before WsgiDAV is asked

    def get_resource_inst(self, path: str, environ: dict[str, Any]) -> Any:
        context: Context = environ[KEY]
        node = context.node(from_layer(path))
        if node is None:
            return None
        kind = Folder if node.is_dir else File
        return kind(path, environ, node)

    def ref_url_to_path(self, ref_url: str) -> str:
        return ref_url


class _Resource:
    """What files and folders share; mixed in before WsgiDAV's classes."""

    environ: dict[str, Any]

    def _begin(self, environ: dict[str, Any], node: Node) -> None:
        self.context: Context = environ[KEY]
        self.node = node
        self.real = node.real

    def get_ref_url(self) -> str:
        return self.context.ref_url(self.node.path)

    def get_href(self) -> str:
        return self.context.href(self.node.path, collection=self.node.is_dir)

    def get_display_name(self) -> str:
        return live.display_text(self.node.path[-1] if self.node.path else b"")

    def get_etag(self) -> str | None:
        found = self.node.found
        return None if self.node.is_dir else kept.etag_of(found.ino, found.attr, found.xattrs)

    def support_etag(self) -> bool:
        return not self.node.is_dir

    def get_last_modified(self) -> float:
        return self.node.found.attr.mtime_ns / _NS

    def get_creation_date(self) -> float:
        attr = self.node.found.attr
        return min(attr.mtime_ns, attr.ctime_ns) / _NS

    # -- properties ---------------------------------------------------------------------------------------------

    def _shown(self) -> live.Resource:
        found, context = self.node.found, self.context
        locks = context.locks.table.covering(context.export.place(self.node.path)) if context.locks else ()
        return live.Resource(
            self.node.path[-1] if self.node.path else b"", found.ino, found.attr, found.xattrs or {},
            self.get_href(), locks=locks, lock_prefix=(context.config.prefix, context.export.root),
        )  # fmt: skip

    def get_property_names(self, *, is_allprop: bool) -> list[str]:
        shown = self._shown()
        names = [name for name, make in live.ALL.items() if make(shown)] + list(shown.dead)
        return [f"{{{space}}}{local}" for space, local in names]

    def get_property_value(self, name: str) -> Element:
        shown = self._shown()
        space, _, local = name[1:].partition("}") if name.startswith("{") else ("", "", name)
        make = live.LIVE.get((space, local))
        text = make(shown) if make else ""
        if not text and (space, local) in shown.dead:
            text = live.dead_element((space, local), shown.dead[space, local])
        if not text:
            raise DAVError(404)
        element: Element = fromstring(f'<x xmlns:D="DAV:">{text}</x>')[0]
        return element

    def remove_all_properties(self, *, recursive: bool) -> None:
        pass  # they lie on the inode and go with it

    def remove_all_locks(self, *, recursive: bool) -> None:
        context = self.context
        if context.locks is not None:
            context.wait(context.locks.release_tree(context.export.place(self.node.path)))

    def prevent_locking(self) -> bool:
        return False

    def is_link(self) -> bool:
        return False

    # -- changing names -----------------------------------------------------------------------------------------

    def handle_delete(self) -> bool | list[tuple[str, DAVError]]:
        context = self.context
        context.wait(delete(context, self.node))
        context.forget(self.node.path)
        return True

    def handle_copy(self, dest_path: str, *, depth_infinity: bool) -> bool:
        context, target = self.context, from_layer(dest_path)
        context.wait(copy(context, self.node, target, deep=depth_infinity or not self.node.is_dir))
        context.forget(target)
        return True

    def handle_move(self, dest_path: str) -> bool:
        context, target = self.context, from_layer(dest_path)
        context.wait(move(context, self.node, target))
        context.forget(target)
        context.forget(self.node.path)
        return True


class File(_Resource, DAVNonCollection):  # type: ignore[misc]
    def __init__(self, path: str, environ: dict[str, Any], node: Node) -> None:
        super().__init__(path, environ)
        self._begin(environ, node)

    def get_content_length(self) -> int:
        return int(self.node.found.attr.length)

    def get_content_type(self) -> str:
        return kept.content_type(self.node.path[-1] if self.node.path else b"", self.node.found.xattrs)

    def support_ranges(self) -> bool:
        return True

    def get_content(self) -> Any:
        raise DAVError(501)  # reading is answered before WsgiDAV

    def begin_write(self, *, content_type: str | None = None) -> Any:
        raise DAVError(501)


class Folder(_Resource, DAVCollection):  # type: ignore[misc]
    def __init__(self, path: str, environ: dict[str, Any], node: Node) -> None:
        super().__init__(path, environ)
        self._begin(environ, node)

    def get_content_length(self) -> int | None:
        return None

    def get_content_type(self) -> str | None:
        return kept.DIRECTORY_TYPE

    def get_member_names(self) -> list[str]:
        raise DAVError(501)  # trees are handled as a whole

    def create_collection(self, name: str) -> None:
        (plain,) = from_layer(name)
        context = self.context
        path = (*self.node.path, plain)
        context.wait(_make_folder(context, self.node, plain))
        context.forget(path)

    def create_empty_resource(self, name: str) -> Any:
        (plain,) = from_layer(name)
        context = self.context
        path = (*self.node.path, plain)
        context.wait(_make_file(context, self.node, plain))
        context.forget(path)
        context.created = context.node(path)
        assert context.created is not None
        return File(self.path.rstrip("/") + "/" + name, self.environ, context.created)


# -- the operations, on the event loop -----------------------------------------------------------------------------


async def _make_folder(context: Context, parent: Node, name: bytes) -> None:
    fs, export = context.export.fs, context.export
    try:
        made = await fs.mkdir(volume_bytes((*parent.real, name)), export.caller, mode=context.config.dir_mode)
    except FsError as e:
        if e.errno == errno.EEXIST:
            raise DavError(405, "Something of this name exists.") from e
        raise
    if context.mtime_ns is not None:
        await fs.set_times(made.ino, mtime_ns=context.mtime_ns)


async def _make_file(context: Context, parent: Node, name: bytes) -> None:
    try:
        await context.export.fs.publish(
            volume_bytes((*parent.real, name)), _EMPTY, context.export.caller, mode=context.config.file_mode,
            condition=Condition(absent=True),
        )  # fmt: skip
    except FsError as e:
        if e.errno == errno.EEXIST:
            raise DavError(412, "It was created a moment ago.") from e
        raise


async def delete(context: Context, node: Node) -> None:
    """Remove a file, a link, or a whole tree, and all locks there."""
    export = context.export
    end = await export.link_end(node)
    if not end.real or end.real == export.root:
        raise DavError(403, "The root of what is served can't be removed.")
    fs, path = export.fs, volume_bytes(end.real)
    if end.is_dir:
        await fs.meta.remove_tree(
            end.found.parent, end.real[-1], export.caller, skip_trash=False, threads=context.config.threads
        )
    else:
        await fs.unlink(path, export.caller)
    if context.locks is not None:
        await context.locks.release_tree(export.place(node.path))


async def copy(context: Context, node: Node, target: Path, *, deep: bool) -> None:
    export, fs = context.export, context.export.fs
    meta, caller = fs.meta, export.caller
    parent = await export.find_parent(target)
    folder, name, path = await new_temporary(fs)
    made = path
    owner = Caller(caller.uid, caller.gids, check=False)
    if caller.uid:
        # A place of the user's own: the clone is made, and moved, with no more rights than the user has.
        folder, name, made = (await fs.mkdir(path, owner, mode=0o700)).ino, b"copy", path + b"/copy"
    try:
        if deep:
            # The root of the volume, where the hidden folders lie, contains every target and never gets here.
            # A user's copy belongs to the user; the server's own keeps owner and mode.
            await meta.clone(node.ino, folder, name, caller, preserve=not caller.uid, umask=context.config.umask)
        else:
            await fs.mkdir(made, owner, mode=node.found.attr.mode, xattrs=node.found.xattrs)
        copied = await fs.lookup(made, follow=False)
        mtime = context.mtime_ns
        if mtime is None:
            mtime = node.found.attr.mtime_ns if context.config.copy_keep_mtime else meta.clock_ns()
        if mtime != copied.attr.mtime_ns:
            await fs.set_times(copied.ino, mtime_ns=mtime)
        await _put_in_place(context, folder, name, parent, target)
    except BaseException:
        await _remove_quietly(context, path)
        raise
    if caller.uid:
        await _remove_quietly(context, path)


async def _put_in_place(context: Context, src: int, src_name: bytes, parent: Node, target: Path) -> None:
    """Rename to the target; what is there goes away as a whole, to the trash."""
    export, fs = context.export, context.export.fs
    meta, name = fs.meta, target[-1]
    try:
        await meta.rename(src, src_name, parent.ino, name, RENAME_NOREPLACE, export.caller)
        return
    except FsError as e:
        if e.errno != errno.EEXIST:
            raise
    await meta.rename(src, src_name, parent.ino, name, RENAME_EXCHANGE, export.caller)
    # What was replaced stands under the old name of the new one now. Whoever may replace it may see it go, whole.
    found = await meta.lookup(src, src_name)
    if found[1].is_dir:
        await meta.remove_tree(src, src_name, skip_trash=False, threads=context.config.threads)
    else:
        await meta.unlink(src, src_name)
    if context.locks is not None:
        await context.locks.release_tree(export.place(target))


async def move(context: Context, node: Node, target: Path) -> None:
    export, fs = context.export, context.export.fs
    end = await export.link_end(node)
    if not end.real or end.real == export.root:
        raise DavError(403, "The root of what is served can't be moved.")
    parent = await export.find_parent(target)
    there = await export.find(target, follow=False)
    if there is not None and export.in_trash(node.path):
        raise DavError(409, "Something stands there; move it away before this comes out of the trash.")
    if there is None:
        await fs.meta.rename(end.found.parent, end.real[-1], parent.ino, target[-1], RENAME_NOREPLACE, export.caller)
    elif not there.is_dir and not end.is_dir:
        await fs.meta.rename(end.found.parent, end.real[-1], parent.ino, target[-1], 0, export.caller)
    else:
        # An exchange: at no moment is the target missing, and what dies on the way is a file too many, never one lost.
        await _put_in_place(context, end.found.parent, end.real[-1], parent, target)
    if context.mtime_ns is not None:
        await fs.set_times(end.ino, mtime_ns=context.mtime_ns)
    if context.locks is not None:
        await context.locks.release_tree(export.place(node.path))
        if there is not None:
            await context.locks.release_tree(export.place(target))


async def _remove_quietly(context: Context, path: bytes) -> None:
    try:
        await context.export.fs.remove_tree(path, skip_trash=True)
    except FsError:
        pass  # it was never made; or the cleaner of the temporary area finds it
