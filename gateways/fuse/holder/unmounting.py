# SPDX-License-Identifier: Apache-2.0
"""What a holder does to the mount itself: take it out of sight. Standard library only.

Nothing here touches the mount point's own files, which may hang. Source: umount2(2), fusermount3(1).
"""

from __future__ import annotations

import os

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def is_mounted(mount_point: str, device: str) -> bool:
    """Is it still this mount that is seen there?"""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return True
    wanted = os.fsencode(mount_point)
    found = b""
    for line in lines:
        fields = line.split(b" ", 5)
        if len(fields) > 5 and _plain(fields[4]) == wanted:
            found = fields[2]
    return found == device.encode()


def detach(mount_point: str, device: str) -> bool:
    """Unmount lazily: out of sight at once, over when the last user has gone. False if it can't be done."""
    if not is_mounted(mount_point, device):
        return True
    if os.geteuid() == 0:
        import ctypes  # a holder needs it once in its life, at the end

        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.umount2(os.fsencode(mount_point), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0)
    for helper in ("/usr/bin/fusermount3", "/bin/fusermount3", "/usr/bin/fusermount", "/bin/fusermount"):
        if os.access(helper, os.X_OK):
            pid = os.posix_spawn(helper, [helper, "-u", "-z", "-q", "--", mount_point], os.environ)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return False


def _plain(path: bytes) -> bytes:
    r"""Blanks and backslashes are \040 and \134 there."""
    if b"\\" not in path:
        return path
    parts = path.split(b"\\")
    return parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:])
