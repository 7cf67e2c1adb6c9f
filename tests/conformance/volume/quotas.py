# SPDX-License-Identifier: Apache-2.0
"""Volume suite: directory, user and group quotas. Source: spec metadata-semantics §3."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Quotas(VolumeBase):
    pass
