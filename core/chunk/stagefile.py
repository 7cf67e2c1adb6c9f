# SPDX-License-Identifier: Apache-2.0
"""A staged block as a file: written so that it can be made durable, read back as a whole and proven before it leaves.

Same format as a cache file, always with checksums (whatever `--verify-cache-checksum` says: nobody else could tell a
torn file from a good one), perhaps with a footer that names the storage tier. Blocking IO, for threads.
Source: data-path §5.2 (format), §5.4 (footer), §6 (staging).
"""

from __future__ import annotations

import logging
import os
from typing import Final

import msgspec

from core.chunk import cachefile
from core.errors import DataCorrupt
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk.staging")

_MAGIC: Final = b"FS"
_MAX_TIER: Final = 3


def footer(tier: int, *, summed: bool) -> bytes:
    """What says that a block belongs to another tier than 0; b"" for that one."""
    if not tier:
        return b""
    # The length of the map decides whether readers see checksums before it: a multiple of 4 with, none without.
    pad = b"\0\0" if summed else b""
    body = b"\x82\xa4tier\xcc" + bytes((tier,)) + b"\xa3pad\xc4" + bytes((len(pad),)) + pad
    return _MAGIC + len(body).to_bytes(2, "big") + body


def parse_footer(raw: bytes, path: str = "") -> int:
    """The tier; 0 for what isn't understood (with a warning) or lies out of range."""
    if not raw:
        return 0
    try:
        if raw[:2] != _MAGIC or int.from_bytes(raw[2:4], "big") != len(raw) - 4:
            raise ValueError("no footer")
        tier = msgspec.msgpack.decode(raw[4:], type=dict[str, msgspec.Raw])["tier"]
        number = msgspec.msgpack.decode(tier, type=int)
    except (ValueError, KeyError, msgspec.MsgspecError) as e:
        log.warning("%s: the footer of a staged block can't be read (%s); it is uploaded as tier 0", path, e)
        return 0
    return number if 0 <= number <= _MAX_TIER else 0


def create(path: str, data: Buffer, mode: int, dir_mode: int, tier: int = 0) -> tuple[int, list[str]]:
    """Write a staged file under its final name. Returns a descriptor for fsync, which the caller closes, and the
    folders that had to be made. Raises OSError; nothing stays behind then."""
    temp = path + ".tmp"
    made: list[str] = []
    fd = cachefile.open_temp(temp, dir_mode, made)
    if fd < 0:
        raise FileExistsError(17, "another process is writing this very block", temp)
    try:
        cachefile.write_all(fd, [data, cachefile.checksums(data), footer(tier, summed=True)])
        os.fchmod(fd, mode)
        # Before fsync, so that one commit of the file system's journal covers the name, too. A power loss in between
        # leaves a torn file under a good name, which nobody was told of and whose checksums say so.
        os.rename(temp, path)
    except BaseException:
        os.close(fd)
        try:
            os.unlink(temp)
        except OSError:
            pass
        raise
    return fd, made


def read(fd: int, n: int, path: str) -> tuple[bytes, int]:
    """(block, tier) of an open staged file; every checksum there is is compared. DataCorrupt says what is wrong."""
    size = os.fstat(fd).st_size
    extra = size - n
    sums = cachefile.trailer_length(n)
    if extra < 0:
        raise DataCorrupt(f"{path}: has {size} bytes, its block {n}")
    summed = extra > 0 and extra % 4 == 0
    if summed and extra < sums:
        raise DataCorrupt(f"{path}: {extra} bytes follow its block, neither checksums nor a footer")
    data = os.pread(fd, n, 0)
    rest = os.pread(fd, extra, n) if extra else b""
    if len(data) != n or len(rest) != extra:
        raise DataCorrupt(f"{path}: became shorter while it was read")
    if summed and cachefile.checksums(data) != rest[:sums]:
        raise DataCorrupt(f"{path}: its checksums don't match its bytes")
    return data, parse_footer(rest[sums:] if summed else rest, path)
