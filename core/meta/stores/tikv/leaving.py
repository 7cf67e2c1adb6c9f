# SPDX-License-Identifier: Apache-2.0
"""A process that used TiKV ends with its own exit code: no Rust thread is inside Python when the interpreter exits.

What goes wrong without this, in about one of ten processes on a busy machine: a thread of tikv-client hands a result
to the event loop, which needs the interpreter's lock; the main thread has the result, is done, and exits. CPython ends
every other thread that asks for the lock from then on, by `pthread_exit`, which unwinds the stack of the Rust thread;
there a guard releases a lock that it doesn't hold: "PyGILState_Release: thread state … must be current when
releasing", abort, exit code 134. Or "FATAL: exception not rethrown", or SIGSEGV. Waiting for results isn't enough:
the result is there before the thread has left. The library has no shutdown.

So at exit, before the interpreter begins to end threads: calls that are still under way are cancelled, which the
library notices at once, and we wait until none is left and no thread of the library is inside Python. Whoever is
inside, or waits to get in, has a thread state, and `sys._current_exceptions` lists them all.

Source: CPython 3.11 `Py_FinalizeEx` (handlers of `atexit` run before threads are ended) and `PyGILState_Ensure`;
observed with tikv-client 0.0.4 (pyo3 0.19).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from typing import Final

from core.meta.stores.tikv import library

log = logging.getLogger(__name__)

#: It takes a millisecond. More only if a thread of somebody else stays inside Python, or keeps calling TiKV.
PATIENCE_S: Final = 2.0
#: A daemon thread whose event loop still runs finishes its calls in peace, but not for ever one after the other.
PEACE_S: Final = 0.5
PAUSE_S: Final = 0.0005

#: Threads that are in Python without being Python's, from before the library had any.
_others: Final[set[int]] = set()
_exiting = False


def foreign_threads() -> set[int]:
    """Threads that are inside Python, or wait for its lock, and weren't started by `threading`."""
    # A foreign thread in which somebody asked for `current_thread` is listed, as a dummy, for good.
    ours = {thread.ident for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)}
    return {ident for ident in sys._current_exceptions() if ident not in ours}


def settle(patience_s: float = PATIENCE_S) -> bool:
    """End all calls, and wait until the library's threads have left Python. False: not within that time.

    For the very end: who waits for a call that is cancelled gets CancelledError, if the event loop runs at all.
    """
    started = time.monotonic()
    collected = False
    while True:
        library.let_go()
        waited = time.monotonic() - started
        at_work = [call for calls in list(library.busy) for call in calls.at_work()]
        for call in at_work:
            if waited > PEACE_S or not call.get_loop().is_running():
                _cancel(call)
        pending = len(at_work)
        del at_work[:]
        call = None  # type: ignore[assignment]  # a reference would count as one that the library holds
        if not pending and foreign_threads() <= _others:
            return True
        if waited > patience_s:
            log.debug("%d calls to TiKV and %d threads didn't end", pending, len(foreign_threads() - _others))
            return False
        time.sleep(PAUSE_S)  # gives the lock to whoever waits for it
        if pending and not collected:
            gc.collect()  # cancelled calls that sit in a cycle with a traceback
            collected = True


def _cancel(call: library.Call) -> None:
    """As `call.cancel()`, but also if its event loop is closed, or stands still and would never tell the library."""
    if call.done():
        return
    told = [callback for callback, _ in call._callbacks or () if type(callback).__name__ == "PyDoneCallback"]
    for callback in told:
        call.remove_done_callback(callback)
    with contextlib.suppress(RuntimeError):  # the loop is closed: cancelled nevertheless
        call.cancel()
    for callback in told:
        callback(call)


def _at_exit() -> None:
    global _exiting
    _exiting = True
    settle()


def closed() -> None:
    """A connection has been closed: at exit, by a handler that runs after ours, threads may be about again."""
    if _exiting:
        settle()


def _in_child() -> None:
    """After a fork: the library's threads are in the parent only, nothing will ever end here."""
    library.busy.clear()


_others.update(foreign_threads())
# Imported by the first use of TiKV, so after `logging` and most others: handlers run in the opposite order, and those
# that close volumes have registered later. If not, `Connection.close` settles again.
atexit.register(_at_exit)
os.register_at_fork(after_in_child=_in_child)
