# SPDX-License-Identifier: Apache-2.0
"""Group commit: who writes when, and on which thread.

Statements run on the event loop, where handing them over costs nothing; only what may be slow, a BEGIN IMMEDIATE that
has to wait for another process and every COMMIT (fsync), runs in one dedicated thread. The loop and the thread never
touch the connection at the same time: `_state` says whose it is. While a COMMIT is on its way new work queues up and
becomes the next group. Nobody gets an answer before the COMMIT that covers it has returned.

    idle → scheduled → (begin in thread) → executing, in slices → commit in thread → scheduled or idle
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

from core.errors import Conflict, MetaError
from core.meta.stores.sqlite.failures import TRANSLATED, is_busy, translate
from core.meta.stores.sqlite.group import Group
from core.meta.stores.sqlite.reader import Reader
from core.meta.stores.sqlite.turn import Turn

#: A group is closed at this size, so that its first member doesn't wait for ever under load.
MAX_GROUP: Final = 256
#: Longest time the loop executes statements without letting other tasks run.
SLICE_S: Final = 0.005

Work = Callable[[Group], Any]


class Writer:
    """Owns the writing connection. Create, use and close it on one event loop."""

    def __init__(self, conn: sqlite3.Connection, reader: Reader, turn: Turn, path: str, busy_timeout_ms: int) -> None:
        self._conn = conn
        self._reader = reader
        self._turn = turn
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._running = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._group: Group | None = None
        self._members: list[tuple[asyncio.Future[Any], Any]] = []  # executed, with their answers
        self._refused: list[tuple[asyncio.Future[Any], Conflict]] = []  # conflicts behind a member
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[BaseException | None], None]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="sluice-sqlite-commit", daemon=True)
        self._thread.start()
        self.commits = 0  # transactions ended by COMMIT

    def run(self, work: Work) -> asyncio.Future[Any]:
        """Execute `work` in the next group. The future has its result once that is durable; a cancelled future
        is left out if its turn has not come yet."""
        future = self._loop.create_future()
        self._queue.append((work, future))
        if not self._running:
            self._running = True
            self._idle.clear()
            # Tasks that are ready in this loop turn join the group.
            self._loop.call_soon(self._begin)
        return future

    async def close(self) -> None:
        """Finish what is queued, then stop the thread. The connection stays open."""
        await self._idle.wait()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- the thread ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, then = job
            error: BaseException | None = None
            try:
                work()
            except BaseException as e:  # handed to the loop
                error = e
            try:
                self._loop.call_soon_threadsafe(then, error)
            except RuntimeError:
                return  # the loop was closed under us; nobody is left to be told

    # -- begin --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Usually nobody else writes: then this takes microseconds, and no thread."""
        if self._turn.try_acquire():
            try:
                self._conn.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as e:
                if not is_busy(e):
                    self._began(e)
                    return
                # Another client's transaction; keep the turn and wait for it.
                self._jobs.put((self._begin_waiting, self._began))
            else:
                self._began(None)
        else:
            self._jobs.put((self._wait_and_begin, self._began))

    def _wait_and_begin(self) -> None:
        self._turn.acquire(self._busy_timeout_ms / 1000)
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        execute = self._conn.execute
        execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms:d}")
        try:
            execute("BEGIN IMMEDIATE")
        finally:
            execute("PRAGMA busy_timeout = 0")

    def _began(self, error: BaseException | None) -> None:
        if error is not None:
            self._turn.release()
            waiting, self._queue = self._queue, deque()
            failure = translate(error, self._path, "beginning a transaction")
            for _, future in waiting:
                _fail(future, failure)
            self._next()
            return
        self._group = Group(self._conn, self._reader)
        self._execute()

    # -- execute ------------------------------------------------------------------------------------------------

    def _execute(self) -> None:
        """One slice on the loop: everything queued, within the limits."""
        group, members, todo = self._group, self._members, self._queue
        assert group is not None
        until = perf_counter() + SLICE_S
        while todo and len(members) < MAX_GROUP:
            work, future = todo.popleft()
            if future.done():
                continue  # cancelled while it waited
            try:
                answer = work(group)
            except Conflict as e:
                if members:
                    # It may tell of what this group has written and nobody else can read yet: who hears "it exists"
                    # now and looks would find nothing.
                    self._refused.append((future, e))
                else:
                    future.set_exception(e)
            except Exception as e:
                _fail(future, translate(e, self._path, "writing") if isinstance(e, TRANSLATED) else e)
                if not self._conn.in_transaction:  # SQLite has given up the whole transaction
                    self._ended(e)
                    return
            else:
                members.append((future, answer))
            if todo and perf_counter() > until:
                self._loop.call_soon(self._execute)
                return
        if not members:
            # Conflicts and cancellations only: nothing to keep.
            try:
                self._conn.execute("ROLLBACK")
            except sqlite3.Error:
                pass
            self._turn.release()
            self._next()
            return
        try:
            group.flush()
        except Exception as e:
            self._jobs.put((self._rollback, lambda _, cause=e: self._ended(cause)))  # type: ignore[misc]
            return
        self._jobs.put((self._commit, self._ended))

    def _commit(self) -> None:
        try:
            self._conn.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        if self._conn.in_transaction:
            self._conn.execute("ROLLBACK")

    # -- answer -------------------------------------------------------------------------------------------------

    def _ended(self, error: BaseException | None) -> None:
        self._turn.release()
        members, self._members = self._members, []
        refused, self._refused = self._refused, []
        if error is None:
            self.commits += 1
            for future, answer in members:
                if not future.done():
                    future.set_result(answer)
            for future, conflict in refused:
                if not future.done():
                    future.set_exception(conflict)
        else:
            failure = translate(error, self._path, "committing")
            for future, _ in members:
                _fail(future, failure)
            for future, _ in refused:
                _fail(future, failure)  # what it conflicted with may not exist
        self._next()

    def _next(self) -> None:
        self._group = None
        if self._queue or self._members:
            self._loop.call_soon(self._begin)
        else:
            # After the answers' callbacks: tasks that commit again at once become one group.
            self._loop.call_soon(self._rest)

    def _rest(self) -> None:
        if self._queue:
            self._begin()
        else:
            self._running = False
            self._idle.set()


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Each caller gets an exception of its own: a shared one would collect the tracebacks of all."""
    if future.done():
        return
    if isinstance(error, MetaError):
        own = MetaError(str(error.strerror), retryable=error.retryable, errno=error.errno or 5)
        own.__cause__ = error.__cause__
        error = own
    future.set_exception(error)
