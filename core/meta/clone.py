# SPDX-License-Identifier: Apache-2.0
"""Clone of files and trees. Source: spec metadata-semantics §13.2."""

from __future__ import annotations

from core.meta.jobs import Jobs


class Clone(Jobs):
    """Mixin of `Meta`."""
