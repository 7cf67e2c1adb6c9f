# SPDX-License-Identifier: Apache-2.0
"""Volume suite: the trash and restoring from it. Source: spec metadata-semantics §9."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Trash(VolumeBase):
    pass
