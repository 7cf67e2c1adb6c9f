# SPDX-License-Identifier: Apache-2.0
"""Whether pyfuse3 is there, and what a mount that it serves can't do.

Source: documentation of pyfuse3 3.4 and 3.5 (`Operations`, `FileInfo`), observed on Linux with libfuse 3.14.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Final

from core.errors import ConfigError

#: What a mount lacks with this backend -> why. Tests skip with these words.
MISSING: Final = {
    "locks": "pyfuse3 has no lock requests; the kernel keeps fcntl and flock locks for this mount alone",
    "fallocate": "pyfuse3 has no fallocate request; the kernel answers EOPNOTSUPP",
    "lseek": "pyfuse3 has no lseek request; the kernel sees a file as one piece of data without holes",
    "copy_file_range": "pyfuse3 has no copy_file_range request; the kernel copies through memory",
    "ioctl": "pyfuse3 has no ioctl request; chattr and lsattr fail with ENOTTY",
    "tmpfile": "pyfuse3 has no tmpfile request; O_TMPFILE fails with EOPNOTSUPP",
    "syncfs": "pyfuse3 has no syncfs request; syncfs(2) doesn't wait for what is only buffered here",
    "append": "pyfuse3's write says nothing of open flags; it is known from the open, not after fcntl(F_SETFL)",
    "open_flags": "pyfuse3's FileInfo has direct_io, keep_cache and nonseekable only: direct writes of one file run one"
    " after another, and passthrough is impossible",
    "now": "pyfuse3 replaces the time `now` by this machine's, as if somebody had set it",
    "umask": "pyfuse3 leaves the umask to the kernel, which applies it even where a default ACL should replace it",
    "xattr_flags": "pyfuse3 looks, then sets, for XATTR_CREATE and XATTR_REPLACE; others may come between",
    "acl_set_id": "pyfuse3's setxattr doesn't say when an ACL takes the setgid bit away (owners outside the group)",
    "truncate": "libfuse cuts while it opens: open(O_RDONLY | O_TRUNC) of a running program comes too late to fail",
    "interrupt": "pyfuse3 hides interrupts; a process that is killed waits until its request is answered",
    "hand_over": "libfuse begins with INIT and keeps its state, so a running mount can't be taken over: an upgrade or"
    " a crash ends the mount",
}  # fmt: skip


class BackendMissing(ConfigError):
    """pyfuse3 is not installed, or can't be loaded."""


def available() -> bool:
    return importlib.util.find_spec("pyfuse3") is not None


def require_pyfuse3() -> ModuleType:
    """pyfuse3, switched to asyncio. BackendMissing says how to get it."""
    try:
        import pyfuse3
        import pyfuse3.asyncio
    except ModuleNotFoundError as e:
        raise BackendMissing(
            f"--fuse-backend pyfuse3: {e.name} is not installed; install it with `pip install 'sluicefs[pyfuse3]'`"
            " (it is compiled on the spot: on Debian, apt-get install libfuse3-dev pkg-config gcc python3-dev first),"
            " or leave the option away to use the built-in backend"
        ) from e
    except ImportError as e:
        raise BackendMissing(
            f"--fuse-backend pyfuse3: the installed pyfuse3 can't be loaded ({e}); it may have been built for another"
            " Python or libfuse: pip install --force-reinstall --no-binary pyfuse3 pyfuse3, or leave the option away"
        ) from e
    pyfuse3.asyncio.enable()
    module: ModuleType = pyfuse3
    return module
