# SPDX-License-Identifier: Apache-2.0
"""Volume suite: flock and POSIX locks. Source: spec metadata-semantics §10.3, §10.4."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Locks(VolumeBase):
    pass
