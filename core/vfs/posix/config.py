# SPDX-License-Identifier: Apache-2.0
"""How one mount shows a volume. Source: cli §4.1 (flags and defaults), metadata-semantics §1.4, §5.4, §12.1."""

from __future__ import annotations

import msgspec

from core.meta.records import ROOT


class PosixConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed for the life of a mount. Everything is off unless it is asked for."""

    root: int = ROOT  # inode of the directory that the mount shows as its root (--subdir)
    xattr: bool = False  # user extended attributes, and whatever else has no switch of its own
    cap: bool = False  # security.capability; implies xattr
    selinux: bool = False  # security.selinux
    acl: bool = False  # system.posix_acl_access and _default
    ioctl: bool = False  # chattr: immutable, append-only, skip-trash
    root_squash: tuple[int, int] | None = None  # uid and gid that root gets
    all_squash: tuple[int, int] | None = None  # uid and gid that everybody gets
    umask: int | None = None  # instead of the umask of the process that creates something
    check: bool = False  # permissions are tested here; off where the kernel has done it (default_permissions)
    hide_internal: bool = False  # special files are left out of listings of the root
    prefix_internal: bool = False  # they are called .jfs.stats and so on
    sort_dir: bool = False  # listings in the order of names; ours always are
    fast_statfs: bool = False  # df may show what was seen last
    read_only: bool = False

    @property
    def any_xattr(self) -> bool:
        """Is there any extended attribute at all on this mount?"""
        return self.xattr or self.cap or self.selinux or self.acl

    @property
    def squashes(self) -> bool:
        return self.root_squash is not None or self.all_squash is not None
