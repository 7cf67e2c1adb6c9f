# SPDX-License-Identifier: Apache-2.0
"""New names in the temporary area, `/.sys/tmp/HEX3/UUID`, which one cleaner serves for all doors (spec webdav §1)."""

from __future__ import annotations

import errno
import uuid
from typing import Final, NamedTuple

from core.errors import FsError
from core.vfs.filesystem import FileSystem, ImplicitDirs

_PARENTS: Final = ImplicitDirs(mode=0o700)


class Temporary(NamedTuple):
    """folder: inode of the directory, made if it was missing. name: free in it. path: of both."""

    folder: int
    name: bytes
    path: bytes


async def new_temporary(fs: FileSystem) -> Temporary:
    name = str(uuid.uuid4()).encode()
    folder = b"/.sys/tmp/" + name[:3]
    try:
        found = await fs.lookup(folder, follow=False)
    except FsError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        try:
            found = await fs.mkdir(folder, mode=0o700, parents=_PARENTS)
        except FsError as again:
            if again.errno != errno.EEXIST:
                raise
            found = await fs.lookup(folder, follow=False)
    return Temporary(found.ino, name, folder + b"/" + name)
