# SPDX-License-Identifier: Apache-2.0
"""What a client remembers of directories, and when an answer may be from before a change of its own."""

from __future__ import annotations

from typing import Final

from core.meta import keys as k
from core.meta.recent import RecentRecords
from core.meta.records import DIRECTORY, Attr, NodePatch
from core.meta.store import PATCH

INO: Final = 7


def directory(mtime_ns: int) -> Attr:
    return Attr(DIRECTORY, 0o755, 0, 0, 0, mtime_ns, mtime_ns, 2, 4096, 0, 1)


def patched(recent: RecentRecords, mtime_ns: int, ino: int = INO) -> None:
    recent.committed([(PATCH, k.node(ino), NodePatch(0, mtime_ns, mtime_ns))], False)


def test_an_answer_is_remembered_with_the_changes_after_it() -> None:
    recent = RecentRecords()
    recent.answered_directory(INO, directory(1), recent.changes(INO))
    patched(recent, 2)
    found = recent.directory(INO, 60)
    assert found is not None and found[0].mtime_ns == 2


def test_an_answer_that_a_change_may_have_overtaken_is_not_believed() -> None:
    recent = RecentRecords()
    recent.answered_directory(INO, directory(1), recent.changes(INO))
    asked = recent.changes(INO)
    patched(recent, 3)
    recent.answered_directory(INO, directory(1), asked)
    assert recent.directory(INO, 60) is None
    recent.answered_directory(INO, directory(3), recent.changes(INO))
    assert recent.directory(INO, 60) is not None


def test_changes_of_other_directories_do_not_matter() -> None:
    recent = RecentRecords()
    asked = recent.changes(INO)
    patched(recent, 3, INO + 1)
    recent.answered_directory(INO, directory(1), asked)
    assert recent.directory(INO, 60) is not None


def test_numbers_of_changes_do_not_come_back_when_they_are_forgotten() -> None:
    recent = RecentRecords(most=4)
    asked = recent.changes(INO)
    patched(recent, 2)
    for ino in range(100, 104):  # more than are remembered
        patched(recent, 2, ino)
    assert recent.changes(INO) != asked
    recent.answered_directory(INO, directory(1), asked)
    assert recent.directory(INO, 60) is None
