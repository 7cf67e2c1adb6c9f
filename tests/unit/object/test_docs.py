# SPDX-License-Identifier: Apache-2.0
"""docs/object-stores.md has a row for every storage, and none for one that doesn't exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.object.open import NOT_OFFERED, STORAGES, normalise_bucket

PAGE = Path(__file__).parents[3] / "docs" / "object-stores.md"


def test_every_storage_has_a_row() -> None:
    text = PAGE.read_text()
    offered, _, others = text.partition("### Types that are not offered")
    others = others.partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", offered, re.MULTILINE)
    assert sorted(rows) == sorted(STORAGES)
    refused = {
        name for row in re.findall(r"^\| ([^|]+) \|", others, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert refused == set(NOT_OFFERED)
    assert not refused & set(STORAGES)


@pytest.mark.parametrize("storage", sorted(NOT_OFFERED))
def test_what_is_not_offered_says_the_way_round(storage: str) -> None:
    with pytest.raises(ConfigError, match="is not offered; "):
        normalise_bucket(storage, "x")
