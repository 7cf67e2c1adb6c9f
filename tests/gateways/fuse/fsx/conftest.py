# SPDX-License-Identifier: Apache-2.0
"""Places of the random testers: references of the kernel, volumes of ours with one and two mounts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateways.fuse.mounts import ENGINES
from tests.gateways.fuse.posix import places
from tests.gateways.fuse.posix.places import Place


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The heavy tests run on all places, the others on the fast ones."""
    if "place" in metafunc.fixturenames:
        heavy = metafunc.definition.get_closest_marker("heavy") is not None
        fast = (*places.FAST, *ENGINES) if metafunc.definition.get_closest_marker("every_engine") else places.FAST
        given = places.given()
        parameters = [
            pytest.param(name, marks=() if heavy or given or name in fast else pytest.mark.heavy)
            for name in places.chosen()
        ]
        metafunc.parametrize("place", parameters, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with places.place(request.param) as made:
        yield made
