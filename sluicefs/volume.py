# SPDX-License-Identifier: Apache-2.0
"""How commands reach a volume: run a coroutine, open and close, and paths inside a volume as users write them."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from core.errors import ConfigError
from core.meta.records import Attr
from core.volume import Volume, open_volume

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end on uvloop where it is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        pass  # not on every platform; asyncio's own loop does the same, slower
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


@asynccontextmanager
async def opened(meta_url: str, **options: Any) -> AsyncIterator[Volume]:
    """The volume, closed again whatever happens. Options that weren't given keep `open_volume`'s defaults."""
    volume = await open_volume(meta_url, **{name: value for name, value in options.items() if value is not None})
    try:
        yield volume
    finally:
        await volume.close()


def inner_path(text: str) -> bytes:
    """An absolute path inside the volume; a leading colon, `.`, `..` and doubled slashes are resolved here."""
    parts: list[bytes] = []
    for part in text.removeprefix(":").encode("utf-8", "surrogateescape").split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    if b"\0" in b"".join(parts):
        raise ConfigError("a path can't hold a zero byte")
    return b"/" + b"/".join(parts)


def join(folder: bytes, name: bytes) -> bytes:
    return folder.rstrip(b"/") + b"/" + name


def mode_text(attr: Attr) -> str:
    """As `ls -l` shows it: drwxr-xr-x."""
    return stat.filemode(attr.st_mode)


TYPE_WORDS = {1: "file", 2: "dir", 3: "symlink", 4: "fifo", 5: "block", 6: "char", 7: "socket"}
