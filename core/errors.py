# SPDX-License-Identifier: Apache-2.0
"""Errors of the engine: whose fault, what happened, what to do next.

File-system errors are `OSError`s with an errno, so every gateway can translate them with one table.
Object-store and metadata-store failures have classes of their own; the layers above turn them into EIO
(or a retry) without losing the cause.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any


class SluiceError(Exception):
    """Base of errors that are no answer to a file-system call: configuration, stores, versions."""


class ConfigError(SluiceError):
    """The user asked for something impossible; the message names the option and the way out."""


class VolumeError(SluiceError):
    """A volume is missing, damaged, of another version, or not ours to change."""


class FsError(OSError):
    """An answer of the file system: errno plus a message that names path or inode and the cause."""

    def __init__(self, errno: int, message: str = "") -> None:
        super().__init__(errno, message or os.strerror(errno))

    @property
    def code(self) -> str:
        """Symbolic name, such as ENOENT."""
        return _errno.errorcode.get(self.errno or 0, str(self.errno))


class MetaError(FsError):
    """The metadata store failed or can't be reached (EIO). `retryable`: the same call may work later.

    uncertain: the connection was lost after a commit had been sent, so it may or may not have been applied.
    """

    def __init__(
        self, message: str, *, retryable: bool = False, errno: int = _errno.EIO, uncertain: bool = False
    ) -> None:
        super().__init__(errno, message)
        self.retryable = retryable
        self.uncertain = uncertain


class Conflict(SluiceError):
    """What a transaction read has changed before its commit; internal to `RecordStore.transact`.

    key: which record, where the store can tell. found: if that is an entry or an inode, what it is now, as (Entry or
    None, Attr or None), so that the next try needs no reading; the entry is left out for an inode.
    """

    def __init__(self, message: str, key: Any = None, found: Any = None) -> None:
        super().__init__(message)
        self.key = key
        self.found = found


class ObjectError(SluiceError):
    """An object store refused or failed. `retryable`: trying again may help."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class ObjectNotFound(ObjectError):
    """The key does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class DataCorrupt(ObjectError):
    """Bytes that don't match their checksum, length or encoding."""
