# SPDX-License-Identifier: Apache-2.0
"""Wait for a metadata server that went away, instead of failing what waits for it.

For clients whose callers expect a disk: a mount. Reads and commits that surely didn't happen are tried again until the
store answers or the limit is over. A commit whose answer was lost is looked for (`RecordStore._was_applied`); if what
it wrote is provably not there, the transaction runs again, else the error goes to the caller, who alone knows what a
second try may do. Engines try again by themselves for some seconds; this is about minutes.
Source: semantics §1.6 (an operation ends in success, an answer, or an error after its patience).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from core.errors import MetaError
from core.meta.store import _PROVES, APPEND, DELETE, PATCH, PUT, RecordStore, Tx

log = logging.getLogger("sluice.meta")

_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 2.0
#: A commit that was on its way when the connection broke may still be carried out; the server reads what it has
#: received within moments.
_SETTLE_S: Final = 1.0
_RETRIED: Final = ("read", "resolve", "resolve_many", "list_entries", "commit", "allocate", "gate", "transact")


class _Absent(MetaError):
    """A commit whose answer was lost did not happen."""


#: Tasks between two tries.
_waiting: set[asyncio.Task[Any] | None] = set()


def is_waiting(task: asyncio.Task[Any]) -> bool:
    """Does it wait for a store that is away, with nothing of its call sent? Then cancelling it changes nothing."""
    return task in _waiting


def make_patient(store: RecordStore, limit_s: float) -> None:
    """Every later call of this store object outlasts an outage of up to `limit_s` seconds."""
    if limit_s <= 0:
        return
    was_applied = store._was_applied
    told = _Told()

    async def looked_for(tx: Tx, error: MetaError) -> bool:
        if await was_applied(tx, error):
            return True
        if not _leaves_proof(tx):
            return False
        await asyncio.sleep(_SETTLE_S)
        if await was_applied(tx, error):
            return True
        raise _Absent(str(error.strerror), retryable=True) from error

    store._was_applied = looked_for  # type: ignore[method-assign]
    for name in _RETRIED:
        setattr(store, name, _patient(getattr(store, name), limit_s, told))


def _leaves_proof(tx: Tx) -> bool:
    """Would `_was_applied` have found something that only this transaction writes?"""
    wanted = set()
    for op, key, value in tx.writes:
        if op == APPEND:
            return True
        if op == PUT and value is not None and key[0] in _PROVES:
            wanted.add(key)
        elif op in (PATCH, DELETE):
            wanted.discard(key)
    return bool(wanted)


class _Told:
    """The log hears of an outage once, however many wait."""

    def __init__(self) -> None:
        self.waiting = 0

    def waits(self, error: MetaError, limit_s: float) -> None:
        self.waiting += 1
        if self.waiting == 1:
            log.warning("metadata: %s; requests wait up to %g s for it", error.strerror, limit_s)

    def over(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            log.warning("metadata: no request waits any more")


def _patient(method: Callable[..., Awaitable[Any]], limit_s: float, told: _Told) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await method(*args, **kwargs)
        except MetaError as e:
            if not _again(e):
                raise
            error = e
        deadline, pause = asyncio.get_running_loop().time() + limit_s, _FIRST_PAUSE_S
        told.waits(error, limit_s)
        task = asyncio.current_task()
        try:
            while True:
                _waiting.add(task)
                try:
                    await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads those who wait
                finally:
                    _waiting.discard(task)
                pause = min(pause * 2, _LAST_PAUSE_S)
                try:
                    return await method(*args, **kwargs)
                except MetaError as e:
                    if asyncio.get_running_loop().time() > deadline:
                        e.retryable = False  # who called this method waits no second time
                        raise
                    if not _again(e):
                        raise
        finally:
            told.over()

    return call


def _again(error: MetaError) -> bool:
    return error.retryable and not error.uncertain
