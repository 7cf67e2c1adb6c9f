# SPDX-License-Identifier: Apache-2.0
"""docs/object-stores.md has a row for every storage, and none for one that doesn't exist."""

from __future__ import annotations

import re
from pathlib import Path

from core.object.open import STORAGES

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
    assert not refused & set(STORAGES)
