# SPDX-License-Identifier: Apache-2.0
"""One line per request for whoever reads `.accesslog`, and the counters of `.stats`; plugs into the channel's hooks.

    2026.11.21 10:00:00.123456 [uid:0,gid:0,pid:1] lookup (1,name): (2,[-rw-r--r--:0100644,1,0,0,…,0]) - OK <0.000123>

Results are taken from the reply's bytes where the channel hands them over. Without a reader a request costs the
counters only. Source: cli §10.2 (arguments and results by operation); linux/fuse.h (layout of replies).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from core.meta.records import INTERNAL_BASE
from core.vfs.internal.accesslog import AccessLog
from core.vfs.internal.inodes import is_internal
from core.vfs.internal.metrics import Metrics
from gateways.fuse.api import Call, Reply, SetAttr

# fuse_attr: ino size blocks atime mtime ctime (u64), three nsec (u32), mode nlink uid gid rdev blksize flags (u32)
_ATTR = struct.Struct("<QQQqqqIIIIIIIIII")
_ENTRY_ATTR: Final = 40
_ATTR_OUT: Final = 16
_ENTRY_BYTES: Final = 128
_U64 = struct.Struct("<Q")
_LOCK_KINDS: Final = {0: "R", 1: "W", 2: "U"}
_FLOCK_KINDS: Final = {0: "LOCKSH", 1: "LOCKEX", 2: "UNLOCK"}
_LK_FLOCK: Final = 1
#: FATTR_* bits of a setattr that name a field, in the order in which the line shows them.
_FIELDS: Final = (
    (1 << 0, "mode"), (1 << 1, "uid"), (1 << 2, "gid"), (1 << 3, "size"), (1 << 4, "atime_ns"), (1 << 5, "mtime_ns"),
    (1 << 10, "ctime_ns"),
)  # fmt: skip

if TYPE_CHECKING:
    from gateways.fuse.channel import Channel

Args = Sequence[Any]


class Observer:
    """Hears of every answer: `Observer(internal.access_log, internal.metrics).attach(channel)`. Event loop only.

    Without `attach`, as a plain `on_answer` of a channel, lines have no results.
    """

    def __init__(
        self, access_log: AccessLog, metrics: Metrics, *, clock: Callable[[], float] = time.time,
        warn: Callable[[str], None] | None = None, slow_s: float = 10.0,
    ) -> None:  # fmt: skip
        self._log = access_log
        self._metrics = metrics
        self._clock = clock
        self._warn = warn
        self._slow_s = slow_s
        self._second = -1
        self._second_text = ""

    def attach(self, channel: Channel) -> None:
        """Hear of every answer of a channel. Replies are looked at only while somebody reads the log: until then the
        channel calls the handlers themselves."""
        plain = dict(channel._methods)
        replies: dict[int, Reply] = {}
        watched = {name: _remembering(plain[name], replies) for name in _SHOWN if name in plain}

        def listening(on: bool) -> None:
            channel._methods.update(watched if on else plain)
            replies.clear()

        log, slow_s, metrics = self._log, self._slow_s, self._metrics
        by_method, cells, buckets = metrics.fuse_by_method, metrics.fuse_ops.cells, metrics.fuse_ops.buckets

        def answered(call: Call, name: str, args: Args, error: int, seconds: float, size: int) -> None:
            if log.listening or seconds >= slow_s or call[1] >= INTERNAL_BASE:
                self.on_answer(call, name, args, error, seconds, size, replies.pop(call.unique, None))
                return
            # What `Metrics.fuse` does, without its frame.
            method = by_method.get(name) or metrics.fuse_method(name)
            method.count += 1
            method.seconds += seconds
            cells[bisect_left(buckets, seconds)] += 1
            if error:
                metrics.fuse_errors[error] = metrics.fuse_errors.get(error, 0) + 1
            elif name == "read":
                metrics.fuse_read.observe(size)
            elif name == "write":
                metrics.fuse_written.observe(len(args[2]))

        channel.on_answer = answered
        self._log.on_listening = listening
        listening(self._log.listening)

    def on_answer(
        self, call: Call, name: str, args: Args, error: int, seconds: float, size: int, reply: Reply = None
    ) -> None:  # fmt: skip
        """size: bytes of the reply's body."""
        if name == "write":
            size = len(args[2])
        # What moves through the special files is no traffic of the volume.
        self._metrics.fuse(name, seconds, error, 0 if is_internal(call.nodeid) else size)
        if self._log.listening and not (name in _QUIET and is_internal(call.nodeid)):
            self._log.write(self.line(call, name, args, error, seconds, reply, size))
        if seconds >= self._slow_s and self._warn is not None and name != "setlk" and not is_internal(call.nodeid):
            self._warn(f"slow operation: {self.line(call, name, args, error, seconds, reply, size)}")

    def line(
        self, call: Call, name: str, args: Args, error: int, seconds: float, reply: Reply = None, size: int = 0
    ) -> str:  # fmt: skip
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y.%m.%d %H:%M:%S", time.localtime(second))
        shown, result = describe(call, name, args, None if error else reply, size)
        if name == "setlk" and "LOCK" in shown:
            name = "flock"
        outcome = _error(error) if error else "OK"
        micro = int((now - second) * 1_000_000)
        return (
            f"{self._second_text}.{micro:06d} [uid:{call.uid},gid:{call.gid},pid:{call.pid}] {_NAMES.get(name, name)} "
            f"({shown}){result} - {outcome} <{seconds:.6f}>"
        )


#: Reading the log must not make lines for the log; nor do those that wait on the control file.
_QUIET: Final = frozenset(("read", "write", "poll"))
_NAMES: Final = {"readdirplus": "readdir", "statx": "getattr", "tmpfile": "create"}


def _remembering(method: Callable[..., Any], replies: dict[int, Reply]) -> Callable[..., Any]:
    """A handler whose reply is kept until `on_answer` asks for it."""

    async def waited(call: Call, answer: Awaitable[Reply]) -> Reply:
        reply = replies[call.unique] = await answer
        return reply

    def handler(call: Call, *args: Any) -> Any:
        answer = method(call, *args)
        if isinstance(answer, Awaitable):
            return waited(call, answer)
        replies[call.unique] = answer
        return answer

    return handler


def describe(call: Call, name: str, args: Args, reply: Reply, size: int = 0) -> tuple[str, str]:
    """(arguments, result with its colon) of an answered request. Never raises: what doesn't fit is left out."""
    made = _ARGUMENTS.get(name)
    try:
        shown = str(call.nodeid) if made is None else made(call, args)
    except (IndexError, ValueError, TypeError, AttributeError):
        shown = str(call.nodeid)
    found = _RESULTS.get(name)
    if found is None:
        return shown, ""
    try:
        return shown, found(_first(reply), size)
    except (IndexError, ValueError, TypeError, struct.error):
        return shown, ""


def _first(reply: Reply) -> memoryview:
    """The reply's bytes, joined if they are several short buffers."""
    if reply is None:
        return memoryview(b"")
    if isinstance(reply, bytes | bytearray | memoryview):
        return memoryview(reply)
    return memoryview(b"".join(reply))


# -- arguments ---------------------------------------------------------------------------------------------------------


def _name(raw: bytes) -> str:
    text = raw.decode("utf-8", "surrogateescape")
    return text if text.isprintable() else text.translate(_CONTROL_CHARACTERS)


_CONTROL_CHARACTERS: Final = {n: f"\\x{n:02x}" for n in (*range(32), 127)}


def _mode(mode: int) -> str:
    return f"{stat.filemode(mode)}:0{mode:04o}"


def _permissions(mode: int, kind: int = stat.S_IFREG) -> str:
    """Of a mode without a type."""
    return f"{stat.filemode(kind | mode & 0o7777)}:0{mode & 0o7777:04o}"


def _child(call: Call, args: Args) -> str:
    return f"{call.nodeid},{_name(args[0])}"


def _setattr(call: Call, args: Args) -> str:
    change: SetAttr = args[0]
    fields = []
    for bit, field in _FIELDS:
        if change.valid & bit:
            value = getattr(change, field)
            if field.endswith("_ns"):
                fields.append(f"{field[:-3]}={value // 1_000_000_000};")
            else:
                fields.append(f"mode={_permissions(value)};" if field == "mode" else f"{field}={value};")
    return f"{call.nodeid},{change.fh},0x{change.valid:X},[{''.join(fields)}]"


def _setlk(call: Call, args: Args) -> str:
    fh, owner, start, end, kind, pid, flags = args[:7]
    wait = str(bool(args[7])).lower() if len(args) > 7 else "false"
    if flags & _LK_FLOCK:
        return f"{call.nodeid},{fh},{owner:016X},{_FLOCK_KINDS.get(kind, kind)},{wait}"
    return f"{call.nodeid},{fh},{owner:016X},{start},{end},{_LOCK_KINDS.get(kind, kind)},{wait},{pid}"


_ARGUMENTS: Final[dict[str, Callable[[Call, Args], str]]] = {
    "lookup": _child,
    "unlink": _child,
    "rmdir": _child,
    "symlink": lambda c, a: f"{c.nodeid},{_name(a[0])},{_name(a[1])}",
    "mknod": lambda c, a: f"{c.nodeid},{_name(a[0])},{_mode(a[1])},0x{a[2]:08X}",
    "mkdir": lambda c, a: f"{c.nodeid},{_name(a[0])},{_permissions(a[1], stat.S_IFDIR)}",
    "create": lambda c, a: f"{c.nodeid},{_name(a[0])},{_mode(stat.S_IFREG | a[2])}",
    "tmpfile": lambda c, a: f"{c.nodeid},{_name(a[0])},{_mode(stat.S_IFREG | a[2])}",
    "rename": lambda c, a: f"{c.nodeid},{_name(a[0])},{a[1]},{_name(a[2])},{a[3]}",
    "link": lambda c, a: f"{a[0]},{c.nodeid},{_name(a[1])}",
    "setattr": _setattr,
    "access": lambda c, a: f"{c.nodeid},0x{a[0]:X}",
    "setxattr": lambda c, a: f"{c.nodeid},{_name(a[0])},{len(a[1])},{a[2]}",
    "getxattr": lambda c, a: f"{c.nodeid},{_name(a[0])},{a[1]}",
    "listxattr": lambda c, a: f"{c.nodeid},{a[0]}",
    "removexattr": _child,
    "ioctl": lambda c, a: f"{c.nodeid},{a[0]},0x{a[2]:X},0x{a[3]:X}",
    "readdir": lambda c, a: f"{c.nodeid},{a[2]},{a[1]},false",
    "readdirplus": lambda c, a: f"{c.nodeid},{a[2]},{a[1]},true",
    "releasedir": lambda c, a: f"{c.nodeid},{a[0]}",
    "open": lambda c, a: f"{c.nodeid},0x{a[0]:X}",
    "opendir": lambda c, a: f"{c.nodeid}",
    "release": lambda c, a: f"{c.nodeid},{a[0]}",
    "read": lambda c, a: f"{c.nodeid},{a[2]},{a[1]},{a[0]}",
    "write": lambda c, a: f"{c.nodeid},{len(a[2])},{a[1]},{a[0]}",
    "flush": lambda c, a: f"{c.nodeid},{a[0]},{a[1]:016X}",
    "fsync": lambda c, a: f"{c.nodeid},{a[0]},{int(a[1])}",
    "fallocate": lambda c, a: f"{c.nodeid},{a[3]},{a[1]},{a[2]}",
    "lseek": lambda c, a: f"{c.nodeid},{a[0]},{a[1]},{a[2]}",
    "copy_file_range": lambda c, a: f"{c.nodeid},{a[1]},{a[2]},{a[4]},{a[5]},{a[6]}",
    "getlk": _setlk,
    "setlk": _setlk,
}


# -- results -----------------------------------------------------------------------------------------------------------


def _attr_text(ino: int, data: memoryview, at: int) -> str:
    _, size, _, atime, mtime, ctime, _, _, _, mode, nlink, uid, gid, *_ = _ATTR.unpack_from(data, at)
    text = f"{stat.filemode(mode)}:0{mode:06o},{nlink},{uid},{gid},{atime},{mtime},{ctime},{size}"
    return f"({ino},[{text}])"


def _entry(data: memoryview, size: int) -> str:
    (ino,) = _U64.unpack_from(data)
    return f": {_attr_text(ino, data, _ENTRY_ATTR)}" if ino else ": (0)"


def _attributes(data: memoryview, size: int) -> str:
    (ino,) = _U64.unpack_from(data, _ATTR_OUT)
    return f": {_attr_text(ino, data, _ATTR_OUT)}"


def _created(data: memoryview, size: int) -> str:
    return f"{_entry(data, size)} [fh:{_U64.unpack_from(data, _ENTRY_BYTES)[0]}]"


def _opened(data: memoryview, size: int) -> str:
    return f" [fh:{_U64.unpack_from(data)[0]}]"


def _statfs(data: memoryview, size: int) -> str:
    blocks, bfree, bavail, files, ffree, bsize = struct.unpack_from("<QQQQQI", data)
    return f": ({(blocks - bfree) * bsize},{bavail * bsize},{files - ffree},{ffree})"


def _size(data: memoryview, size: int) -> str:
    return f": ({size})"


def _count(data: memoryview, head: int) -> int:
    """Entries of a listing: u64 ino | u64 offset | u32 length of the name | u32 type | name, padded to 8 bytes."""
    number, at = 0, head
    while at + _DIRENT.size <= len(data):
        _, _, length, _ = _DIRENT.unpack_from(data, at)
        at += (_DIRENT.size + length + 7 & ~7) + head
        number += 1
    return number


_DIRENT = struct.Struct("<QQII")
_RESULTS: Final[dict[str, Callable[[memoryview, int], str]]] = {
    **dict.fromkeys(("lookup", "mknod", "mkdir", "symlink", "link"), _entry),
    **dict.fromkeys(("getattr", "setattr"), _attributes),
    **dict.fromkeys(("create", "tmpfile"), _created),
    **dict.fromkeys(("open", "opendir"), _opened),
    "read": _size,
    "readdir": lambda data, size: f": ({_count(data, 0)})",
    "readdirplus": lambda data, size: f": ({_count(data, _ENTRY_BYTES)})",
    "readlink": lambda data, size: f": ({_name(bytes(data))})",
    "statfs": _statfs,
    "copy_file_range": lambda data, size: f": ({struct.unpack_from('<I', data)[0]})",
    "lseek": lambda data, size: f": ({_U64.unpack_from(data)[0]})",
}


#: Operations whose result can't be told from the size of the reply.
_SHOWN: Final = frozenset(_RESULTS) - {"read"}


def _error(number: int) -> str:
    """As JuiceFS's log says it: the system's words in lower case."""
    text = os.strerror(number)
    return text[0].lower() + text[1:] if text else errno.errorcode.get(number, str(number))


__all__ = ["Observer", "describe"]
