# SPDX-License-Identifier: Apache-2.0
"""Volume suite: recursive remove, summary, paths. Source: spec metadata-semantics §4.10, §13."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Trees(VolumeBase):
    pass
