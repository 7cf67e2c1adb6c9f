# SPDX-License-Identifier: Apache-2.0
"""Taking turns: a fair queue between our processes that write to one SQLite file.

SQLite's own waiting is sleep-and-retry: the process that has just committed wins again and again. Here waiting
happens in the kernel, on a side file: byte 0 is the right to be next, byte 1 the turn itself. Who waits for the turn
holds byte 0, so whoever has just ended a turn queues up behind.

A courtesy, nothing else: SQLite's lock decides. Without open-file-description locks (anything but Linux), without
permission for the side file, or when a turn takes too long (a stopped process), we go on without it.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import Final

try:
    import fcntl

    _SET: Final[int] = fcntl.F_OFD_SETLK
    _WAIT: Final[int] = fcntl.F_OFD_SETLKW
    _AVAILABLE = True
except (ImportError, AttributeError):  # no such locks on this platform
    _AVAILABLE = False

# struct flock of Linux, 64-bit offsets: l_type, l_whence, l_start, l_len, l_pid (0 for these locks).
_FLOCK: Final = "hhqqi4x" if struct.calcsize("P") == 8 else "hhqqi"
_F_WRLCK, _F_UNLCK = (fcntl.F_WRLCK, fcntl.F_UNLCK) if _AVAILABLE else (1, 2)
_TAKE_NEXT, _TAKE_TURN = (struct.pack(_FLOCK, _F_WRLCK, os.SEEK_SET, byte, 1, 0) for byte in (0, 1))
_DROP_NEXT, _DROP_ALL = (struct.pack(_FLOCK, _F_UNLCK, os.SEEK_SET, 0, count, 0) for count in (1, 2))


class Turn:
    """One per store. `try_acquire` and `release` take microseconds; `acquire` waits, so call it in a thread."""

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._waiting: threading.Thread | None = None
        if _AVAILABLE:
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError:
                pass  # a read-only folder, perhaps; see above

    def close(self) -> None:
        if self._fd >= 0 and self._waiting is None:
            os.close(self._fd)
            self._fd = -1

    def try_acquire(self) -> bool:
        """False: somebody else has the turn, or waits for it."""
        if self._fd < 0:
            return True
        if self._waiting is not None:
            return False
        try:
            fcntl.fcntl(self._fd, _SET, _TAKE_NEXT)
        except OSError:
            return False
        try:
            fcntl.fcntl(self._fd, _SET, _TAKE_TURN)
        except OSError:
            fcntl.fcntl(self._fd, _SET, _DROP_NEXT)
            return False
        fcntl.fcntl(self._fd, _SET, _DROP_NEXT)
        return True

    def acquire(self, timeout_s: float) -> None:
        """Wait for the turn, at most this long; return in any case."""
        if self._fd < 0 or self._waiting is not None:
            return  # no queue; or an earlier wait hangs on a stopped process, and SQLite's own lock must do
        got = threading.Event()
        given_up = threading.Lock()  # held by whoever decides that it is over
        fd = self._fd

        def wait() -> None:
            try:
                fcntl.fcntl(fd, _WAIT, _TAKE_NEXT)
                fcntl.fcntl(fd, _WAIT, _TAKE_TURN)
                fcntl.fcntl(fd, _SET, _DROP_NEXT)
            except OSError:
                pass
            if given_up.acquire(blocking=False):
                got.set()
            else:
                self._drop()
                self._waiting = None

        # The kernel's wait has no timeout, hence a thread of its own, only when somebody is in front of us.
        thread = threading.Thread(target=wait, name="sluice-sqlite-turn", daemon=True)
        self._waiting = thread
        thread.start()
        if got.wait(timeout_s) or not given_up.acquire(blocking=False):
            thread.join()
            self._waiting = None

    def release(self) -> None:
        if self._fd >= 0 and self._waiting is None:
            self._drop()

    def _drop(self) -> None:
        try:
            fcntl.fcntl(self._fd, _SET, _DROP_ALL)
        except OSError:
            pass
