# SPDX-License-Identifier: Apache-2.0
"""Restore from the trash. Source: spec metadata-semantics §9, §14."""

from __future__ import annotations

from core.meta.jobs import Jobs


class Restore(Jobs):
    """Mixin of `Meta`."""
