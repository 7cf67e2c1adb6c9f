# SPDX-License-Identifier: Apache-2.0
"""A connection to a TiKV cluster: reads of committed data, transactions, and coming back after an outage.

Around tikv-client 0.0.4, whose habits shape this file (all observed, with the versions named in `failures`):

- Nothing hangs if a server is gone: calls fail at once. A server that is there but silent is another matter, so every
  wait is bounded here. A call that took too long is left to itself, never cancelled: the library's future would be
  dropped in the middle, and with it perhaps a transaction that holds locks.
- The stream of timestamps from PD doesn't come back once it broke (PD restarted, or another became leader): only a new
  client does. Stores (TiKV itself) reconnect by themselves.
- A transaction that is neither committed nor rolled back panics in Rust when it is collected, and aborts the process
  at interpreter exit. `RawTransaction` therefore ends every one; one whose outcome is unknown is kept for ever instead,
  because a rollback could remove the locks of a commit that did happen.
- A call that is under way when the event loop closes or the interpreter exits does harm then. `close` waits for them
  all, `leaving` sees to it that the process can exit.
- Every `put` and `delete` is a future of its own that crosses to a Rust thread and back, 20 µs with uvloop and 100 µs
  with plain asyncio. They are started together and awaited together.
- A snapshot at a timestamp in the future would spoil one-phase commits of the whole cluster, and 2**64-1 ("latest",
  which other clients use for single keys) is refused by the library. So a read asks PD for a timestamp first.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from core.meta.stores.kv.driver import Pair, Range
from core.meta.stores.tikv import failures, leaving
from core.meta.stores.tikv.failures import Unreachable
from core.meta.stores.tikv.library import Calls, Client, Source
from core.meta.stores.tikv.url import TiKVURL

T = TypeVar("T")

log = logging.getLogger(__name__)

#: One call. A leader election takes two to three seconds, a lock of a dead client is waited for three seconds.
CALL_TIMEOUT_S = 10.0
#: More for a commit, per record. Some 2 ms on a busy machine; the library sends large commits in many small messages.
PER_WRITE_S: Final = 0.01
#: How long `close` waits for calls that nobody waits for any more. Most are there within milliseconds.
DRAIN_S = 3.0
#: How long a call is tried again while the cluster can't be reached.
PATIENCE_S = 5.0
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5

#: Keys of one request. The library takes no answer above 4 MiB; where values are that large, requests are halved.
MOST_KEYS: Final = 4096


class Connection:
    """Everything here may raise `Unreachable`; nothing else."""

    def __init__(self, url: TiKVURL) -> None:
        self.url = url
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._calls = Calls()

    async def open(self) -> None:
        try:
            await self._connect(None)
        except BaseException:
            await self.close(0)
            raise

    async def close(self, patience_s: float | None = None) -> None:
        """Returns when no call is under way; ends those that take longer than patience_s, DRAIN_S unless told.

        The library has no close; dropping the client ends its connections.
        """
        self._client = None
        await self._calls.drain(DRAIN_S if patience_s is None else patience_s)
        leaving.closed()

    async def _connect(self, failed: Client | None) -> Client:
        """A client other than `failed`; one task connects, the others wait for it."""
        async with self._connecting:
            if self._client is None or self._client is failed:
                try:
                    self._client = Client(await within(Client.connect(self.url.endpoints, self._calls)), self._calls)
                except Exception as e:
                    raise as_unreachable(e) from e
            return self._client

    async def call(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """`work(client)`, which changes nothing, until it succeeds; Unreachable after PATIENCE_S of failures."""
        deadline = time.monotonic() + PATIENCE_S
        pause = FIRST_PAUSE_S
        client = self._client
        while True:
            try:
                client = client or await self._connect(None)
                return await work(client)
            except Exception as e:
                if time.monotonic() + pause > deadline:
                    raise as_unreachable(e) from e
                log.debug("%s: a call failed and will be tried again: %s", self.url.where, failures.plain(e))
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(pause * 2, LONGEST_PAUSE_S)
            try:
                client = await self._connect(client)
            except Unreachable as e:
                if time.monotonic() + pause > deadline:
                    raise
                log.debug("%s: no connection, next try soon: %s", self.url.where, e)

    # -- reading committed data ------------------------------------------------------------------------------------

    async def timestamp(self) -> int:
        """A timestamp of the cluster, unique and later than every commit that was acknowledged before."""
        now: int = await self.call(lambda client: within(client.current_timestamp()))
        return now

    async def snapshot(self, client: Client) -> Source:
        """What is committed now."""
        return client.snapshot(await within(client.current_timestamp()))

    async def collect_garbage(self, before: int) -> None:
        """Let the cluster forget versions that nobody reads at or after this timestamp."""
        await self.call(lambda client: client.gc(before))


class RawTransaction:
    """One optimistic transaction, in use by one task; end it with `commit` or `abandon`. source: to read from."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._inner = source.inner
        self._watch = source.watch
        self._pending: list[asyncio.Future[Any]] = []
        self._ended = False

    @classmethod
    async def begin(cls, client: Client) -> RawTransaction:
        begun = client.begin()
        try:
            return cls(client.source(await within(begun)))
        except BaseException:
            begun.add_done_callback(functools.partial(_roll_back_late, client))
            raise

    def __del__(self) -> None:
        """Of a task that never went on, because its event loop was closed."""
        if not self._ended:
            self._keep()

    def put(self, key: bytes, value: bytes) -> None:
        """Buffered; `commit` sends it. A key may be put, deleted or locked once per transaction."""
        self._pending.append(self._watch(self._inner.put(key, value)))

    def delete(self, key: bytes) -> None:
        self._pending.append(self._watch(self._inner.delete(key)))

    def lock(self, keys: Iterable[bytes]) -> None:
        """The commit fails if another transaction writes one of these keys; they need not exist."""
        wanted = list(keys)
        if wanted:
            self._pending.append(self._watch(self._inner.lock_keys(wanted)))

    async def commit(self) -> None:
        """Two-phase commit. Ends the transaction, whatever comes out; `failures` tells what an error means."""
        try:
            for future in self._pending:
                if not future.done():
                    await within(future)
            for future in self._pending:
                future.result()
        except BaseException:
            await self.abandon()
            raise
        committing = self._watch(self._inner.commit())
        try:
            await within(committing, len(self._pending) * PER_WRITE_S)
        except BaseException as e:
            if isinstance(e, Exception) and failures.surely_not_committed(e):
                await self.abandon()
            else:
                self._keep()
            raise
        self._ended = True

    async def abandon(self) -> None:
        """Roll back, unless it has ended. Locks that can't be removed now expire after three seconds."""
        if self._ended:
            return
        self._ended = True
        for future in self._pending:
            _ignore(future)
        try:
            await within(self._watch(self._inner.rollback()))
        except BaseException as e:
            self._keep()
            if not isinstance(e, Exception):
                raise
            log.debug("rolling back a transaction failed; its locks expire: %s", failures.plain(e))

    def _keep(self) -> None:
        """Never collect it: a reference that nobody gives back. A few kilobytes, only after an answer was lost."""
        self._ended = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._inner))


async def get_from(source: Source, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """From a snapshot or a transaction. An empty value reads as missing, as the format has it (§6.3)."""
    if len(keys) == 1:
        value = await within(source.get(keys[0]))
        return {keys[0]: value} if value else {}
    if len(keys) <= MOST_KEYS:
        try:
            return dict(await within(source.batch_get(keys)))
        except Exception as e:
            if not failures.is_long_answer(e):
                raise
    half = max(1, min(MOST_KEYS, len(keys) // 2))
    found: dict[bytes, bytes] = {}
    for at in range(0, len(keys), half):
        found.update(await get_from(source, keys[at : at + half]))
    return found


async def scan_from(source: Source, asked: Range) -> list[Pair]:
    """From a snapshot or a transaction; values are b"" if only keys are wanted."""
    found: list[Pair] = []
    start, most = asked.start, MOST_KEYS
    while True:
        page = min(most, asked.limit - len(found)) if asked.limit else most
        try:
            if asked.keys_only:
                more = [(key, b"") for key in await within(source.scan_keys(start, asked.end, page))]
            else:
                more = list(await within(source.scan(start, asked.end, page)))
        except Exception as e:
            if page == 1 or not failures.is_long_answer(e):
                raise
            most = page // 2
            continue
        found += more
        if len(more) < page or len(found) == asked.limit:
            return found
        start = more[-1][0] + b"\0"


async def within(call: Awaitable[T], more_s: float = 0.0) -> T:
    """The result, or TimeoutError; the call itself goes on unobserved then, and when the caller is cancelled."""
    future = asyncio.ensure_future(call)
    seconds = CALL_TIMEOUT_S + more_s
    if not future.done():
        try:
            await asyncio.wait((future,), timeout=seconds)
        finally:
            _ignore(future)  # also if it is done already: the caller may be cancelled in the same moment
    if not future.done():
        raise TimeoutError(f"no answer in {seconds:g} s")
    return future.result()


def as_unreachable(error: Exception) -> Unreachable:
    return error if isinstance(error, Unreachable) else Unreachable(failures.plain(error))


def _ignore(future: asyncio.Future[Any]) -> None:
    """An exception that nobody waits for any more is no news."""
    if future.done():
        _forget(future)
    else:
        future.add_done_callback(_forget)


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _roll_back_late(client: Client, begun: asyncio.Future[Any]) -> None:
    """A transaction that began after its caller had given up."""
    if not begun.cancelled() and begun.exception() is None:
        raw = RawTransaction(client.source(begun.result()))
        raw._keep()
        raw._watch(raw._inner.rollback()).add_done_callback(_forget)
