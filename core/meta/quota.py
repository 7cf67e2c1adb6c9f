# SPDX-License-Identifier: Apache-2.0
"""Quota commands and recounts. Source: spec metadata-semantics §3."""

from __future__ import annotations

from core.meta.jobs import Jobs


class Quotas(Jobs):
    """Mixin of `Meta`."""
