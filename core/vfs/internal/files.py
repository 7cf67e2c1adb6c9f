# SPDX-License-Identifier: Apache-2.0
"""The files of this process that a mount shows in its root: `.accesslog`, `.stats`, `.config`, and `.control`.

`.control` is found from every directory and never listed, so that a command finds it wherever it stands. The trash is
a directory of the volume, the doors show it themselves. Source: metadata-semantics §12.1; cli §10.1.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from core.errors import FsError
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.records import FILE, ROOT, Attr
from core.vfs.internal.accesslog import AccessLog
from core.vfs.internal.api import InternalHandle
from core.vfs.internal.config_file import config_text
from core.vfs.internal.control import ControlHandle, Intake
from core.vfs.internal.inodes import ACCESS_LOG, CONFIG, CONTROL, FILES, PREFIX, STATS, is_internal
from core.vfs.internal.metrics import Metrics
from core.vfs.internal.operations import ControlOperations
from core.vfs.posix.nodes import Node
from core.vfs.vfs import VFS
from core.volume import Volume

_LISTED: Final = (ACCESS_LOG, CONFIG, STATS)


class InternalFiles:
    """Those of one mount. Numbers and parents are the mount's (1 is its root).

    root: the volume's directory that the mount shows. hide: not in listings. prefix: names begin with `.jfs`. options:
    what `.config` tells beside the volume's setting, secrets removed by whoever gives them.
    """

    def __init__(
        self, volume: Volume, vfs: VFS | None = None, *, root: int = ROOT, hide: bool = False, prefix: bool = False,
        options: Mapping[str, Any] | None = None, mount_point: str = "", metrics: Metrics | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self.access_log = AccessLog()
        self.metrics = metrics or Metrics()
        if metrics is None:
            from core.vfs.internal.instrument import instrument

            instrument(volume, self.metrics, vfs)
        self.control = ControlOperations(volume.meta, volume.slices, volume.format, vfs, root=root)
        #: May be replaced as long as the mount runs.
        self.options: Mapping[str, Any] = dict(options or {})
        self.mount_point = mount_point
        self._intake = Intake()
        self._volume = volume
        self._hide = hide
        now = clock_ns()
        front = PREFIX if prefix else b""
        self._names = {front + name: ino for ino, (name, _) in FILES.items()}
        self._control_name = front + FILES[CONTROL][0]
        self._nodes = {
            ino: Node(ino, Attr(FILE, mode, 0, 0, now, now, now, 1, 0, 0, ROOT), 0) for ino, (_, mode) in FILES.items()
        }

    # -- names ------------------------------------------------------------------------------------------------------

    def is_internal(self, ino: int) -> bool:
        return is_internal(ino)

    def find(self, parent: int, name: bytes) -> Node | None:
        if parent == ROOT or name == self._control_name:
            ino = self._names.get(name)
            return None if ino is None else self._nodes[ino]
        return None

    def node(self, ino: int) -> Node:
        """ENOENT for a number that no file has."""
        found = self._nodes.get(ino)
        if found is None:
            raise FsError(errno.ENOENT, f"inode {ino} is no special file of this mount")
        return found

    def entries(self) -> Iterable[tuple[bytes, Node]]:
        if self._hide:
            return []
        return sorted((name, self._nodes[ino]) for name, ino in self._names.items() if ino in _LISTED)

    # -- opening ----------------------------------------------------------------------------------------------------

    def open(self, ino: int, flags: int, caller: Caller) -> InternalHandle:
        """EACCES unless the mode allows it; nothing but `.control` is opened for writing, by root neither. Doors
        answer with direct IO."""
        node = self.node(ino)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if caller.uid and not node.attr.mode & 0o004:
            raise FsError(errno.EACCES, f"inode {ino}: only root reads this file of the mount")
        if ino == CONTROL:
            # Whoever opens again what an earlier process had opened doesn't know for whom: nobody's rights then.
            return ControlHandle(self.control, None if caller is ROOT_CALLER else caller, intake=self._intake)
        if writing:
            raise FsError(errno.EACCES, f"inode {ino}: this file of the mount can only be read")
        if ino == ACCESS_LOG:
            return _LogHandle(self.access_log)
        return _TextHandle(ino, self._stats if ino == STATS else self._config)

    def _stats(self) -> bytes:
        return self.metrics.text()

    def _config(self) -> bytes:
        return config_text(self._volume.format, self.options, mount_point=self.mount_point)


class _TextHandle(InternalHandle):
    """A text that is made when its begin is read, and stays the same for whoever reads on."""

    def __init__(self, ino: int, make: Callable[[], bytes]) -> None:
        self.ino = ino
        self._make = make
        self._text: bytes | None = None

    async def read(self, offset: int, size: int) -> bytes:
        if offset == 0 or self._text is None:
            self._text = self._make()
        return self._text[offset : offset + size]


class _LogHandle(InternalHandle):
    ino = ACCESS_LOG

    def __init__(self, log: AccessLog) -> None:
        self._reader = log.open()

    async def read(self, offset: int, size: int) -> bytes:
        return await self._reader.read(offset, size)

    async def release(self) -> None:
        self._reader.close()
