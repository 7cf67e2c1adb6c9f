# SPDX-License-Identifier: Apache-2.0
"""How far a long piece of work is: two numbers that it keeps up to date and somebody else shows."""

from __future__ import annotations


class Tally:
    """What the numbers mean depends on the work; see `protocol.Progress`."""

    __slots__ = ("first", "second")

    def __init__(self) -> None:
        self.first = 0
        self.second = 0

    def set(self, first: int, second: int = 0) -> None:
        self.first = first
        self.second = second
