# SPDX-License-Identifier: Apache-2.0
"""Where the holder of a mount is found: a socket named after the mount's device number, in a folder of its user.

Root: /run/sluicefs; others: $XDG_RUNTIME_DIR/sluicefs, or /tmp/sluicefs-UID, which must be theirs alone. Both sides
look at who the other one is. Standard library only.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct


def folder() -> str:
    """Where sockets are; see `private`."""
    uid = os.geteuid()
    if uid == 0:
        return private("/run/sluicefs" if os.path.isdir("/run") else "/tmp/sluicefs-0")  # noqa: S108
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return private(f"{base}/sluicefs" if base and os.access(base, os.W_OK) else f"/tmp/sluicefs-{uid}")  # noqa: S108


def private(path: str) -> str:
    """A folder of this user alone, made if it is missing. OSError if somebody else could reach into it."""
    uid = os.geteuid()
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
        raise OSError(errno.EPERM, f"{path} must be a folder of user {uid} that nobody else may write; remove it")
    return path


def socket_path(device: str) -> str:
    return f"{folder()}/{device.replace(':', '.')}.sock"


def listen(device: str) -> socket.socket:
    """The holder's socket. What an earlier holder of that number left is removed."""
    path = socket_path(device)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(path)
    os.chmod(path, 0o600)
    sock.listen(8)
    sock.setblocking(False)
    return sock


def connect(device: str, timeout_s: float = 5.0) -> socket.socket | None:
    """The holder of a mount, or None if it has none (or isn't ours)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout_s)
    try:
        sock.connect(socket_path(device))
    except OSError:
        sock.close()
        return None
    if not trusted(sock):
        sock.close()
        return None
    return sock


def trusted(sock: socket.socket) -> bool:
    """The other side is root or the same user."""
    _, uid, _ = peer(sock)
    return uid in (0, os.geteuid())


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other side."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid
