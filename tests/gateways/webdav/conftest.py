# SPDX-License-Identifier: Apache-2.0
"""One volume and one door per module; a second door over the same volume for what servers must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("wsgidav", reason="WsgiDAV is missing: pip install wsgidav")

from tests.gateways.webdav.door import Door, make_volume


@pytest.fixture(scope="module")
def meta_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("webdav")
    return make_volume(folder)


@pytest.fixture(scope="module")
def door(meta_url: str) -> Iterator[Door]:
    with Door(meta_url) as running:
        yield running


@pytest.fixture(scope="module")
def other_door(meta_url: str, door: Door) -> Iterator[Door]:
    with Door(meta_url) as running:
        yield running
