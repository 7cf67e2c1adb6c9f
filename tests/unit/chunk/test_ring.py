# SPDX-License-Identifier: Apache-2.0
"""Choice of cache directories: check vectors of data-path §5.5."""

from __future__ import annotations

import mmh3
import pytest

from core.chunk.ring import Ring, legacy_index

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"
C = "0b1d6d0e-7a5e-4c53-9b1c-6a4f7a3a9d01"
D = "c56a4180-65aa-42ec-a945-5fd21dec0538"
E = "9f3c2b11-aaaa-4bbb-8ccc-0123456789ab"


def test_murmur_vectors() -> None:
    assert mmh3.hash("hello", 0, signed=False) == 0x248BFA47
    assert mmh3.hash("chunks/0/0/1_0_4194304", 0, signed=False) == 0xD52F8102


def test_two_directories() -> None:
    ring = Ring([A, B])
    assert ring.counts == {A: 97, B: 103}
    assert ring.owner("chunks/0/0/1_0_4194304") == A
    assert ring.owner("chunks/0/0/1_1_4194304") == B
    assert ring.owner("chunks/0/0/2_0_4194304") == B
    assert ring.owner("chunks/1/1234/1234567_0_4194304") == A


def test_three_directories_in_any_order() -> None:
    for ids in ([C, D, E], [E, D, C]):
        ring = Ring(ids)
        assert ring.counts == {C: 95, D: 126, E: 83}
        assert ring.owner("chunks/0/0/1_0_4194304") == E
        assert ring.owner("chunks/1/1234/1234567_0_4194304") == C


def test_one_directory_owns_everything_and_none_is_refused() -> None:
    assert {Ring([A]).owner(f"chunks/0/0/{i}_0_5") for i in range(100)} == {A}
    with pytest.raises(ValueError, match="at least one"):
        Ring([])


def test_legacy_choice_is_fnv_1() -> None:
    # FNV-1 32 of "" is the offset basis, of "a" 0x050c5d7e (published vectors).
    assert legacy_index("", 1 << 32) == 0x811C9DC5
    assert legacy_index("a", 1 << 32) == 0x050C5D7E
    assert legacy_index("foobar", 1 << 32) == 0x31F0B262
