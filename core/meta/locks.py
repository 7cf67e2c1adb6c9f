# SPDX-License-Identifier: Apache-2.0
"""flock and POSIX record locks. Source: spec metadata-semantics §10.3, §10.4."""

from __future__ import annotations

from core.meta.sessions import Sessions


class Locks(Sessions):
    """Mixin of `Meta`."""
