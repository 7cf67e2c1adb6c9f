# SPDX-License-Identifier: Apache-2.0
"""Volume suite: clones of files and trees. Source: spec metadata-semantics §13.2."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Clone(VolumeBase):
    pass
