# SPDX-License-Identifier: Apache-2.0
"""An optional way to the kernel: pyfuse3, which is libfuse in Python, in place of our own channel.

The same handlers answer; `adapter` translates between pyfuse3's objects and the protocol's bytes, `server` has the
surface of `gateways.fuse.server.FuseServer`. It exists to compare with, and for systems where libfuse is preferred.
`MISSING` says what it can't do, and why.
"""

from __future__ import annotations

from gateways.fuse.pyfuse3_backend.limits import MISSING, BackendMissing, available, require_pyfuse3

__all__ = ["MISSING", "BackendMissing", "available", "require_pyfuse3"]
