# SPDX-License-Identifier: Apache-2.0
"""The calls of tikv-client that we make, each a future that is known until the library is done with it.

The library's own asyncio layer is a coroutine around each of these futures, and hides them. They have to be known
because of what a Rust thread does with one that ends: it takes the interpreter's lock and touches the event loop. That
fails with a traceback on stderr if the loop is closed by then, and kills the process if the interpreter is exiting
(see `leaving`). So a connection waits for its calls before it closes, and `leaving` ends those of connections that
nobody closed. Source: observed with tikv-client 0.0.4 (pyo3-asyncio 0.19).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakSet

from tikv_client import tikv_client as native

Call = asyncio.Future[Any]

#: Everybody whose calls may still be under way. Not weak: a call outlives the connection that forgot it.
busy: Final[set[Calls]] = set()


class Calls:
    """The calls of one connection."""

    def __init__(self) -> None:
        self._known: WeakSet[Call] = WeakSet()

    def watch(self, call: Call) -> Call:
        busy.add(self)
        self._known.add(call)
        return call

    def at_work(self) -> list[Call]:
        """Calls that Rust will answer, or whose cancellation it may not have noticed yet."""
        return [call for call in self._known if not call.done() or call.cancelled()]

    async def drain(self, patience_s: float) -> None:
        """Wait for all calls of this event loop, then cancel what is left."""
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + patience_s
        while waiting := [call for call in self._known if not call.done() and call.get_loop() is loop]:
            left = deadline - time.monotonic()
            if left <= 0:
                for call in waiting:
                    call.cancel()
                await asyncio.sleep(0)  # the library hears of it in a callback
                break
            await asyncio.wait(waiting, timeout=left)
            del waiting
        if not self.at_work():
            busy.discard(self)


class Source:
    """A snapshot or a transaction: what can be read from."""

    __slots__ = ("inner", "watch")

    def __init__(self, inner: Any, calls: Calls) -> None:
        self.inner = inner
        self.watch = calls.watch

    def get(self, key: bytes) -> Call:
        return self.watch(self.inner.get(key))

    def batch_get(self, keys: Sequence[bytes]) -> Call:
        return self.watch(self.inner.batch_get(list(keys)))

    def scan(self, start: bytes, end: bytes, limit: int) -> Call:
        """From start to before end: pairs."""
        return self.watch(self.inner.scan(start, end, limit, True, False))

    def scan_keys(self, start: bytes, end: bytes, limit: int) -> Call:
        return self.watch(self.inner.scan_keys(start, end, limit, True, False))


class Client:
    """Connected to a cluster. `begin` gives what `source` takes."""

    __slots__ = ("calls", "inner")

    def __init__(self, inner: Any, calls: Calls) -> None:
        self.inner = inner
        self.calls = calls

    @staticmethod
    def connect(endpoints: Sequence[str], calls: Calls) -> Call:
        """Gives what the constructor takes."""
        return calls.watch(native.TransactionClient.connect(list(endpoints)))

    def current_timestamp(self) -> asyncio.Future[int]:
        return self.calls.watch(self.inner.current_timestamp())

    def snapshot(self, timestamp: int) -> Source:
        return Source(self.inner.snapshot(timestamp, False), self.calls)

    def begin(self) -> Call:
        """An optimistic transaction."""
        return self.calls.watch(self.inner.begin(False))

    def source(self, transaction: Any) -> Source:
        return Source(transaction, self.calls)

    def gc(self, before: int) -> Call:
        return self.calls.watch(self.inner.gc(before))


def let_go() -> None:
    """Make the library give back objects that its threads have dropped.

    They do so without the interpreter's lock, so the objects are put aside until Python next calls in. Any call does;
    this one is refused for its arguments.
    """
    try:
        native.TransactionClient.connect()
    except TypeError:
        pass
