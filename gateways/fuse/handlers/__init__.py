# SPDX-License-Identifier: Apache-2.0
"""Requests of the kernel, answered by `core.vfs.posix`. Nothing here has a rule of its own but how to say things.

`PosixOperations(posix, Ttl(…))` is one mount; each base class is one kind of request, in a module of that name.
"""

from __future__ import annotations

from gateways.fuse.handlers.attributes import AttributeHandlers
from gateways.fuse.handlers.directories import DirectoryHandlers
from gateways.fuse.handlers.files import FileHandlers
from gateways.fuse.handlers.locks import LockHandlers
from gateways.fuse.handlers.names import NameHandlers
from gateways.fuse.handlers.privileges import PrivilegeHandlers
from gateways.fuse.handlers.translate import Ttl


class PosixOperations(
    NameHandlers, AttributeHandlers, DirectoryHandlers, PrivilegeHandlers, FileHandlers, LockHandlers
):  # fmt: skip
    """All requests of one mount."""


__all__ = ["PosixOperations", "Ttl"]
