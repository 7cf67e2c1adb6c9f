# SPDX-License-Identifier: Apache-2.0
"""Where dumps go and come from: files that appear whole or not at all, pipes, gzip and zstd.

Writing compresses by the name's ending and happens in a thread, while the next block is being made. A file is written
under a temporary name, flushed to disk, then renamed. Only its owner may read it: metadata tells a lot, and a JSON dump
holds the (encrypted) encryption key. Reading looks at the first bytes, so it works for pipes too.
Source: spec cli §2.8, semantics §15.1.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
import sys
import tempfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol

import zstandard

from core.errors import ConfigError

_GZIP_LEVEL: Final = 6
_ZSTD_LEVEL: Final = 3
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


class Sink(Protocol):
    """Takes the bytes of a dump in order."""

    async def write(self, data: bytes) -> None: ...


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressor_for(name: str) -> Any:
    """By ending: .gz, .zstd (and .zst); None for others."""
    if name.endswith(".gz"):
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    if name.endswith((".zstd", ".zst")):
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
    return None


class Output:
    """`async with Output(path) as out: await out.write(…)`; path None or "-" is stdout.

    Leaving the block normally publishes the file; leaving it by an exception removes what was written.
    """

    def __init__(self, path: str | None, *, compress: str = "") -> None:
        self.path = None if path in (None, "", "-") else path
        self._compressor: _Compressor | None = compressor_for(compress or self.path or "")
        self._pending: asyncio.Future[None] | None = None
        self._temporary = ""
        self._file: BinaryIO
        self.size = 0  # bytes that went out, after compression

    async def __aenter__(self) -> Output:
        if self.path is None:
            self._file = sys.stdout.buffer
            return self
        folder, name = os.path.split(os.path.abspath(self.path))
        try:
            fd, self._temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
        except OSError as e:
            raise ConfigError(f"{self.path} can't be written: {e.strerror}; choose another folder") from e
        self._file = os.fdopen(fd, "wb", buffering=0)
        return self

    async def write(self, data: bytes) -> None:
        """Returns once the block before this one is out."""
        await self._settle()
        self._pending = asyncio.ensure_future(asyncio.to_thread(self._write, data))

    async def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            await pending

    def _write(self, data: bytes) -> None:
        if self._compressor is not None:
            data = self._compressor.compress(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _finish(self) -> None:
        if self._compressor is not None:
            rest, self._compressor = self._compressor.flush(), None
            self._write(rest)
        self._file.flush()
        if self.path is None:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
        self._temporary = ""
        fd = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._settle()
            if error is None:
                await asyncio.to_thread(self._finish)
        finally:
            if self._temporary:
                self._file.close()
                Path(self._temporary).unlink(missing_ok=True)


class Input:
    """Plain bytes of a dump file or of stdin, decompressed. `read(n)` gives at most n bytes, b"" at the end."""

    def __init__(self, path: str | None) -> None:
        self.path = None if path in (None, "", "-") else path
        self.name = self.path or "standard input"
        self.size: int | None = None  # of the file as it lies there
        if self.path is None:
            raw: BinaryIO = sys.stdin.buffer
        else:
            try:
                raw = open(self.path, "rb")  # noqa: SIM115
            except OSError as e:
                raise ConfigError(f"{self.path} can't be read: {e.strerror}") from e
        self._raw = raw
        info = os.fstat(raw.fileno()) if self.path is not None else None
        if info is not None and stat.S_ISREG(info.st_mode):
            self.size = info.st_size
        self.consumed = 0
        self._head = self._read_head()
        self._stream = self._open()

    def _read_head(self) -> bytes:
        head = b""
        while len(head) < 4 and (more := self._raw.read(4 - len(head))):
            head += more
        return head

    def _open(self) -> Any:
        source: Any = _Joined(self, self._raw, self._head)
        if self._head.startswith(_GZIP_MAGIC):
            import gzip

            return gzip.GzipFile(fileobj=io.BufferedReader(source, 1 << 18))
        if self._head == _ZSTD_MAGIC:
            return zstandard.ZstdDecompressor().stream_reader(source, read_size=1 << 18, read_across_frames=True)
        return source

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except (EOFError, zlib.error, OSError, zstandard.ZstdError) as e:
            raise ConfigError(f"{self.name} is damaged or cut short: {e}; use another copy") from e
        return data

    def close(self) -> None:
        if self.path is not None:
            self._raw.close()

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Joined(io.RawIOBase):
    """The bytes that were looked at, then the rest; counts what was taken."""

    def __init__(self, owner: Input, raw: BinaryIO, head: bytes) -> None:
        self._owner = owner
        self._raw = raw
        self._head = head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:] if size >= 0 else b""
        else:
            data = self._raw.read(size)
        self._owner.consumed += len(data)
        return data
