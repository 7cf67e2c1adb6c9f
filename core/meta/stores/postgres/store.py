# SPDX-License-Identifier: Apache-2.0
"""The record store in a PostgreSQL database, shared with other processes and with live JuiceFS clients.

One trip per read and per commit. What many tasks ask for at the same time travels together (`reading.py`,
`committing.py`). Durability is the server's setting. Facts: format §1.9, §5; semantics §1.6.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import psycopg

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.store import PUT, Capabilities, Check, DirEntry, Outcome, RecordStore, Resolved, Write
from core.meta.stores.batching import Batcher
from core.meta.stores.postgres import schema
from core.meta.stores.postgres.arrays import INT8, TEXT, array, scalar
from core.meta.stores.postgres.committing import Committing
from core.meta.stores.postgres.failures import Refused, translate
from core.meta.stores.postgres.links import Links
from core.meta.stores.postgres.reading import Keys, Page, Reading, Request, Walk
from core.meta.stores.postgres.scanning import Scanning
from core.meta.stores.postgres.statements import Statements
from core.meta.stores.postgres.url import parse_url
from core.meta.stores.postgres.wire import Call, Statement
from core.meta.stores.sql.reads import ReadPlan
from core.meta.stores.sql.rows import COUNTER_START, SEQUENCES, logical_counter
from core.meta.stores.sql.tables import TABLES
from core.meta.stores.sql.work import Work

_CAPS: Final = Capabilities(max_id=0x7FFFFFFF, text_xattr_names=True)
#: Tables beyond this size are emptied by TRUNCATE, which locks out everybody but takes no time.
_LARGE_BYTES: Final = 64 << 20
_MOST_DRAWS: Final = 10
_INT64: Final = 1 << 63


class PostgresStore(RecordStore):
    """`open` an existing volume (older ones are brought up to date), or `open` and `prepare` a new one.

    A database without a volume reads as an empty store until somebody prepares it.
    """

    name = "postgres"
    caps = _CAPS

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = parse_url(url)
        self.where = self._url.where
        self._links: Links | None = None
        self._statements: Statements | None = None
        self._reading: Reading | None = None
        self._scanning: Scanning | None = None
        self._reads: Batcher[Request, Any] | None = None
        self._commits: Batcher[Work, Outcome] | None = None

    @classmethod
    def from_url(cls, url: str) -> PostgresStore:
        """`postgres://user:password@host:port/database?options`, see `url.py`."""
        return cls(url)

    # -- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._links is None:
            self._links = Links(self._url)
            try:
                await self._find(create=False)
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        for batcher in (self._reads, self._commits):
            if batcher is not None:
                await batcher.drain()
        if self._links is not None:
            self._links.close()
        self._links = self._statements = self._reading = self._scanning = self._reads = self._commits = None

    async def prepare(self) -> None:
        if self._links is None:
            raise self._closed()
        if self._statements is None or self._commits is None:
            await self._find(create=True)

    async def _find(self, *, create: bool) -> bool:
        """Look for the volume's tables; complete them if there are any, or if a volume shall be created."""
        links, url = self._links, self._url
        assert links is not None
        connection = await links.connect()
        try:
            home = await schema.find_schema(connection, url.prefix, url.schema, self.where)
            found = await schema.inspect(connection, home, url.prefix, self.where)
            names = schema.Names(home, url.prefix)
            if not schema.is_volume(found, url.prefix, self.where) and not create:
                return False
            if schema.missing_parts(found, names):
                found = await schema.complete(connection, names, self.where)
            names = await schema.full_names(connection, found, home, url.prefix)
        except psycopg.Error as e:
            state = e.sqlstate or "08000"
            message = e.diag.message_primary or str(e)
            raise translate(Refused(state, message), self.where, "looking at the tables") from e
        finally:
            await connection.close()
        self._start(names)
        return True

    def _start(self, names: schema.Names) -> None:
        links = self._links
        assert links is not None
        statements = self._statements = Statements(names)
        self.caps = _CAPS._replace(max_id=names.max_id)
        self._reading = Reading(links, statements, self.where)
        self._scanning = Scanning(self._reading, statements)
        self._reads = Batcher(self._reading.run, most=128, in_flight=2)
        self._commits = Batcher(
            Committing(links, statements, self._reading, self.where).run,
            most=512,
            in_flight=2,
            weight=lambda work: work.weight,
        )

    def _closed(self) -> MetaError:
        return MetaError(f"metadata {self.where}: the store is not open")

    async def _ready(self) -> bool:
        """Is there a volume? Asked again until there is: another client may just have formatted it."""
        if self._reads is not None:
            return True
        if self._links is None:
            raise self._closed()
        return await self._find(create=False)

    async def _require_ready(self) -> Statements:
        if not await self._ready() or self._statements is None:
            raise MetaError(f"metadata {self.where}: there is no volume yet; format it first")
        return self._statements

    def initial_counters(self) -> list[Write]:
        # What a new volume has besides its setting and nodes (format §5.3); nextSession is stored as 0, the last used.
        start = {"nextInode": 2, "nextChunk": 1, "nextSession": 1}
        zero = dict.fromkeys(("usedSpace", "totalInodes", "nextCleanupSlices"), 0)
        return [(PUT, k.counter(name), value) for name, value in {**start, **zero}.items()]

    async def wipe(self) -> None:
        self.trips += 1
        if not await self._ready():
            return
        statements, reading = self._statements, self._reading
        assert statements is not None and reading is not None
        sizes = [f"pg_relation_size({schema.literal(statements.table(t))}::regclass)" for t in TABLES]
        (((size,),),) = await reading.ask([Call(Statement(f"SELECT {' + '.join(sizes)}", []), [])], "looking")
        if size > _LARGE_BYTES:
            texts = [f"TRUNCATE {', '.join(map(statements.table, TABLES))}"]
        else:
            texts = [f"DELETE FROM {statements.table(table)}" for table in TABLES]  # noqa: S608 - our own names
        for table in SEQUENCES.values():
            texts.append(f"SELECT setval({schema.literal(statements.sequence(table))}::regclass, 1, false)")
        await reading.change([Call(Statement(text, []), []) for text in texts], "wiping", patient=True)

    # -- reading ------------------------------------------------------------------------------------------------

    async def read(self, *keys: Key) -> list[Any]:
        self.trips += 1
        if not keys:
            return []
        if self._reads is None and not await self._ready():
            return ReadPlan([keys]).answers()[0]
        assert self._reads is not None
        found: list[Any] = await self._reads.submit(Keys(keys))
        return found

    async def resolve(
        self, base: int, names: Sequence[bytes], *, xattrs: bool = False, chunk: bool = False
    ) -> Resolved:
        self.trips += 1
        if not -_INT64 <= base < _INT64 or (self._reads is None and not await self._ready()):
            return Resolved(None, [], None, None)
        assert self._reads is not None
        found: Resolved = await self._reads.submit(Walk(base, names, xattrs, chunk))
        return found

    async def list_entries(
        self, parent: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = False
    ) -> list[DirEntry]:
        self.trips += 1
        if not -_INT64 <= parent < _INT64 or (self._reads is None and not await self._ready()):
            return []
        assert self._reads is not None
        found: list[DirEntry] = await self._reads.submit(Page(parent, after, limit, attrs))
        return found

    async def scan(self, kind: str, start: Any = None) -> AsyncIterator[tuple[Key, Any]]:
        if not await self._ready():
            return
        assert self._scanning is not None
        pages = self._scanning.pages(kind, start)
        while True:
            self.trips += 1
            page = await anext(pages, None)
            if page is None:
                return
            for record in page:
                yield record

    # -- writing ------------------------------------------------------------------------------------------------

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        self.trips += 1
        if self._commits is None:
            await self._require_ready()
        assert self._commits is not None
        return await self._commits.submit(Work(checks, writes, self.caps.max_id))

    async def allocate(self, name: str, count: int) -> int:
        self.trips += 1
        statements = await self._require_ready()
        assert self._reading is not None
        if name in SEQUENCES:
            return await self._draw(name, count)
        parameters = [array(TEXT, [name.encode()]), array(INT8, [count]), array(INT8, [COUNTER_START.get(name, 0)])]
        (((after,),),) = await self._reading.change([Call(statements.allocate, parameters)], "allocating ids")
        return logical_counter(name, after - count)

    async def _draw(self, name: str, count: int) -> int:
        """From a sequence. Others draw from it, too; a run that they interrupted is thrown away."""
        assert self._statements is not None and self._reading is not None
        statement = self._statements.draw(name)
        for _ in range(_MOST_DRAWS):
            call = Call(statement, [scalar(INT8, count)])
            (((first, last),),) = await self._reading.change([call], "allocating ids")
            if last - first == count - 1:
                return int(first)
        raise MetaError(f"metadata {self.where}: {count} ids in a row from {name}: too much contention", retryable=True)

    async def gate(self, name: str, now: int, min_age_s: int) -> bool:
        self.trips += 1
        statements = await self._require_ready()
        assert self._reading is not None
        parameters = [array(TEXT, [name.encode()]), array(INT8, [now]), array(INT8, [now - min_age_s])]
        (rows,) = await self._reading.change([Call(statements.gate, parameters)], "taking a turn")
        return bool(rows)

    async def trim_log(self, upto: int) -> int:
        self.trips += 1
        statements = await self._require_ready()
        assert self._reading is not None
        (((count,),),) = await self._reading.change(
            [Call(statements.trim_log, [scalar(INT8, upto)])], "trimming", patient=True
        )
        return int(count)


__all__ = ["PostgresStore"]
