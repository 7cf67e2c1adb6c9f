# SPDX-License-Identifier: Apache-2.0
"""Volume suite: two clients of one volume at once. Source: spec metadata-semantics §1.6."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Concurrency(VolumeBase):
    pass
