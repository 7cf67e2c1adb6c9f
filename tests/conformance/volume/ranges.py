# SPDX-License-Identifier: Apache-2.0
"""Volume suite: fallocate and copy_file_range. Source: spec metadata-semantics §6.5, §6.6."""

from __future__ import annotations

from tests.conformance.volume.base import VolumeBase


class Ranges(VolumeBase):
    pass
