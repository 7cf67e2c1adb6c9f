# SPDX-License-Identifier: Apache-2.0
"""Whole trees: recursive remove, summary, paths of an inode. Source: spec metadata-semantics §4.10, §13."""

from __future__ import annotations

from core.meta.jobs import Jobs


class Trees(Jobs):
    """Mixin of `Meta`."""
