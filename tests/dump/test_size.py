# SPDX-License-Identifier: Apache-2.0
"""Memory stays bounded whatever the volume's size, and what comes out is what went in; a process per step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dump.measure import measure


def test_a_volume_of_ten_thousand_files_goes_round_in_little_memory(tmp_path: Path) -> None:
    for step, cost in measure(10_000, tmp_path).items():
        assert cost.peak_mib <= 150, f"{step} took {cost.peak_mib:.0f} MiB"


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_a_million_files_in_three_hundred_mebibytes(tmp_path: Path) -> None:
    for step, cost in measure(1_000_000, tmp_path).items():
        assert cost.peak_mib <= 300, f"{step} took {cost.peak_mib:.0f} MiB"
