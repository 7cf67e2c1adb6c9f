# SPDX-License-Identifier: Apache-2.0
"""Commits: what many tasks want at the same time becomes few transactions, all sent in one go.

One trip usually: every group (`sql/commits.py`) is one segment, that is one transaction. If a check of it fails, the
message names the guilty, who get their Conflict, and the others go again without them; after any other refusal that
may be one member's fault (a unique index, a number that doesn't fit) each goes again alone, still in one trip.
What was sent on a connection that broke is never sent again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.store import Outcome
from core.meta.stores.postgres.arrays import columns
from core.meta.stores.postgres.failures import CONFLICTS, Lost, Refused, translate, uncertain, unreachable
from core.meta.stores.postgres.links import Links
from core.meta.stores.postgres.reading import Reading, Walk
from core.meta.stores.postgres.statements import Statements
from core.meta.stores.postgres.wire import Call
from core.meta.stores.sql.commits import Group, group
from core.meta.stores.sql.steps import Step
from core.meta.stores.sql.work import Work

_SENDS: int = 4  # of one commit that surely never left


class Committing:
    def __init__(self, links: Links, statements: Statements, reading: Reading, where: str) -> None:
        self._reading = reading
        self._links = links
        self._statements = statements
        self._where = where

    async def run(self, works: Sequence[Work]) -> list[Outcome | BaseException]:
        """One answer per work, in order."""
        answers: list[Any] = [None] * len(works)
        groups = group(list(enumerate(works)))
        unsent = 0
        while groups:
            try:
                wire = await self._links.writer()
            except MetaError as e:
                # Others of this batch may be through already.
                for members in groups:
                    for member in members.members:
                        answers[member] = _copy(e)
                break
            waiting = []
            again: list[Group] = []
            for members in groups:
                steps = members.steps()
                try:
                    calls = [self._call(step) for step in steps]
                except (struct.error, OverflowError) as e:
                    await self._refuse(members, works, Refused("22003", str(e)), answers, again)
                    continue
                waiting.append((members, steps, wire.submit(calls)))
            wire.flush()
            for members, steps, future in waiting:
                try:
                    results = await future
                except Refused as e:
                    await self._refuse(members, works, e, answers, again)
                except Lost as e:
                    if not e.sent and unsent < _SENDS:
                        again.append(members)
                        continue
                    error = uncertain(self._where, str(e)) if e.sent else unreachable(self._where, str(e))
                    for member in members.members:
                        answers[member] = _copy(error)
                else:
                    for step, rows in zip(steps, results, strict=True):
                        if rows and step.shape in (k.DIRSTAT, k.SLICEREF):
                            members.take(step, rows)
                    for member, outcome in members.outcomes().items():
                        answers[member] = outcome
            unsent += 1
            groups = again
        return answers

    def _call(self, step: Step) -> Call:
        statement = self._statements.step(step.op, step.shape)
        return Call(statement, columns(statement.kinds, step.rows))

    async def _conflict(self, error: Refused, key: Any) -> Conflict:
        """An index told that a record exists. If it is an entry, its finder is asked what it is: a trip that spares
        the next try one."""
        found = None
        if key is not None and key[0] == k.ENTRY:
            try:
                (walked,) = await self._reading.run([Walk(key[1], [key[2]], xattrs=False, chunk=False)])
                found = tuple(walked.steps[0]) if walked.steps else (None, None)
            except MetaError:
                pass
        return Conflict(f"{error} (SQLSTATE {error.sqlstate})", key, found)

    async def _refuse(
        self, members: Group, works: Sequence[Work], error: Refused, answers: list[Any], again: list[Group]
    ) -> None:
        """Who is told what, and who may try again."""
        guilty = members.guilty(error.marks)
        if guilty:
            for member, conflict in guilty.items():
                answers[member] = conflict
            again += group([(m, works[m]) for m in members.members if m not in guilty])
        elif len(members.members) > 1 and error.sqlstate[:2] in ("21", "22", "23", "40"):
            for member in members.members:
                alone = Group()
                alone.add(member, works[member])
                again.append(alone)
        else:
            for member in members.members:
                if error.sqlstate in CONFLICTS:
                    answers[member] = await self._conflict(error, works[member].proven)
                else:
                    answers[member] = translate(error, self._where, "committing")


def _copy(error: MetaError) -> MetaError:
    """Each caller gets an exception of its own: a shared one would collect the tracebacks of all."""
    own = MetaError(str(error.strerror), retryable=error.retryable, errno=error.errno or 5, uncertain=error.uncertain)
    own.__cause__ = error.__cause__
    return own
