# SPDX-License-Identifier: Apache-2.0
"""Locks of a mount: a placeholder until they exist."""

from __future__ import annotations

from core.vfs.posix.nodes import PosixBase


class Locks(PosixBase):
    """Mixin of `Posix`."""
