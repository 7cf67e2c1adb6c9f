# SPDX-License-Identifier: Apache-2.0
"""What all tests of the FUSE door share: databases that live as long as the test process."""

from __future__ import annotations

import pytest

from tests.gateways.fuse.mounts import stop_engines


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_engine: runs on every engine also in the fast set")


def pytest_sessionfinish(session: pytest.Session) -> None:
    stop_engines()
