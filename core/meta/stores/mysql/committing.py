# SPDX-License-Identifier: Apache-2.0
"""Group commit: what many tasks commit at the same time is one transaction, and that is one packet.

The packet locks, verifies and writes; see `writing.py` for how a check stops it. If it stops, somebody's check failed
(or a name existed): then the records in question are read under locks and compared here, the guilty get their
Conflict, told what is there instead, and the rest is written: two more round trips, and nobody is blamed for another.

A deadlock rolls the whole packet back, and it is sent again. A commit whose connection died after it had been sent may
or may not have happened: it is never sent twice, and its callers are told so (`uncertain`). Source: semantics §1.6.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

from asyncmy import errors

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.records import Attr
from core.meta.store import EXACT, PATCH, PUT, PUT_NEW, Check, Outcome, Write
from core.meta.stores.batching import Batcher
from core.meta.stores.mysql import failures
from core.meta.stores.mysql.connection import REPEATABLE_READ, Connection, Pool, Result
from core.meta.stores.mysql.reading import Queries, node_or_none
from core.meta.stores.mysql.writing import Statement, Unverifiable, Writer
from core.meta.stores.sql.commits import Group, group
from core.meta.stores.sql.reads import ReadPlan
from core.meta.stores.sql.rows import identity
from core.meta.stores.sql.work import Work

#: Records of one transaction: longer ones keep others waiting for their locks.
MOST: Final = 512
_BEGIN: Final = b"START TRANSACTION"
_COMMIT: Final = b"COMMIT"
#: How often a transaction that lost a race is run again here, before its callers decide anew.
_TRIES: Final = 8


class Job:
    """One commit. started: it is on its way to the server."""

    __slots__ = ("checks", "started", "work", "writes")

    def __init__(self, checks: Sequence[Check], writes: Sequence[Write], max_id: int) -> None:
        self.checks = checks
        self.writes = writes
        self.work = Work(checks, writes, max_id)
        self.started = False


class _Uncertain(Exception):
    """The connection was lost when COMMIT may have been on its way."""


class Committer:
    """One per store. `commit` may be called by any number of tasks."""

    def __init__(self, pool: Pool, queries: Queries, writer: Writer, where: str) -> None:
        self._pool = pool
        self._queries = queries
        self._writer = writer
        self._where = where
        self._batcher: Batcher[Job, Outcome] = Batcher(self._run, most=MOST, weight=lambda job: job.work.weight)
        self.transactions = 0

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write], max_id: int) -> Outcome:
        """A caller that is cancelled leaves the queue; once its commit is under way, it waits for the end of it, so
        that nothing happens behind its back."""
        job = Job(checks, writes, max_id)
        future = self._batcher.submit(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if job.started:
                await asyncio.wait([future])
                if not future.cancelled():
                    future.exception()  # it has been looked at
            else:
                future.cancel()
            raise

    async def drain(self) -> None:
        await self._batcher.drain()

    async def _run(self, jobs: Sequence[Job]) -> list[Outcome | BaseException]:
        for job in jobs:
            job.started = True
        answers: dict[int, Outcome | BaseException] = {}
        for members in group([(i, job.work) for i, job in enumerate(jobs)], MOST):
            answers |= await self._transaction(members, jobs)
        return [answers[i] for i in range(len(jobs))]

    # -- one group ----------------------------------------------------------------------------------------------

    async def _transaction(self, members: Group, jobs: Sequence[Job]) -> dict[int, Outcome | BaseException]:
        """Every member's outcome or error."""
        careful, error, waited = False, BaseException(), False
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(random.uniform(0, 0.002) * attempt * attempt)  # noqa: S311
            try:
                async with self._pool.connection() as connection:
                    try:
                        if careful:
                            return await self._read_and_write(connection, members, jobs)
                        return await self._write(connection, members, verify=True)
                    except errors.MySQLError:
                        await connection.rollback()
                        raise
            except Unverifiable:
                careful, error = True, BaseException()
            except (_Uncertain, MetaError) as e:
                return {member: self._own(e) for member in members.members}
            except errors.MySQLError as e:
                error = e
                code = failures.code_of(e)
                if code in (failures.GUARD, failures.DUPLICATE):
                    careful = True
                elif code == failures.NEEDS_REPEATABLE_READ:
                    await self._pool.use(REPEATABLE_READ)
                elif code == failures.LOCK_WAIT:
                    if waited:  # everybody behind has waited long enough
                        return {member: self._own(e) for member in members.members}
                    waited = True
                elif not failures.is_lost(e) and not failures.is_race(e):
                    break
        if len(members.members) > 1 and isinstance(error, errors.MySQLError) and not failures.is_lost(error):
            # Somebody's value is refused, or the group always loses; alone, each gets its own answer.
            answers: dict[int, Outcome | BaseException] = {}
            for member in members.members:
                answers |= await self._transaction(_group([member], jobs), jobs)
            return answers
        if failures.is_race(error) or failures.code_of(error) == failures.GUARD:
            return {member: Conflict(f"lost {_TRIES} races: {error}") for member in members.members}
        return {member: self._own(error) for member in members.members}

    async def _write(
        self, connection: Connection, members: Group, *, verify: bool
    ) -> dict[int, Outcome | BaseException]:  # fmt: skip
        """The whole transaction; or, without `verify`, what is left of one that has begun."""
        steps = members.steps()
        statements = self._writer.verified(steps) if verify else self._writer.unverified(steps)
        texts = [statement.text for statement in statements]
        results = await self._send(connection, [_BEGIN, *texts, _COMMIT] if verify else [*texts, _COMMIT])
        self.transactions += 1
        _take(members, statements, results[1:] if verify else results)
        return dict(members.outcomes())

    async def _send(self, connection: Connection, texts: Sequence[bytes]) -> list[Result]:
        """Raises _Uncertain if the connection died while the COMMIT at the end may have been on its way."""
        results: list[Result] = []
        packets = connection.packets(texts)
        for i, packet in enumerate(packets):
            try:
                results += await connection.run(packet)
            except Exception as e:
                doubtful = failures.is_lost(e) and not failures.not_sent(e)
                if doubtful and i == len(packets) - 1:
                    raise _Uncertain from e
                raise
        return results

    # -- who it was ---------------------------------------------------------------------------------------------

    async def _read_and_write(
        self, connection: Connection, members: Group, jobs: Sequence[Job]
    ) -> dict[int, Outcome | BaseException]:
        """Lock and read, compare, write for those whose checks hold."""
        order = members.members
        wanted = [_wanted(jobs[member]) for member in order]
        plan = ReadPlan(wanted)
        questions = self._queries.statements(plan, lock=True)
        locks = [statement.text for statement in self._writer.locks(members.steps(), verify=False)]
        entries = list(dict.fromkeys(key[1:] for keys in wanted for key in keys if key[0] == k.ENTRY))
        nodes = [self._queries.nodes_of_entries(entries)] if entries else []
        results = await connection.run_all([_BEGIN, *locks, *(text for _, text in questions), *nodes])
        at = 1 + len(locks)
        for (shape, _), result in zip(questions, results[at:], strict=False):
            plan.take(shape, result.rows)
        behind = {(row[0], row[1]): node_or_none(row[2:]) for row in results[-1].rows} if entries else {}
        answers: dict[int, Outcome | BaseException] = {}
        innocent = []
        for member, values in zip(order, plan.answers(), strict=True):
            conflict = _conflict(jobs[member], values, behind)
            if conflict is None:
                innocent.append(member)
            else:
                answers[member] = conflict
        if not innocent:
            await connection.rollback()
            return answers
        return answers | await self._write(connection, _group(innocent, jobs), verify=False)

    def _own(self, error: BaseException) -> MetaError:
        """Each caller gets an exception of its own: a shared one would collect the tracebacks of all."""
        if isinstance(error, _Uncertain):
            text = (
                f"metadata {self._where}: the connection was lost during a commit; it may or may not have happened "
                f"({error.__cause__})"
            )
            return MetaError(text, retryable=True, uncertain=True)
        found = failures.translate(error, self._where, "committing")
        own = MetaError(str(found.strerror), retryable=found.retryable, errno=found.errno or 5)
        own.__cause__ = found.__cause__
        return own


def _group(members: Sequence[int], jobs: Sequence[Job]) -> Group:
    found = Group()
    for member in members:
        found.add(member, jobs[member].work)
    return found


def _take(members: Group, statements: Sequence[Statement], results: Sequence[Result]) -> None:
    for statement, result in zip(statements, results, strict=False):
        if statement.step is None:
            continue
        if statement.row is None:
            members.take(statement.step, result.rows)
        elif result.found:
            members.take(statement.step, [statement.row])


def _wanted(job: Job) -> list[k.Key]:
    """What decides about a commit: the records it checks, and the inodes that it changes blindly."""
    return [key for _, key, _ in job.checks] + _patched(job)


def _patched(job: Job) -> list[k.Key]:
    made = set()
    found = []
    for op, key, _ in job.writes:
        if op in (PUT, PUT_NEW):
            made.add(key)
        elif op == PATCH and key not in made:
            found.append(key)
    return found


def _conflict(job: Job, values: Sequence[Any], behind: dict[tuple[int, bytes], Attr | None]) -> Conflict | None:
    """What a check found instead of what was expected."""
    for (mode, key, seen), now in zip(job.checks, values, strict=False):
        if mode == EXACT:
            holds = now == seen or (not now and not seen and isinstance(now, dict))
        else:
            holds = now is not None and seen is not None and identity(now) == identity(seen)
        if not holds:
            found = None
            if key[0] == k.ENTRY:
                found = (None, None) if now is None else (now, behind.get(key[1:]))
            elif key[0] == k.NODE and now is not None:
                found = (None, now)
            return Conflict(f"{key} has changed", key, found)
    for key, now in zip(_patched(job), values[len(job.checks) :], strict=True):
        if now is None:
            return Conflict(f"inode {key[1]} is gone", key)
    return None
