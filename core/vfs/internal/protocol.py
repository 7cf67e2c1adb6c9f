# SPDX-License-Identifier: Apache-2.0
"""Messages of the control file: what commands write into it and what they read back. Bytes only, no IO.

Both ends use this module: the mount that answers, and the command that asks (a JuiceFS mount understands the same).

    request   u32 command | u32 payload size | payload                         (all integers big endian)
    replies   0xFE u64 u64 (progress, every 300 ms) | 0xFF u32 length bytes (data) | u8 errno (the end, 0 is success)
    1003      u32 length | text, nothing else

Source: metadata-semantics §12.2, cli §10.3, data-path §11.1.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from core.errors import FsError
from core.meta.copying import CLONE_PRESERVE

REMOVE_TREE: Final = 1002
INFO_LEGACY: Final = 1003
WARM_UP: Final = 1004
INFO: Final = 1005
CLONE: Final = 1006
SUMMARY: Final = 1007
COMPACT: Final = 1008

PROGRESS_EVERY_S: Final = 0.3
#: Paths of one warm-up message (data-path §11.1); with 4096 bytes each such a message has 40 MiB.
MAX_PATHS: Final = 10_240
MAX_PAYLOAD: Final = 64 << 20

#: What to do with the blocks of a warm-up.
WARM: Final = 0
EVICT: Final = 1
CHECK: Final = 2

SKIP_TRASH: Final = 0x01
#: Bit of a clone's mode: keep owner, permission bits and times.
PRESERVE: Final = CLONE_PRESERVE

_HEAD = struct.Struct(">II")
_PROGRESS = struct.Struct(">BQQ")
_DATA = struct.Struct(">BI")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_PROGRESS_MARK: Final = 0xFE
_DATA_MARK: Final = 0xFF


class Malformed(FsError):
    """A request whose payload doesn't fit its command."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EINVAL, f"control file: {message}")


class RemoveTree(NamedTuple):
    parent: int
    name: bytes
    skip_trash: bool = False
    threads: int = 50
    plain: bool = False  # of a client before 1.0, which takes the first byte for the errno: no progress


class Info(NamedTuple):
    """raw: slice records instead of objects. strict: look at every entry instead of trusting statistics."""

    ino: int
    recursive: bool = False
    raw: bool = False
    strict: bool = False


class WarmUp(NamedTuple):
    """paths: relative to the mount's root, or `inode:<number>`."""

    paths: tuple[bytes, ...]
    threads: int = 50
    background: bool = False
    action: int = WARM


class CloneTree(NamedTuple):
    ino: int
    source_parent: int
    parent: int
    name: bytes
    umask: int = 0
    mode: int = 0
    threads: int = 4


class TreeSum(NamedTuple):
    ino: int
    depth: int = 3
    entries: int = 10
    strict: bool = False


class Compact(NamedTuple):
    ino: int
    threads: int = 10


Request = RemoveTree | Info | WarmUp | CloneTree | TreeSum | Compact


class _Fields:
    """Reads a payload from front to back. Optional fields at its end may be missing."""

    def __init__(self, payload: bytes | memoryview) -> None:
        self._data = memoryview(payload)
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, n: int) -> memoryview:
        if self._at + n > len(self._data):
            raise Malformed(f"payload of {len(self._data)} bytes ends in the middle of a field")
        self._at += n
        return self._data[self._at - n : self._at]

    def u8(self, default: int | None = None) -> int:
        return default if default is not None and not self.more else self.take(1)[0]

    def u16(self, default: int | None = None) -> int:
        return default if default is not None and not self.more else int(_U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def name(self) -> bytes:
        return bytes(self.take(self.u8()))

    def end(self) -> None:
        if self.more:
            raise Malformed(f"{len(self._data) - self._at} bytes too many")


# -- requests --------------------------------------------------------------------------------------------------------


def split_head(data: bytes | bytearray) -> tuple[int, int] | None:
    """(command, payload size) of what was written so far; None: fewer than 8 bytes."""
    return _HEAD.unpack_from(data) if len(data) >= _HEAD.size else None


HEAD_BYTES: Final = _HEAD.size


def decode(command: int, payload: bytes | memoryview) -> Request:
    """The request of a command. `Malformed` (EINVAL) for an unknown command or a payload that doesn't fit."""
    fields = _Fields(payload)
    request: Request
    if command == REMOVE_TREE:
        parent, name = fields.u64(), fields.name()
        plain = not fields.more
        flags = fields.u8(0)
        request = RemoveTree(parent, name, bool(flags & SKIP_TRASH), fields.u8(50) or 50, plain)
    elif command in (INFO, INFO_LEGACY):
        request = Info(fields.u64(), bool(fields.u8(0)), bool(fields.u8(0)), bool(fields.u8(0)))
    elif command == WARM_UP:
        paths = [path for path in bytes(fields.take(fields.u32())).split(b"\n", 2 * MAX_PATHS) if path]
        if len(paths) > MAX_PATHS:
            raise Malformed(f"more than {MAX_PATHS} paths to warm up; ask in several requests")
        request = WarmUp(tuple(paths), fields.u16() or 50, bool(fields.u8()), fields.u8(WARM))
        if request.action > CHECK:
            raise Malformed(f"warm-up action {request.action} is none of 0 (warm), 1 (evict), 2 (check)")
    elif command == CLONE:
        request = CloneTree(
            fields.u64(), fields.u64(), fields.u64(), fields.name(), fields.u16(), fields.u8(), fields.u8(4) or 4
        )
    elif command == SUMMARY:
        request = TreeSum(fields.u64(), fields.u8(3), fields.u8(10), bool(fields.u8(0)))
    elif command == COMPACT:
        request = Compact(fields.u64(), fields.u16() or 10)
    else:
        raise Malformed(f"there is no command {command}")
    fields.end()
    return request


def encode(request: Request, *, legacy: bool = False) -> bytes:
    """The message of a request. legacy: the form of clients before 1.0, without options."""
    if isinstance(request, RemoveTree):
        payload = _U64.pack(request.parent) + bytes((len(request.name),)) + request.name
        if not legacy:
            payload += bytes((SKIP_TRASH if request.skip_trash else 0, request.threads))
        return _message(REMOVE_TREE, payload)
    if isinstance(request, Info):
        payload = _U64.pack(request.ino)
        if legacy:
            return _message(INFO_LEGACY, payload)
        return _message(INFO, payload + bytes((request.recursive, request.raw, request.strict)))
    if isinstance(request, WarmUp):
        text = b"\n".join(request.paths)
        payload = _U32.pack(len(text)) + text + _U16.pack(request.threads) + bytes((request.background,))
        return _message(WARM_UP, payload if legacy else payload + bytes((request.action,)))
    if isinstance(request, CloneTree):
        payload = b"".join(
            (
                struct.pack(">QQQB", request.ino, request.source_parent, request.parent, len(request.name)),
                request.name,
                struct.pack(">HBB", request.umask, request.mode, request.threads),
            )
        )
        return _message(CLONE, payload)
    if isinstance(request, TreeSum):
        payload = _U64.pack(request.ino) + bytes((request.depth, request.entries, request.strict))
        return _message(SUMMARY, payload)
    return _message(COMPACT, _U64.pack(request.ino) + _U16.pack(request.threads))


def _message(command: int, payload: bytes) -> bytes:
    return _HEAD.pack(command, len(payload)) + payload


# -- replies ---------------------------------------------------------------------------------------------------------


def progress_frame(first: int, second: int) -> bytes:
    return _PROGRESS.pack(_PROGRESS_MARK, max(first, 0), max(second, 0))


def data_frame(data: bytes) -> bytes:
    return _DATA.pack(_DATA_MARK, len(data)) + data


def errno_frame(number: int) -> bytes:
    return bytes((number if 0 <= number < _PROGRESS_MARK else errno.EIO,))


def legacy_text(text: bytes) -> bytes:
    return _U32.pack(len(text)) + text


class Progress(NamedTuple):
    """Meaning by command: removed and 0; files and bytes; nodes done and expected; chunks expected and done."""

    first: int
    second: int


class Data(NamedTuple):
    data: bytes


class Ended(NamedTuple):
    errno: int


Event = Progress | Data | Ended


class ReplyParser:
    """Feed it what was read; it returns whole pieces. `Data` and `Ended` are the end."""

    def __init__(self, *, legacy: bool = False) -> None:
        self._buffer = bytearray()
        self._legacy = legacy

    def receive(self, data: bytes) -> Sequence[Event]:
        self._buffer += data
        events: list[Event] = []
        while (event := self._next()) is not None:
            events.append(event)
        return events

    def _next(self) -> Event | None:
        buffer = self._buffer
        if not buffer:
            return None
        if self._legacy:
            return self._text()
        if buffer[0] == _PROGRESS_MARK:
            if len(buffer) < _PROGRESS.size:
                return None
            _, first, second = _PROGRESS.unpack_from(buffer)
            del buffer[: _PROGRESS.size]
            return Progress(first, second)
        if buffer[0] == _DATA_MARK:
            if len(buffer) < _DATA.size:
                return None
            _, length = _DATA.unpack_from(buffer)
            return self._cut(_DATA.size, length)
        return Ended(int(buffer.pop(0)))

    def _text(self) -> Event | None:
        if len(self._buffer) < 4:
            # A mount that doesn't know the command answers with an errno alone.
            return Ended(int(self._buffer.pop(0))) if self._buffer[0] else None
        (length,) = _U32.unpack_from(self._buffer)
        return self._cut(4, length)

    def _cut(self, head: int, length: int) -> Data | None:
        if len(self._buffer) < head + length:
            return None
        data = bytes(self._buffer[head : head + length])
        del self._buffer[: head + length]
        return Data(data)
