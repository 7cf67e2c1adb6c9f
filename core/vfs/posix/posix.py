# SPDX-License-Identifier: Apache-2.0
"""Everything a POSIX file system does, on one volume, by inode: what a kernel's door calls.

`Posix(vfs, config, keeper, internal)`; each base class is one concern, in a module of that name.
"""

from __future__ import annotations

from core.vfs.posix.directories import Directories
from core.vfs.posix.files import Files
from core.vfs.posix.locks import Locks
from core.vfs.posix.names import Names
from core.vfs.posix.xattrs import Xattrs


class Posix(Names, Xattrs, Directories, Files, Locks):
    """One mount. All calls may be made at the same time by several tasks of one event loop."""

    # While a file is open its attributes are known. What a listing read ahead before is old once it is closed.

    def release_nowait(self, fh: int, ino: int, lock_owner: int, flock: bool) -> bool:
        self.changed(ino)
        return super().release_nowait(fh, ino, lock_owner, flock)

    async def release(self, fh: int, ino: int, lock_owner: int, flock: bool) -> None:
        self.changed(ino)
        try:
            await super().release(fh, ino, lock_owner, flock)
        finally:
            self.changed(ino)
