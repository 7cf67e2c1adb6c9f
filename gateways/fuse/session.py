# SPDX-License-Identifier: Apache-2.0
"""INIT: what we and the kernel agree on for the life of a mount.

Pure functions. `Negotiated` can be saved and given to a later process that takes over the descriptor: the kernel sends
INIT once per mount only.
Source: the kernel's public protocol header (linux/fuse.h) and filesystems/fuse documentation.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from core.errors import ConfigError
from gateways.fuse.wire.constants import KERNEL_MINOR, KERNEL_VERSION, OLDEST_MINOR, Init

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
#: Largest request of kernels that have no sysctl for it (before 6.13).
_MOST_PAGES: Final = 256
_LIMIT_FILE: Final = "/proc/sys/fs/fuse/max_pages_limit"

# u32 major minor max_readahead flags | u16 max_background congestion_threshold | u32 max_write time_gran |
# u16 max_pages map_alignment | u32 flags2 | u32 max_stack_depth (7.40) | u16 request_timeout (7.43) | unused
_OUT: Final = struct.Struct("=IIIIHHIIHHIIH22x")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a mount wants. Sizes in bytes."""

    #: Largest read or write; one request is one block of the kernel's read-ahead.
    max_io: int = 1 << 20
    max_readahead: int = 1 << 20
    #: Requests that nobody waits for directly (read-ahead, write-back, asynchronous direct IO) at the same time.
    max_background: int = 64
    read_only: bool = False
    allow_other: bool = False
    #: The kernel checks permissions by owner and mode (and ACL with posix_acl).
    default_permissions: bool = True
    posix_acl: bool = False
    #: Small writes gather in the page cache. Other mounts see them later, and the kernel owns size and mtime meanwhile.
    writeback_cache: bool = False
    async_dio: bool = False
    readdirplus: Literal["auto", "always", "never"] = "auto"
    #: auto: cached pages go when size or mtime changed behind the kernel's back; explicit: only when we say so.
    data_cache: Literal["auto", "explicit"] = "auto"
    #: fcntl and flock locks are ours, hence global; without, the kernel keeps them for this mount alone.
    locks: bool = True
    #: open(O_TRUNC) is one request instead of two. The kernel then learns only afterwards that it mustn't be: a program
    #: that runs would have been cut by open(O_RDONLY | O_TRUNC), which answers ETXTBSY.
    atomic_o_trunc: bool = False
    #: We clear suid, sgid and capabilities when asked by flags (HANDLE_KILLPRIV_V2). Without, the kernel asks for the
    #: attribute security.capability before each write.
    kill_privileges: bool = True
    cache_symlinks: bool = True
    #: Lookups of "." and ".." by inode, for NFS servers on top.
    export: bool = False
    passthrough: bool = False
    #: Creating requests carry the group that a setgid folder would give (`requests.GroupedCall`).
    supplementary_group: bool = False

    def mount_options(self) -> list[str]:
        """What mount(2) or fusermount3 has to know."""
        chosen = [
            ("ro", self.read_only),
            ("allow_other", self.allow_other),
            ("default_permissions", self.default_permissions),
        ]
        return [name for name, wanted in chosen if wanted]


class Negotiated(msgspec.Struct, frozen=True, kw_only=True):
    """What was agreed. flags: of wire.constants.Init."""

    minor: int
    flags: int
    max_write: int
    max_pages: int
    max_readahead: int

    def has(self, flag: Init) -> bool:
        return bool(self.flags & flag)

    def to_dict(self) -> dict[str, Any]:
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Negotiated:
        return msgspec.convert(saved, cls)


class UnsupportedKernel(ConfigError):
    """The kernel's FUSE is too old, or not the one we know."""


def negotiate(
    major: int, minor: int, max_readahead: int, offered: int, options: Options, *, most_pages: int | None = None
) -> tuple[bytes, Negotiated | None]:
    """The body of the answer to INIT, and what it means. None: the kernel has to ask again with our major version.

    The arguments are those of `wire.requests` for "init". UnsupportedKernel: answer EPROTO and give up.
    """
    if major > KERNEL_VERSION:
        return _OUT.pack(KERNEL_VERSION, KERNEL_MINOR, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), None
    if major < KERNEL_VERSION or minor < OLDEST_MINOR:
        raise UnsupportedKernel(
            f"this kernel speaks FUSE protocol {major}.{minor}, and {KERNEL_VERSION}.{OLDEST_MINOR} (Linux 5.4) is the "
            "oldest that a mount works with; update the kernel, or use another door such as the S3 gateway"
        )
    flags = _wanted(options) & offered
    if offered & Init.INIT_EXT:
        flags |= Init.INIT_EXT
    else:
        flags &= 0xFFFFFFFF
    pages = max(1, -(-options.max_io // PAGE))
    if flags & Init.MAX_PAGES:
        pages = min(pages, most_pages or _most_pages())
    else:
        pages = min(pages, 32)
    max_write = max(4096, pages * PAGE)
    background = min(max(options.max_background, 1), 0xFFFF)
    read_ahead = min(max_readahead, max(options.max_readahead, PAGE)) if max_readahead else options.max_readahead
    agreed = Negotiated(
        minor=min(minor, KERNEL_MINOR), flags=int(flags), max_write=max_write, max_pages=pages, max_readahead=read_ahead
    )
    reply = _OUT.pack(
        KERNEL_VERSION,
        agreed.minor,
        read_ahead,
        flags & 0xFFFFFFFF,
        background,
        max(1, background * 3 // 4),
        max_write,
        1,  # time stamps are exact to the nanosecond
        pages if flags & Init.MAX_PAGES else 0,
        0,
        flags >> 32,
        # How many file systems may lie below a passthrough file: the cache folder's own.
        1 if flags & Init.PASSTHROUGH else 0,
        0,
    )
    return reply, agreed


def _wanted(options: Options) -> int:
    """DONT_MASK always: handlers get mode and umask apart, because a default ACL makes the umask void. Of the flags
    that only tell what the kernel can do (HAS_RESEND, HAS_EXPIRE_ONLY) an echo is harmless and worth keeping."""
    choices: list[tuple[Init, bool]] = [
        (Init.ASYNC_READ, True),
        (Init.BIG_WRITES, True),
        (Init.DONT_MASK, True),
        (Init.HAS_IOCTL_DIR, True),
        (Init.PARALLEL_DIROPS, True),
        (Init.ABORT_ERROR, True),
        (Init.MAX_PAGES, True),
        (Init.SETXATTR_EXT, True),
        (Init.HAS_EXPIRE_ONLY, True),
        (Init.HAS_RESEND, True),
        (Init.DIRECT_IO_ALLOW_MMAP, True),
        (Init.POSIX_LOCKS, options.locks),
        (Init.FLOCK_LOCKS, options.locks),
        (Init.ATOMIC_O_TRUNC, options.atomic_o_trunc),
        (Init.EXPORT_SUPPORT, options.export),
        (Init.AUTO_INVAL_DATA, options.data_cache == "auto"),
        (Init.EXPLICIT_INVAL_DATA, options.data_cache == "explicit"),
        (Init.DO_READDIRPLUS, options.readdirplus != "never"),
        (Init.READDIRPLUS_AUTO, options.readdirplus == "auto"),
        (Init.ASYNC_DIO, options.async_dio),
        (Init.WRITEBACK_CACHE, options.writeback_cache),
        (Init.POSIX_ACL, options.posix_acl),
        (Init.HANDLE_KILLPRIV_V2, options.kill_privileges),
        (Init.CACHE_SYMLINKS, options.cache_symlinks),
        (Init.CREATE_SUPP_GROUP, options.supplementary_group),
        # The kernel has no passthrough beside write-back.
        (Init.PASSTHROUGH, options.passthrough and not options.writeback_cache),
    ]
    wanted = 0
    for flag, chosen in choices:
        if chosen:
            wanted |= flag
    return wanted


def _most_pages() -> int:
    try:
        return max(1, min(int(Path(_LIMIT_FILE).read_text()), 0xFFFF))
    except (OSError, ValueError):
        return _MOST_PAGES
