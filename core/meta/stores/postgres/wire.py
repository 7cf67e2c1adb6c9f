# SPDX-License-Identifier: Apache-2.0
"""One connection that never waits for an answer before it sends the next question: libpq's pipeline mode on asyncio.

A segment is a list of statements that ends with a Sync: one transaction without BEGIN and COMMIT, applied completely
or not at all (PostgreSQL manual, 34.5.1 and 55.2.4). Any number of segments may be on their way; answers come in
order. Statements are prepared on first use, in a segment of their own so that the failure of another leaves them be.

psycopg makes the connection (hosts, TLS, authentication); from then on we drive its libpq handle, because its own
pipelines wait for the end of each block, and decode rows by its C loaders.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import pq
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.types.string import ByteaBinaryLoader

from core.meta.stores.postgres.arrays import OIDS
from core.meta.stores.postgres.failures import Lost, Refused
from core.meta.stores.sql.rows import Row

#: A server that says nothing for so long, although somebody waits, hangs. Waiting for a lock ends earlier (`links.py`).
SILENCE_S = 60.0
_BINARY: Final = 1
_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_TUPLES: Final = pq.ExecStatus.TUPLES_OK
_COMMAND: Final = pq.ExecStatus.COMMAND_OK
_ABORTED: Final = pq.ExecStatus.PIPELINE_ABORTED


class Statement:
    """SQL text with its parameter types: arrays of an element type, or plain values (`=int8`)."""

    __slots__ = ("kinds", "name", "oids", "sql")
    _count = 0

    def __init__(self, sql: str, kinds: Sequence[str]) -> None:
        Statement._count += 1
        self.name = b"sluice%d" % Statement._count
        self.sql = sql.encode()
        self.kinds = tuple(kinds)
        self.oids = [OIDS[k[1:]][0] if k.startswith("=") else OIDS[k][1] for k in kinds]


class Call(NamedTuple):
    """A statement with its parameters in binary form."""

    statement: Statement
    parameters: Sequence[bytes]


class _Segment:
    __slots__ = ("count", "error", "future", "patient", "results", "statement")

    def __init__(
        self,
        future: asyncio.Future[list[Any]] | None,
        count: int = 1,
        statement: Statement | None = None,
        patient: bool = False,
    ) -> None:
        self.future = future
        self.count = count  # of statements
        self.patient = patient
        self.statement = statement  # of a segment that only prepares
        self.results: list[Any] = []
        self.error: Refused | None = None


def _loaders() -> AdaptersMap:
    """Text stays bytes, like everything that isn't a number."""
    adapters = AdaptersMap(psycopg.adapters)
    for name in ("text", "varchar", "bytea", "name", "bpchar"):
        adapters.register_loader(name, ByteaBinaryLoader)
    return adapters


_LOADERS: Final = _loaders()


class _Context:
    """What psycopg's transformer wants to know; no connection, because nothing in it depends on one."""

    adapters = _LOADERS
    connection = None


class Wire:
    """Owns an open connection. Use on the loop that made it."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection  # kept alive: it closes the handle when it is collected
        self._pg = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._fd = self._pg.socket
        self._pending: deque[_Segment] = deque()
        self._prepared: set[Statement] = set()
        self._transformer = Transformer(_Context())
        self._writing = False
        self._dirty = False
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.broken: str | None = None
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._fd, self._readable)

    @property
    def load(self) -> int:
        """Segments without an answer."""
        return len(self._pending)

    def alive(self) -> bool:
        """False if the server has hung up meanwhile; asked before something is sent that must not be sent twice."""
        if self.broken is None and not self._pending:
            self._readable()
        return self.broken is None

    def submit(self, calls: Sequence[Call], *, patient: bool = False) -> asyncio.Future[list[list[Row]]]:
        """Queue one segment; `flush` sends. The future has the rows of each statement, or Refused or Lost.

        patient: it may take long, so silence means nothing.
        """
        future: asyncio.Future[list[list[Row]]] = self._loop.create_future()
        if self.broken is not None:
            future.set_exception(Lost(self.broken, sent=False))
            return future
        pg = self._pg
        try:
            for call in calls:
                if call.statement not in self._prepared:
                    self._prepare(call.statement)
            for statement, parameters in calls:
                count = len(parameters)
                pg.send_query_prepared(statement.name, parameters, [_BINARY] * count, _BINARY)
            pg.pipeline_sync()
        except psycopg.Error as e:
            self._fail(str(e))
            future.set_exception(Lost(str(e), sent=True))
            return future
        self._pending.append(_Segment(future, len(calls), patient=patient))
        self._dirty = True
        if self._watch is None:
            self._heard = self._loop.time()
            self._watch = self._loop.call_later(SILENCE_S, self._listen)
        return future

    def _listen(self) -> None:
        """Is the server still there? Asked while somebody waits."""
        self._watch = None
        if not self._pending or self.broken is not None:
            return
        now = self._loop.time()
        if self._pending[0].patient:
            self._heard = now
        silent = now - self._heard
        if silent >= SILENCE_S:
            self._fail(f"the server has not answered for {silent:.0f} s")
        else:
            self._watch = self._loop.call_later(SILENCE_S - silent, self._listen)

    def _prepare(self, statement: Statement) -> None:
        self._pg.send_prepare(statement.name, statement.sql, statement.oids)
        self._pg.pipeline_sync()
        self._prepared.add(statement)
        self._pending.append(_Segment(None, 1, statement))

    def flush(self) -> None:
        if not self._dirty or self.broken is not None:
            return
        try:
            more = self._pg.flush()
        except psycopg.Error as e:
            self._fail(str(e))
            return
        if more and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)
        elif not more:
            self._dirty = False
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        # The server may block on sending answers that nobody reads; so read, too.
        self._readable()
        self.flush()

    # -- answers ------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        if self.broken is not None:
            return
        pg, pending = self._pg, self._pending
        reason = ""
        self._heard = self._loop.time()
        try:
            pg.consume_input()
        except psycopg.Error as e:
            reason = str(e)  # what arrived before may still be read
        try:
            idle = False
            while pending and not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    if idle:
                        break  # twice nothing: the answer is still on its way
                    idle = True
                    continue
                idle = False
                if not self._take(result):
                    break
        except psycopg.Error as e:
            reason = reason or str(e)
        if reason or pg.status == pq.ConnStatus.BAD:
            self._fail(reason or pg.get_error_message())

    def _take(self, result: Any) -> bool:
        """False: not the server's answer, but libpq telling that there will be none."""
        segment = self._pending[0]
        status = result.status
        if status == _SYNC:
            self._pending.popleft()
            self._finish(segment)
        elif status == _TUPLES:
            self._transformer.set_pgresult(result)
            segment.results.append(self._transformer.load_rows(0, result.ntuples, tuple))
        elif status == _COMMAND:
            segment.results.append([])
        elif status != _ABORTED and segment.error is None:
            state = result.error_field(pq.DiagnosticField.SQLSTATE)
            if state is None:
                return False
            message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"no message"
            segment.error = Refused(state.decode(), message.decode("utf-8", "replace"))
        return True

    def _finish(self, segment: _Segment) -> None:
        future, error = segment.future, segment.error
        if future is None:
            if error is not None and segment.statement is not None:
                self._prepared.discard(segment.statement)  # whoever executes it gets an error of its own
                user = next((s for s in self._pending if s.future is not None), None)
                if user is not None and user.error is None:
                    user.error = error
        elif not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(segment.results)

    def _fail(self, reason: str) -> None:
        """The connection is gone: nobody will hear the rest of the answers.

        A session that the server ended with an error (an administrator's shutdown, say) in the middle of a segment has
        not reached the Sync that would have committed it, nor anything behind.
        """
        if self.broken is not None:
            return
        reason = " ".join(reason.split()) or "the server closed the connection"
        self.broken = reason
        self._loop.remove_reader(self._fd)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        pending, self._pending = self._pending, deque()
        ended = False
        for segment in pending:
            if segment.error is not None and len(segment.results) < segment.count:
                ended, reason = True, str(segment.error)
            if segment.future is not None and not segment.future.done():
                segment.future.set_exception(Lost(reason, sent=not ended))
        self._pg.finish()

    def close(self) -> None:
        self._fail("the store was closed")
