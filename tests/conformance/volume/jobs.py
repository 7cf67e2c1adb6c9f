# SPDX-License-Identifier: Apache-2.0
"""Volume suite: sessions, background jobs and their gates. Source: spec metadata-semantics §8, §10."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Jobs(VolumeBase):
    pass
