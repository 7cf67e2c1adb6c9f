# SPDX-License-Identifier: Apache-2.0
"""Compaction of chunks. Source: spec metadata-semantics §7; format §3.5."""

from __future__ import annotations

from core.meta.data import Data


class Compaction(Data):
    """Mixin of `Meta`."""
