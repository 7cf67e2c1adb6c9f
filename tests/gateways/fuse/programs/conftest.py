# SPDX-License-Identifier: Apache-2.0
"""The `place` of a program's test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.gateways.fuse.programs.place import Place, elsewhere


@pytest.fixture
def place() -> Iterator[Place]:
    if root := os.environ.get("FUSE_TESTS_ON"):
        with elsewhere(root) as place:
            yield place
    else:
        from tests.gateways.fuse.programs.mounting import mounted_place

        with mounted_place() as place:
            yield place
