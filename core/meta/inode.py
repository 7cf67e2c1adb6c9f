# SPDX-License-Identifier: Apache-2.0
"""Attributes and extended attributes of one inode. Source: spec metadata-semantics §5."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from core.errors import FsError
from core.meta import acl as aclmod, keys as k
from core.meta.base import READ, WRITE, show
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.records import DIRECTORY, FLAG_APPEND, FLAG_IMMUTABLE, SYMLINK, TRASH, Attr, node_space
from core.meta.rename import Rename
from core.meta.store import Tx

# What to change (format §1.5).
SET_MODE: Final = 0x1
SET_UID: Final = 0x2
SET_GID: Final = 0x4
SET_ATIME: Final = 0x10
SET_MTIME: Final = 0x20
SET_ATIME_NOW: Final = 0x80
SET_MTIME_NOW: Final = 0x100
SET_TIER: Final = 0x400
SET_FLAGS: Final = 0x8000

_MASKS: Final = {
    "mode": SET_MODE, "uid": SET_UID, "gid": SET_GID, "atime_ns": SET_ATIME, "mtime_ns": SET_MTIME, "flags": SET_FLAGS,
    "tier": SET_TIER,
}  # fmt: skip
_MASKS_NOW: Final = {"atime_ns": SET_ATIME_NOW, "mtime_ns": SET_MTIME_NOW}

XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
_NO_ATTR: Final = errno.ENODATA


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


class Inodes(Rename):
    """Mixin of `Meta`."""

    async def setattr(self, ino: int, changes: Mapping[str, Any], caller: Caller = ROOT_CALLER) -> Attr:
        """Change attributes (2 trips). `changes`: any of mode, uid, gid, atime_ns, mtime_ns
        (int or "now"), flags, tier.

        Nothing different: nothing written, ctime stays. Errors: ENOENT, EPERM, EACCES.
        """
        self.require_writable()

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            (attr,) = await tx.read(k.node(ino))
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            if attr.in_trash:
                raise FsError(errno.EPERM, f"inode {ino} is in the trash; restore it first")
            new = await self._changed(ino, attr, dict(changes), caller)
            if new == attr:
                return tx, attr
            new = msgspec.structs.replace(new, ctime_ns=self.clock_ns())
            tx.put(k.node(ino), new)
            self._charge_owner_change(tx, attr, new)
            self.log_setattr(tx, ino, changes, new)
            return tx, new

        tx, attr = await self.store.transact(body)
        self.after_commit(tx)
        return attr

    def log_setattr(self, tx: Tx, ino: int, changes: Mapping[str, Any], new: Attr) -> None:
        mask = 0
        for field, value in changes.items():
            mask |= _MASKS[field] if value != "now" else _MASKS_NOW[field]
        (a_s, a_n), (m_s, m_n), (c_s, c_n) = (divmod(t, 10**9) for t in (new.atime_ns, new.mtime_ns, new.ctime_ns))
        self.log_change(
            tx, "SETATTR", ino, mask, 0, new.uid, new.gid, new.mode, new.flags, a_s, m_s, a_n, m_n, c_s, c_n,
            new.access_acl, now=new.ctime_ns,
        )  # fmt: skip

    def _charge_owner_change(self, tx: Tx, old: Attr, new: Attr) -> None:
        if not self.user_group_quota:
            return
        space = node_space(old)
        for kind, before, after in ((1, old.uid, new.uid), (2, old.gid, new.gid)):
            if before != after:
                self._add_quota(tx, kind, before, -space, -1)
                self._add_quota(tx, kind, after, space, 1)

    async def _changed(self, ino: int, attr: Attr, want: dict[str, Any], caller: Caller) -> Attr:
        """Rules 3–18 of §5.1 on one attribute record."""
        owner = caller.uid == 0 or caller.uid == attr.uid
        chown = "uid" in want or "gid" in want
        self.require_ids(want.get("uid", 0), want.get("gid", 0))
        new = attr
        if chown and "mode" in want:
            want["mode"] |= attr.mode & 0o6000
        if chown and attr.mode & 0o6000 and attr.type != DIRECTORY:
            clear = 0o6000 if caller.uid != 0 or attr.mode & 0o010 else 0o4000
            new = msgspec.structs.replace(new, mode=new.mode & ~clear)
            if "mode" in want:
                want["mode"] &= ~clear
        if "gid" in want:
            if not owner:
                raise FsError(errno.EPERM, f"inode {ino}: only its owner or root changes the group")
            if want["gid"] != attr.gid and caller.check and caller.uid != 0 and want["gid"] not in caller.gids:
                raise FsError(errno.EPERM, f"inode {ino}: uid {caller.uid} is no member of group {want['gid']}")
            new = msgspec.structs.replace(new, gid=want["gid"])
        if "uid" in want and want["uid"] != attr.uid:
            if caller.check and caller.uid != 0:
                raise FsError(errno.EPERM, f"inode {ino}: only root changes the owner")
            new = msgspec.structs.replace(new, uid=want["uid"])
        if "mode" in want:
            new = await self._changed_mode(ino, attr, new, want["mode"] & 0o7777, caller, owner)
        for field in ("atime_ns", "mtime_ns"):
            if field in want:
                value = await self._allowed_time(ino, attr, getattr(attr, field), want[field], caller, owner)
                new = msgspec.structs.replace(new, **{field: value})
        if "flags" in want:
            new = msgspec.structs.replace(new, flags=want["flags"])
        if "tier" in want:
            new = msgspec.structs.replace(new, tier=want["tier"])
        return new

    async def _changed_mode(self, ino: int, attr: Attr, new: Attr, mode: int, caller: Caller, owner: bool) -> Attr:
        if caller.check and caller.uid != 0 and mode & 0o2000 and attr.gid not in caller.gids:
            mode &= ~0o2000
        if attr.access_acl:
            rule = aclmod.with_mode(await self.acl_rule(attr.access_acl), mode)
            return msgspec.structs.replace(new, mode=mode & 0o7000 | rule.mode, access_acl=await self.acl_id(rule))
        if mode == new.mode:
            return new
        added = mode & ~attr.mode
        if not owner and ((mode ^ attr.mode) & 0o1777 or added & 0o6000):
            raise FsError(errno.EPERM, f"inode {ino}: only its owner or root changes the mode")
        return msgspec.structs.replace(new, mode=mode)

    async def _allowed_time(self, ino: int, attr: Attr, old: int, want: int | str, caller: Caller, owner: bool) -> int:
        if want == "now":
            if not owner:
                await self.require_access(caller, ino, attr, WRITE)
            return self.clock_ns()
        assert isinstance(want, int)
        if want == old:
            return old
        if attr.uid == 0 and caller.uid != 0:
            raise FsError(errno.EPERM, f"inode {ino} belongs to root; only root sets its times")
        if not owner:
            await self.require_access(caller, ino, attr, WRITE)
        return want

    async def check_open(
        self, ino: int, caller: Caller, *, write: bool, append: bool = False, truncate: bool = False
    ) -> Attr:
        """The checks of open(2) (semantics §5.2). Doesn't register a handle."""
        if self.read_only and (write or append or truncate):
            self.require_writable()
        attr = await self.getattr(ino)
        await self.require_access(caller, ino, attr, READ | WRITE if write else READ)
        if write and (attr.flags & FLAG_IMMUTABLE or attr.in_trash):
            raise FsError(errno.EPERM, f"inode {ino} is immutable or in the trash")
        if attr.flags & FLAG_APPEND and ((write and not append) or truncate):
            raise FsError(errno.EPERM, f"inode {ino} is append-only")
        self.note_access(ino, attr)
        return attr

    # -- extended attributes -------------------------------------------------------------------------------------

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        if name in (aclmod.XATTR_ACCESS, aclmod.XATTR_DEFAULT):
            attr = await self.getattr(ino)
            rule_id = attr.access_acl if name == aclmod.XATTR_ACCESS else attr.default_acl
            if rule_id:
                return aclmod.to_xattr(await self.acl_rule(rule_id))
            value = None
        else:
            (value,) = await self.store.read(k.xattr(ino, name))
        if value is None:
            raise FsError(_NO_ATTR, f"inode {ino} has no extended attribute {show(name)!r}")
        result: bytes = value
        return result

    async def listxattr(self, ino: int) -> list[bytes]:
        attr, stored = await self.store.read(k.node(ino), k.xattrs(ino))
        if attr is None:
            raise FsError(errno.ENOENT, f"inode {ino} does not exist")
        names = sorted(stored)
        if attr.access_acl:
            names.append(aclmod.XATTR_ACCESS)
        if attr.default_acl:
            names.append(aclmod.XATTR_DEFAULT)
        return names

    def require_xattr(self, name: bytes, value: bytes | None = None) -> None:
        if not name:
            raise FsError(errno.EINVAL, "empty name of an extended attribute")
        limit = self.store.caps.max_xattr
        if len(name) > 255 or (value is not None and len(value) > limit):
            raise FsError(
                errno.ERANGE, f"extended attribute {show(name[:40])!r}: name over 255 bytes or value over {limit}"
            )
        if self.store.caps.text_xattr_names and not _is_utf8(name):
            raise FsError(
                errno.EINVAL, f"{self.store.name} holds names of extended attributes as UTF-8 text, not {show(name)!r}"
            )
        if value is not None and not value and not self.store.caps.empty_xattr:
            raise FsError(errno.EINVAL, f"{self.store.name} can't hold the empty extended attribute {show(name)!r}")

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0, caller: Caller = ROOT_CALLER) -> None:
        """Set one attribute (2 trips; 1 without flags). ctime stays (spec). EEXIST, ENODATA by flags."""
        self.require_writable()
        self.require_xattr(name, value)
        if flags not in (0, XATTR_CREATE, XATTR_REPLACE):
            raise FsError(errno.EINVAL, f"xattr flags {flags}")
        if name in (aclmod.XATTR_ACCESS, aclmod.XATTR_DEFAULT):
            await self.setfacl(ino, name == aclmod.XATTR_DEFAULT, aclmod.from_xattr(value), caller)
            return

        async def body(tx: Tx) -> None:
            if flags:
                (old,) = await tx.read(k.xattr(ino, name))
                if flags == XATTR_CREATE and old is not None:
                    raise FsError(errno.EEXIST, f"inode {ino} has extended attribute {show(name)!r} already")
                if flags == XATTR_REPLACE and old is None:
                    raise FsError(_NO_ATTR, f"inode {ino} has no extended attribute {show(name)!r}")
            tx.put(k.xattr(ino, name), value)
            self.log_change(tx, "SETXATTR", ino, name, value, flags)

        await self.store.transact(body)

    async def set_xattrs(self, ino: int, values: Mapping[bytes, bytes | None]) -> None:
        """Several at once, in one transaction; None removes (missing is fine). ENOENT if the inode is gone."""
        self.require_writable()
        for name, value in values.items():
            self.require_xattr(name, value)

        async def body(tx: Tx) -> None:
            (attr,) = await tx.peek(k.node(ino))
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            tx.expect_identity(ino, attr)
            for name, value in values.items():
                if value is None:
                    tx.delete(k.xattr(ino, name))
                    self.log_change(tx, "REMOVEXATTR", ino, name)
                else:
                    tx.put(k.xattr(ino, name), value)
                    self.log_change(tx, "SETXATTR", ino, name, value, 0)

        await self.store.transact(body)

    async def update_xattr(self, ino: int, name: bytes, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Read one attribute, decide, and write it in one transaction (2 trips), so that no other client's change is
        lost. change: old value (None: there is none) to the new one, None removes; it may run several times, and what
        it raises changes nothing. Returns the value that stands now. ENOENT if the inode is gone."""
        self.require_writable()

        async def body(tx: Tx) -> bytes | None:
            attr, old = await tx.read(k.node(ino), k.xattr(ino, name))
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            new = change(old)
            if new == old:
                return new
            self.require_xattr(name, new)
            if new is None:
                tx.delete(k.xattr(ino, name))
                self.log_change(tx, "REMOVEXATTR", ino, name)
            else:
                tx.put(k.xattr(ino, name), new)
                self.log_change(tx, "SETXATTR", ino, name, new, 0)
            return new

        return await self.store.transact(body)

    async def removexattr(self, ino: int, name: bytes, caller: Caller = ROOT_CALLER) -> None:
        self.require_writable()
        self.require_xattr(name)
        if name in (aclmod.XATTR_ACCESS, aclmod.XATTR_DEFAULT):
            await self.setfacl(ino, name == aclmod.XATTR_DEFAULT, aclmod.Rule(), caller)
            return

        async def body(tx: Tx) -> None:
            (old,) = await tx.read(k.xattr(ino, name))
            if old is None:
                raise FsError(_NO_ATTR, f"inode {ino} has no extended attribute {show(name)!r}")
            tx.delete(k.xattr(ino, name))
            self.log_change(tx, "REMOVEXATTR", ino, name)

        await self.store.transact(body)

    async def setfacl(self, ino: int, default: bool, rule: aclmod.Rule, caller: Caller = ROOT_CALLER) -> None:
        """Set or remove (empty rule) an ACL (semantics §5.6)."""
        self.require_writable()
        if not ino or ino >= TRASH:
            raise FsError(errno.EPERM, f"inode {ino} can't have an ACL")

        async def body(tx: Tx) -> None:
            (attr,) = await tx.read(k.node(ino))
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            if attr.type == SYMLINK:
                raise FsError(errno.ENOTSUP, f"inode {ino} is a symbolic link")
            if caller.uid not in (0, attr.uid):
                raise FsError(errno.EPERM, f"inode {ino}: only its owner or root changes the ACL")
            if attr.flags & FLAG_IMMUTABLE:
                raise FsError(errno.EPERM, f"inode {ino} is immutable")
            new = attr
            if caller.uid != 0 and attr.gid not in caller.gids:
                new = msgspec.structs.replace(new, mode=new.mode & ~0o2000)
            new = await self._with_acl(new, default, rule)
            if new != attr:
                tx.put(k.node(ino), msgspec.structs.replace(new, ctime_ns=self.clock_ns()))
                self.log_change(tx, "SETFACL", ino, 2 if default else 1, aclmod.encode(rule))

        await self.store.transact(body)

    async def _with_acl(self, attr: Attr, default: bool, rule: aclmod.Rule) -> Attr:
        if rule.empty:
            return msgspec.structs.replace(attr, **{"default_acl" if default else "access_acl": 0})
        if rule.minimal and not default:
            return msgspec.structs.replace(attr, access_acl=0, mode=attr.mode & 0o7000 | rule.mode)
        filled = msgspec.structs.replace(
            rule,
            owner=attr.mode >> 6 & 7 if rule.owner == aclmod.UNDEFINED else rule.owner,
            group=attr.mode >> 3 & 7 if rule.group == aclmod.UNDEFINED else rule.group,
            other=attr.mode & 7 if rule.other == aclmod.UNDEFINED else rule.other,
        )
        rule_id = await self.acl_id(filled)
        if default:
            return msgspec.structs.replace(attr, default_acl=rule_id)
        return msgspec.structs.replace(attr, access_acl=rule_id, mode=attr.mode & 0o7000 | filled.mode)
