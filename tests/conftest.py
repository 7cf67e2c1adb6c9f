# SPDX-License-Identifier: Apache-2.0
"""Fixtures and settings that all tests share. Fixtures of one area live in that area's own conftest."""

from __future__ import annotations

import os
import random
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# Two shared cores: a deadline per example would measure the neighbours.
settings.register_profile("sluice", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sluice")

#: Variables that would change what a command under test does.
_FOREIGN = (
    "META_PASSWORD", "META_PASSWORD_FILE", "REDIS_PASSWORD", "ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN",
    "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "JFS_RSA_PASSPHRASE", "AWS_PROFILE", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name in _FOREIGN or name.startswith("SLUICE_")]:
        if name not in ("SLUICE_TEST_CACHE", "SLUICE_TEST_SEED"):
            del os.environ[name]
    # Processes that run a part of the tests take the seed that is printed.
    os.environ["SLUICE_TEST_SEED"] = _SEED
    # The user's own AWS settings must not leak into clients either.
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    # Doors over remote stores have a disk cache by default.
    caches = tempfile.TemporaryDirectory(prefix="sluice-test-cache-", ignore_cleanup_errors=True)
    config.add_cleanup(caches.cleanup)
    os.environ["SLUICE_CACHE_HOME"] = caches.name


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed {seed_value()} (SLUICE_TEST_SEED)"


_SEED = os.environ.get("SLUICE_TEST_SEED") or str(random.SystemRandom().randrange(1 << 32))


def seed_value() -> int:
    return int(_SEED)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A random source per test, from the printed seed."""
    return random.Random(f"{seed_value()}:{request.node.nodeid}")
