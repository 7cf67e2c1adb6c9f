# SPDX-License-Identifier: Apache-2.0
"""Volume suite: compaction and delayed slices. Source: spec metadata-semantics §7."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Compaction(VolumeBase):
    pass
