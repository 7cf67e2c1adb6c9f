# SPDX-License-Identifier: Apache-2.0
"""A group of commits as few set-based statements: verify under row locks, then write each table once.

`Work` is one commit, taken apart into rows. `group(works)` packs works that don't depend on each other into `Group`s;
a group is one transaction, and its `steps` (`steps.py`) are to be executed in order. Relative changes of all members
are summed up per row. The dialect executes the steps and tells afterwards

- `group.guilty(marks)`: which members a failed check belongs to. Every row of a check, and of PATCH, begins with a
  *mark*; a check that does not hold fails the transaction and tells the marks concerned. The others are executed
  again without the guilty;
- `group.outcomes()` once it is committed, after `group.take(step, rows)` for the steps that return rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from core.errors import Conflict
from core.meta import keys as k, store as st
from core.meta.keys import Key
from core.meta.store import Outcome
from core.meta.stores.sql.rows import COUNTER_START, Row, join_patches, pack_patch
from core.meta.stores.sql.steps import ADD, APPEND, LOCK, LOG, ORDER, PATCH, Step
from core.meta.stores.sql.work import BARS, CHANGE, READ, WRITE, Work, add_rows


class Group:
    """One transaction: members that may be applied in any order."""

    def __init__(self) -> None:
        self.members: list[int] = []  # as given to `add`
        self.weight = 0
        self._works: list[Work] = []
        self._uses: dict[Key, int] = {}
        self._marks: list[list[tuple[int, Key]]] = []  # mark -> members and their keys
        self._changed: set[int] = set()  # directories that have statistics
        self._refs: dict[Row, int] = {}  # slices whose count went down to what

    def fits(self, work: Work) -> bool:
        mine = self._uses
        for token, uses in work.uses.items():
            there = mine.get(token)
            if there is not None and there & BARS[uses]:
                return False
        return True

    def spoils(self, work: Work) -> bool:
        """Would it fail behind this group, which changes what it needs unchanged, but not the other way round?"""
        mine, spoils = self._uses, False
        for token, uses in work.uses.items():
            there = mine.get(token, 0)
            if there & READ and uses & (CHANGE | WRITE):
                return False
            spoils = spoils or bool(uses & READ and there & (CHANGE | WRITE))
        return spoils

    def add(self, member: int, work: Work) -> None:
        mine = self._uses
        for token, uses in work.uses.items():
            mine[token] = mine.get(token, 0) | uses
        self.members.append(member)
        self._works.append(work)
        self.weight += work.weight

    def steps(self) -> list[Step]:
        """In the order of execution."""
        works = self._works
        locks: set[int] = set()
        checks: dict[tuple[int, str], list[Row]] = {}
        phases: dict[tuple[int, int, str], dict[Row, Any]] = {}
        same: dict[Any, int] = {}
        marks = self._marks = []
        logs = 0
        for member, work in zip(self.members, works, strict=True):
            locks |= work.locks
            for sort, expected in work.checks.items():
                rows = checks.setdefault(sort, [])
                for key, row in expected:
                    # Many members expect the same of one directory: it is verified once for all of them.
                    mark = same.setdefault((sort, row), len(marks))
                    if mark == len(marks):
                        marks.append([(member, key)])
                        rows.append((mark, *row))
                    else:
                        marks[mark].append((member, key))
            for at, changes in work.writes.items():
                _, op, _ = at
                mine = phases.get(at)
                if mine is None:
                    mine = phases[at] = {}
                if op == ADD:
                    for row, change in changes.items():
                        mine[row] = add_rows(mine.get(row), change)
                elif op == PATCH:
                    for row, change in changes.items():
                        old = mine.get(row)
                        if old is None:
                            mine[row] = (len(marks), change)
                            marks.append([(member, (k.NODE, row[0]))])
                        else:
                            marks[old[0]].append((member, (k.NODE, row[0])))
                            mine[row] = (old[0], join_patches(old[1], change))
                elif op == APPEND:
                    for row, change in changes.items():
                        old = mine.get(row)
                        mine[row] = change if old is None else (*row, old[2] + change[2])
                elif op == LOG:
                    for line in changes.values():
                        mine[(logs,)] = line
                        logs += 1
                else:
                    mine.update(changes)
        steps = [Step(LOCK, k.NODE, [(ino,) for ino in sorted(locks)])] if locks else []
        # Entries first: where a name leads elsewhere now, that is what a conflict should tell.
        for op, shape in sorted(checks, key=lambda sort: (sort[1] != k.ENTRY, sort[0], ORDER[sort[1]])):
            steps.append(Step(op, shape, checks[op, shape]))
        for at in sorted(phases, key=lambda at: (at[0], at[1], ORDER[at[2]])):
            _, op, shape = at
            steps.append(Step(op, shape, _rows_of(op, shape, phases[at])))
        return steps

    def take(self, step: Step, rows: Iterable[Row]) -> None:
        """What an ADD returned."""
        if step.shape == k.DIRSTAT:
            self._changed.update(row[0] for row in rows)
        elif step.shape == k.SLICEREF:
            for slice_id, size, refs in rows:
                self._refs[slice_id, size] = refs

    def outcomes(self) -> dict[int, Outcome]:
        """For each member, once the transaction is committed."""
        found: dict[int, Outcome] = {}
        freed = {row for row, refs in self._refs.items() if refs <= 0}
        for member, work in zip(reversed(self.members), reversed(self._works), strict=True):
            outcome = st.NOTHING
            for (_, op, shape), changes in work.writes.items():
                if op != ADD:
                    continue
                if shape == k.DIRSTAT and not self._changed.issuperset(row[0] for row in changes):
                    outcome = Outcome(list(outcome.freed), [r[0] for r in changes if r[0] not in self._changed])
                elif shape == k.SLICEREF and freed:
                    mine = [row for row, change in changes.items() if change[0] < 0 and row in freed]
                    if mine:
                        freed.difference_update(mine)  # told once, to the last that let go
                        outcome = Outcome([*outcome.freed, *((r[0], r[1]) for r in mine)], list(outcome.no_dirstat))
            found[member] = outcome
        return found

    def guilty(self, marks: Mapping[int, Any]) -> dict[int, Conflict]:
        """Members whose checks failed, each with its conflict; marks may come with what is there now."""
        conflicts: dict[int, Conflict] = {}
        for mark, found in marks.items():
            for member, key in self._marks[mark]:
                if member not in conflicts:
                    conflicts[member] = Conflict(f"{key} has changed", key, found)
        return conflicts


def _rows_of(op: int, shape: str, changes: dict[Row, Any]) -> list[Row]:
    """Rows of a statement, in the order of their keys: everybody locks in that order."""
    if op == PATCH:
        return [(changes[row][0], *row, *pack_patch(changes[row][1])) for row in sorted(changes)]
    if op == ADD:
        if shape == k.COUNTER:
            return [(*row, *changes[row], COUNTER_START.get(row[0].decode(), 0)) for row in sorted(changes)]
        return [(*row, *changes[row]) for row in sorted(changes)]
    return [changes[row] for row in sorted(changes)]


#: Groups that are looked at for a place: what clashes with some usually clashes with all.
_LOOK: Final = 8


def group(works: Sequence[tuple[int, Work]], most: int = 512) -> list[Group]:
    """Groups that can be executed one after the other. Nobody waits for another's commit, so order is free: whoever
    needs a record unchanged goes before those who change it, or would hardly ever win where many write."""
    groups: list[Group] = []
    for member, work in works:
        some = groups[:_LOOK]
        for there in some:
            if there.weight + work.weight <= most and there.fits(work):
                there.add(member, work)
                break
        else:
            fresh = Group()
            fresh.add(member, work)
            if any(there.spoils(work) for there in some):
                groups.insert(0, fresh)
            else:
                groups.append(fresh)
    return groups
