# SPDX-License-Identifier: Apache-2.0
"""The record store in MySQL 8 and newer, MariaDB 10.2 and newer, or TiDB; shared with live JuiceFS clients.

Reads: what all tasks ask for in one turn of the loop leaves as one packet of set-based queries, inside one snapshot
where somebody asked for more than one statement. Commits: `committing.py`, one packet too. `trips` counts what callers
wait for: one per call. A commit that loses a race takes up to two more, a repetition after an outage isn't counted
either, and a value beyond max_allowed_packet takes several packets.

Facts: format §1.9, §5.1–5.5; semantics §1.6.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from asyncmy import errors

from core.errors import MetaError, VolumeError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.store import PUT, Capabilities, Check, DirEntry, Outcome, RecordStore, Resolved, Write
from core.meta.stores.batching import Batcher
from core.meta.stores.mysql import failures, schema
from core.meta.stores.mysql.committing import Committer
from core.meta.stores.mysql.connection import READ_COMMITTED, Pool, Result
from core.meta.stores.mysql.literals import Names, text
from core.meta.stores.mysql.reading import WALK_AT_ONCE, Queries, listed, resolved
from core.meta.stores.mysql.scanning import Scanner
from core.meta.stores.mysql.url import MySQLURL, parse_url
from core.meta.stores.mysql.writing import Writer
from core.meta.stores.sql.reads import ReadPlan
from core.meta.stores.sql.rows import COUNTER_OFFSET, COUNTER_START, SEQUENCES, Row
from core.meta.stores.sql.tables import TABLES, full_prefix

T = TypeVar("T")

_SNAPSHOT: Final = b"START TRANSACTION WITH CONSISTENT SNAPSHOT"
#: Keys and walks in one packet; and packets under way at once, so that one is answered while the next is built.
_MOST_READS: Final = 512
_PACKETS: Final = 2
_READ_TRIES: Final = 3
#: A table up to this many rows is emptied by DELETE, a larger one by TRUNCATE, which is slow but never slower.
_SMALL_TABLE: Final = 10_000
_TRIM_AT_ONCE: Final = 5_000
_OLDEST: Final = {"mysql": (8, 0), "mariadb": (10, 2)}


class _Question(NamedTuple):
    """One caller's read: keys, or a walk, or statements of its own; statements go with a walk, too."""

    keys: Sequence[Key] = ()
    texts: Sequence[bytes] = ()
    walk: tuple[int, Sequence[bytes]] | None = None


class MySQLStore(RecordStore):
    """`open` an existing volume (older ones are completed), or `open` and `prepare` a new one.

    A database without tables reads as an empty store until `prepare` creates them.
    """

    name = "mysql"
    caps = Capabilities(max_id=schema.INT32_MAX, text_xattr_names=True, max_xattr=schema.BLOB_MAX)

    def __init__(self, url: MySQLURL) -> None:
        super().__init__()
        self._url = url
        self._prefix = full_prefix(url.table_prefix)
        self._names = Names(self._prefix)
        self._queries = Queries(self._names)
        self._writer = Writer(self._names)
        self._pool = Pool(url)
        # Commits go one after the other; ids are reserved beside them.
        self._write_pool = Pool(url, READ_COMMITTED, most=2 if url.connections > 1 else 1)
        self._committer = Committer(self._write_pool, self._queries, self._writer, url.where)
        self._scanner = Scanner(self._names, self._ask_one)
        self._reads: Batcher[_Question, list[Any]] = Batcher(
            self._read_batch, most=_MOST_READS, in_flight=_PACKETS, weight=_weight
        )
        self._ready = False

    @classmethod
    def from_url(cls, url: str) -> MySQLStore:
        """`mysql://user:password@(host:port)/database?options`, see `url.py`."""
        return cls(parse_url(url))

    @property
    def transactions(self) -> int:
        """Transactions committed by this store: fewer than its commits, thanks to grouping."""
        return self._committer.transactions

    # -- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self._pool.open()
        await self._write_pool.open(prove=False)
        try:
            self._require_version()
            await self._look(create=False)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._reads.drain()
        await self._committer.drain()
        await self._write_pool.close()
        await self._pool.close()
        self._ready = False

    async def prepare(self) -> None:
        if not self._ready:
            await self._look(create=True)

    def _require_version(self) -> None:
        """Walking paths needs recursive queries."""
        version = self._pool.version
        kind = "mariadb" if "mariadb" in version.lower() else "mysql"
        found = re.findall(r"(\d+)\.(\d+)", version.removeprefix("5.5.5-"))
        if found and "tidb" not in version.lower() and tuple(map(int, found[0])) < _OLDEST[kind]:
            raise VolumeError(
                f"{self._url.where}: server {version} is too old; use MySQL 8.0, MariaDB 10.2 or anything newer"
            )

    async def _look(self, *, create: bool) -> None:
        """Is there a volume? Complete what an older version lacks, or all of it with `create`."""
        self._ready = False
        found = await self._catalogue()
        if not found.is_volume() and not create:
            return
        missing = found.missing()
        if missing:
            async with self._pool.connection() as connection:
                for statement in missing:
                    try:
                        await connection.run(statement, patient=True)
                    except errors.MySQLError as e:
                        if failures.code_of(e) not in schema.ALREADY_THERE:  # another client does the same
                            raise failures.translate(e, self._url.where, "creating tables") from e
            found = await self._catalogue()
        limits = found.limits()
        self.caps = MySQLStore.caps._replace(max_id=limits.max_id, max_xattr=limits.max_xattr)
        for table, index in found.unique_indexes().items():
            self._names.use_index(table, index)
        self._ready = True

    async def _catalogue(self) -> schema.Catalogue:
        results = await self._execute(schema.QUERIES, "reading the catalogue")
        return schema.Catalogue(self._prefix, self._url.where, [result.rows for result in results])

    async def _require_volume(self) -> None:
        if not self._ready:
            await self._look(create=False)
        if not self._ready:
            raise MetaError(f"metadata {self._url.where}: there is no volume yet; format it first")

    def initial_counters(self) -> list[Write]:
        # Logical values; nextSession is stored as 0, the last id used (format §5.3).
        start = {"nextInode": 2, "nextChunk": 1, "nextSession": 1}
        zero = dict.fromkeys(("usedSpace", "totalInodes", "nextCleanupSlices"), 0)
        return [(PUT, k.counter(name), value) for name, value in {**start, **zero}.items()]

    async def wipe(self) -> None:
        self.trips += 1
        await self._look(create=False)
        if not self._ready:
            return
        tables = {name: self._names.table[name] for name in TABLES}
        sizes = b" UNION ALL ".join([
            b"SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM %s LIMIT %d) t)" % (table, _SMALL_TABLE)
            for table in tables.values()
        ])  # fmt: skip
        ids = [k.counter(name) for name in SEQUENCES]
        (counts,) = await self._execute([sizes], "wiping")
        used = dict(zip(SEQUENCES.values(), await self.read(*ids), strict=True))
        self.trips -= 1
        statements = []
        for (name, table), (count,) in zip(tables.items(), counts.rows, strict=True):
            if count >= _SMALL_TABLE or used.get(name, 1) > 1:  # TRUNCATE alone starts ids anew
                statements.append(b"TRUNCATE TABLE " + table)
            elif count:
                statements.append(b"DELETE FROM " + table)
        if statements:
            await self._execute(statements, "wiping", once=True)

    # -- reading ------------------------------------------------------------------------------------------------

    async def read(self, *keys: Key) -> list[Any]:
        if not keys:
            return []
        self.trips += 1
        return await self._reads.submit(_Question(keys))

    async def resolve(
        self, base: int, names: Sequence[bytes], *, xattrs: bool = False, chunk: bool = False
    ) -> Resolved:
        self.trips += 1
        if len(names) > WALK_AT_ONCE:
            return await self._resolve_far(base, names, xattrs, chunk)
        texts = []
        if xattrs or chunk:
            end = self._queries.end_of_walk(base, names)
            texts += [self._queries.xattrs_at(end)] if xattrs else []
            texts += [self._queries.first_chunk_at(end)] if chunk else []
        found = await self._reads.submit(_Question((), texts, (base, names)))
        if not found:
            return Resolved(None, [], None, None)
        return resolved(found[0], len(names), found[1] if xattrs else None, found[-1] if chunk else None)

    async def _resolve_far(self, base: int, names: Sequence[bytes], xattrs: bool, chunk: bool) -> Resolved:
        """One more round trip per 500 names."""
        first = await self.resolve(base, names[:WALK_AT_ONCE])
        if len(first.steps) < WALK_AT_ONCE:
            return first
        rest = await self.resolve(first.steps[-1].entry.ino, names[WALK_AT_ONCE:], xattrs=xattrs, chunk=chunk)
        return Resolved(first.base, first.steps + rest.steps, rest.xattrs, rest.chunk)

    async def list_entries(
        self, parent: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = False
    ) -> list[DirEntry]:
        self.trips += 1
        found = await self._ask(self._queries.page(parent, after, limit, attrs))
        return listed(found[0]) if found else []

    def scan(self, kind: str, start: Any = None) -> AsyncIterator[tuple[Key, Any]]:
        return self._scanner.scan(kind, start)

    async def _ask_one(self, question: bytes) -> Sequence[Row]:
        """A page of a scan."""
        self.trips += 1
        found = await self._ask(question)
        return found[0] if found else []

    async def _ask(self, *texts: bytes) -> list[Sequence[Row]]:
        """Rows of each statement, all in one snapshot; nothing at all if there is no volume."""
        return await self._reads.submit(_Question((), texts))

    async def _read_batch(self, questions: Sequence[_Question]) -> list[list[Any] | BaseException]:
        if not self._ready:
            await self._look(create=False)
        plan = ReadPlan([question.keys for question in questions])
        if not self._ready:
            return list[list[Any] | BaseException](plan.answers())
        shaped = self._queries.statements(plan)
        texts = [statement for _, statement in shaped]
        walks = [question.walk for question in questions if question.walk is not None]
        if walks:
            texts.append(self._queries.walks(walks))
        first = at = len(texts)
        # Whoever needs several statements gets one snapshot for all of them.
        snapshot = len(shaped) > 1
        for question in questions:
            texts += question.texts
            snapshot = snapshot or len(question.texts) + (question.walk is not None) > 1
        if not texts:  # names that can't exist
            return list[list[Any] | BaseException](plan.answers())
        if snapshot:
            texts = [_SNAPSHOT, *texts, b"COMMIT"]
        results = (await self._execute(texts, "reading"))[int(snapshot) :]
        for (shape, _), result in zip(shaped, results, strict=False):
            plan.take(shape, result.rows)
        steps: list[list[Row]] = [[] for _ in walks]
        if walks:
            for row in results[first - 1].rows:
                steps[row[0]].append(row)
        walked = iter(steps)
        answers: list[list[Any] | BaseException] = []
        for question, values in zip(questions, plan.answers(), strict=True):
            answer: list[Any] = values if question.keys else []
            if question.walk is not None:
                answer.append(next(walked))
            answer += [result.rows for result in results[at : at + len(question.texts)]]
            at += len(question.texts)
            answers.append(answer)
        return answers

    async def _execute(
        self, texts: Iterable[bytes], doing: str, *, pool: Pool | None = None, once: bool = False
    ) -> list[Result]:
        """Statements that may be repeated if the connection breaks; with `once`, if they were never sent, and take
        their time."""
        lost: BaseException = BaseException()
        for _ in range(_READ_TRIES):
            try:
                async with (pool or self._pool).connection() as connection:
                    try:
                        return await connection.run_all(list(texts), patient=once)
                    except errors.MySQLError:
                        await connection.rollback()
                        raise
            except errors.MySQLError as e:
                lost = e
                if not failures.is_lost(e) or (once and not failures.not_sent(e)):
                    break
        raise failures.translate(lost, self._url.where, doing) from lost

    # -- writing ------------------------------------------------------------------------------------------------

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        if not self._ready:
            await self._require_volume()
        self.trips += 1
        return await self._committer.commit(checks, writes, self.caps.max_id)

    async def allocate(self, name: str, count: int) -> int:
        await self._require_volume()
        self.trips += 1
        if name in SEQUENCES:
            statements = [statement.text for statement in self._writer.reserve(name, count)]
            results = await self._execute(
                [b"START TRANSACTION", *statements, b"COMMIT"], "allocating ids", pool=self._write_pool
            )
            return results[1].insert_id
        # LAST_INSERT_ID(x) hands x back with the answer: no second look, no race.
        start = COUNTER_START.get(name, 0)
        head = b"INSERT INTO %s (name,value) VALUES (%s,LAST_INSERT_ID(%d))" % (
            self._names.table["counter"], text(name.encode()), start + count,
        )  # fmt: skip
        tail = b" ON DUPLICATE KEY UPDATE value=LAST_INSERT_ID(value+%d)" % count
        (result,) = await self._execute([head + tail], "allocating ids", pool=self._write_pool)
        return result.insert_id - count + COUNTER_OFFSET.get(name, 0)

    async def gate(self, name: str, now: int, min_age_s: int) -> bool:
        await self._require_volume()
        self.trips += 1
        table, key = self._names.table["counter"], text(name.encode())
        there = b"INSERT INTO %s (name,value) VALUES (%s,0) ON DUPLICATE KEY UPDATE value=value" % (table, key)
        passes = b"UPDATE %s SET value=%d WHERE name=%s AND value<=%d" % (table, now, key, now - min_age_s)
        results = await self._execute([there, passes], "opening a gate", pool=self._write_pool)
        return results[1].found > 0

    async def trim_log(self, upto: int) -> int:
        await self._require_volume()
        removed = 0
        statement = b"DELETE FROM %s WHERE id<=%d LIMIT %d" % (self._names.table["change_log"], upto, _TRIM_AT_ONCE)
        while True:
            self.trips += 1
            (result,) = await self._execute([statement], "trimming the change log", pool=self._write_pool)
            removed += result.found
            if result.found < _TRIM_AT_ONCE:
                return removed
            await asyncio.sleep(0)


def _weight(question: _Question) -> int:
    return len(question.keys) + len(question.texts) + (len(question.walk[1]) if question.walk else 0)
