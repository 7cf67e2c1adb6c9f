# SPDX-License-Identifier: Apache-2.0
"""Kernel requests about locks: a placeholder until they exist."""

from __future__ import annotations

from gateways.fuse.operations import Operations


class LockHandlers(Operations):
    """Mixin of `PosixOperations`."""
