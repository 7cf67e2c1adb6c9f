# SPDX-License-Identifier: Apache-2.0
"""Mount and unmount: by mount(2) as root, else by the setuid helper fusermount3. And what is mounted now.

`mount` returns the descriptor of /dev/fuse, non-blocking and close-on-exec; whoever serves it reads the INIT request
from it first. Nothing here touches the mount point through the new mount, so it may run in the serving process; but
`unmount` without `lazy` waits for requests in flight, so call it in a thread there.
Sources: mount(2), umount2(2), proc(5) (mountinfo), fusermount3(1), the kernel's filesystems/fuse documentation.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from core.errors import FsError

DEVICE: Final = "/dev/fuse"

_MS: Final = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "strictatime": 1 << 24,
}
_MS_CLEAR: Final = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync", "atime": "noatime"}
_MNT_FORCE: Final = 1
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo. device: MAJOR:MINOR."""

    mount_id: int
    device: str
    path: str
    options: str
    type: str
    source: str
    super_options: str


def mount(path: str, source: str, subtype: str = "sluicefs", options: Iterable[str] = ()) -> int:
    """Mount an empty FUSE connection at `path` and return its descriptor.

    options: allow_other, default_permissions, ro, nosuid, nodev, noexec, noatime, max_read=N … As root nosuid and nodev
    are left to the caller, as for mount(8). OSError says what is wrong and what to do.
    """
    path = os.path.realpath(path)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise FsError(errno.ENOENT, f"mount point {path} doesn't exist; create it first: mkdir -p {path}") from None
    except OSError as e:
        if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise FsError(
                e.errno, f"{path} is a mount whose server is gone; unmount it first: umount -l {path}"
            ) from None
        raise
    wanted = list(options)
    if os.geteuid() == 0:
        return _mount_as_root(path, found.st_mode, source, subtype, wanted)
    return _mount_by_helper(path, source, subtype, wanted)


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        hint = {
            errno.ENOENT: "load the kernel module (modprobe fuse) or, in a container, pass the device into it",
            errno.ENODEV: "load the kernel module: modprobe fuse",
            errno.EACCES: "make it readable and writable for everybody, or mount as root",
            errno.EPERM: "allow the device to this container (docker: --device /dev/fuse --cap-add SYS_ADMIN)",
        }.get(e.errno or 0, "see the kernel log (dmesg)")
        raise FsError(e.errno or errno.EIO, f"{DEVICE} can't be opened: {e.strerror}; {hint}") from e


def _mount_as_root(path: str, mode: int, source: str, subtype: str, options: list[str]) -> int:
    flags, rest = _split(options)
    fd = _open_device()
    data = [f"fd={fd}", f"rootmode={stat.S_IFMT(mode):o}", f"user_id={os.getuid()}", f"group_id={os.getgid()}", *rest]
    try:
        _mount2(source, path, f"fuse.{subtype}" if subtype else "fuse", flags, ",".join(data))
    except OSError as e:
        os.close(fd)
        hint = {
            errno.EPERM: "the process needs CAP_SYS_ADMIN (docker: --cap-add SYS_ADMIN)",
            errno.EINVAL: "the kernel refused an option: " + ",".join(options),
            errno.ENODEV: "the kernel has no FUSE; load the module: modprobe fuse",
            errno.ENOTDIR: "the mount point must be a directory",
        }.get(e.errno or 0, "see the kernel log (dmesg)")
        raise FsError(e.errno or errno.EIO, f"{path} can't be mounted: {e.strerror}; {hint}") from e
    return fd


def _split(options: list[str]) -> tuple[int, list[str]]:
    """Flags of mount(2) and what the file system itself is told."""
    names: set[str] = set()
    rest: list[str] = []
    for option in options:
        if option in _MS:
            names.add(option)
        elif option in _MS_CLEAR:
            names.discard(_MS_CLEAR[option])
        elif option:
            rest.append(option)
    return sum(_MS[name] for name in names), rest


def _mount2(source: str, path: str, type: str, flags: int, data: str) -> None:
    if _libc.mount(
        os.fsencode(source), os.fsencode(path), os.fsencode(type), ctypes.c_ulong(flags), os.fsencode(data)
    ):  # fmt: skip
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _helper() -> str:
    for name in ("fusermount3", "fusermount"):
        found = shutil.which(name) or shutil.which(name, path="/usr/bin:/bin:/usr/local/bin")
        if found:
            return found
    raise FsError(
        errno.ENOENT,
        "mounting without root needs fusermount3; install it (Debian: apt install fuse3, Fedora: dnf install fuse3)",
    )


def _escape(text: str) -> str:
    """Commas separate options, also for the helper."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _mount_by_helper(path: str, source: str, subtype: str, options: list[str]) -> int:
    """fusermount3 mounts and passes the descriptor over a socket whose number it finds in _FUSE_COMMFD."""
    helper = _helper()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        text = ",".join([*options, f"fsname={_escape(source)}", *([f"subtype={_escape(subtype)}"] if subtype else [])])
        done = subprocess.run(  # noqa: S603 - a fixed program; arguments are not interpreted by a shell
            [helper, "-o", text, "--", path],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        theirs.close()
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
            hint = ""
            if "user_allow_other" in message:
                hint = "; add the line user_allow_other to /etc/fuse.conf, or leave out allow_other"
            elif f"open {DEVICE}" in message:
                hint = f"; make {DEVICE} readable and writable for everybody, as most systems have it, or mount as root"
            elif "Permission denied" in message or "Operation not permitted" in message:
                hint = "; you must own the mount point, and the helper must be setuid root"
            raise FsError(errno.EPERM, f"{path} can't be mounted: {message}{hint}")
        fd = _receive(ours)
    os.set_inheritable(fd, False)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
    return fd


def _receive(sock: socket.socket) -> int:
    numbers = array.array("i")
    _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_LEN(numbers.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    if not numbers:
        raise FsError(errno.EPROTO, "fusermount3 did not pass a descriptor; is it of FUSE 3?")
    return numbers[0]


def unmount(path: str, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount. lazy: out of sight now, gone when nobody uses it any more. force: requests in flight fail too.

    OSError(EBUSY) if somebody uses it, OSError(EINVAL) if nothing is mounted there.
    """
    path = os.path.abspath(path)
    if force and abort(path) and find_mount(path) is None:
        return
    if os.geteuid() != 0:
        _unmount_by_helper(path, lazy or force)
        return
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy or force else 0) | (_MNT_FORCE if force else 0)
    if _libc.umount2(os.fsencode(path), flags):
        number = ctypes.get_errno()
        raise _unmount_error(path, number)


def _unmount_error(path: str, number: int) -> OSError:
    hint = {
        errno.EBUSY: f"somebody uses it (see: fuser -vm {path}); --lazy takes it out of sight at once",
        errno.EINVAL: "nothing is mounted there",
        errno.ENOENT: "there is no such folder",
        errno.EPERM: "only root and who mounted it may do that",
    }.get(number, "see the kernel log (dmesg)")
    return FsError(number, f"{path} can't be unmounted: {os.strerror(number)}; {hint}")


def _unmount_by_helper(path: str, lazy: bool) -> None:
    command = [_helper(), "-u", *(["-z"] if lazy else []), "--", path]
    done = subprocess.run(  # noqa: S603 - a fixed program; arguments are not interpreted by a shell
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode:
        message = done.stderr.decode(errors="replace")
        number = next(
            (n for n in (errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.EPERM) if os.strerror(n) in message),
            errno.EPERM,
        )
        if "not found in /etc/mtab" in message or "not mounted" in message:
            number = errno.EINVAL
        raise _unmount_error(path, number)


def abort(path: str) -> bool:
    """Fail every request of the connection at `path`, running and future ones. False if that isn't possible.

    Where the control file system (fusectl) isn't mounted, as in most containers, a forced unmount does it, which also
    unmounts what nobody uses.
    """
    found = find_mount(path)
    if found is None or not is_fuse(found.type):
        return False
    if _abort(found.device.partition(":")[2]):
        return True
    if os.geteuid() != 0:
        return False
    return not _libc.umount2(os.fsencode(path), _MNT_FORCE | _UMOUNT_NOFOLLOW) or ctypes.get_errno() == errno.EBUSY


def abort_connection(fd: int) -> bool:
    """The same by our descriptor of the device. False on kernels that don't say which connection it is."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("fuse_connection:"):
                return _abort(line.split()[1])
    return False


def _abort(number: str) -> bool:
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{number}/abort").write_text("1")
        return True
    return False


def waiting_requests(path: str) -> int | None:
    """How many requests the kernel holds for the mount at `path`, handed out or not. None if that can't be told."""
    found = find_mount(path)
    if found is None or not is_fuse(found.type):
        return None
    with contextlib.suppress(OSError, ValueError):
        return int(Path(f"/sys/fs/fuse/connections/{found.device.partition(':')[2]}/waiting").read_text())
    return None


def set_read_ahead(path: str, size: int) -> bool:
    """Let the kernel read ahead `size` bytes on the mount at `path`. The protocol can only lower the 128 KiB that a new
    connection has; root can raise it here. False if that isn't possible."""
    found = find_mount(path)
    if found is None or not is_fuse(found.type):
        return False
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/{found.device}/read_ahead_kb").write_text(str(size // 1024))
        return True
    return False


def is_fuse(type: str) -> bool:
    return type in ("fuse", "fuseblk") or type.startswith(("fuse.", "fuseblk."))


def find_mounts(table: str = "/proc/self/mountinfo") -> list[Mount]:
    """What is mounted here, in the order of mounting: of several at one path the last one is seen."""
    return [parse_mountinfo(line) for line in Path(table).read_text("utf-8", "surrogateescape").split("\n") if line]


def find_mount(path: str) -> Mount | None:
    """What is mounted exactly at `path`. Symbolic links in the folders above it are followed, nothing below is touched:
    the mount may hang."""
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    if name:
        path = os.path.join(os.path.realpath(parent), name)
    found = None
    for each in find_mounts():
        if each.path == path:
            found = each
    return found


def parse_mountinfo(line: str) -> Mount:
    # ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [optional fields] - TYPE SOURCE SUPER-OPTIONS
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    type, source, super_options = [*after.split(" "), "", "", ""][:3]
    return Mount(
        int(fields[0]), fields[2], _unescape(fields[4]), fields[5], type, _unescape(source), super_options
    )  # fmt: skip


def _unescape(text: str) -> str:
    r"""Blanks, tabs, newlines and backslashes are written as \040 …"""
    if "\\" not in text:
        return text
    parts = text.split("\\")
    return parts[0] + "".join(
        chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() else "\\" + part for part in parts[1:]
    )
