# SPDX-License-Identifier: Apache-2.0
"""fallocate and copy_file_range. Source: spec metadata-semantics §6.5, §6.6."""

from __future__ import annotations

from core.meta.data import Data


class Ranges(Data):
    """Mixin of `Meta`."""
