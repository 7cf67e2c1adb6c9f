# SPDX-License-Identifier: Apache-2.0
"""A mount served through pyfuse3, with the surface of `gateways.fuse.server.FuseServer`.

pyfuse3 keeps its session in the module, so there is one such server per process. The descriptor is opened and mounted
by `gateways.fuse.mount`, as for our own channel; libfuse takes it as the mount point /dev/fd/N (documented in
fuse_session_mount of libfuse 3.3 and later) and reads INIT itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from core.errors import ConfigError
from gateways.fuse.mount import abort_connection
from gateways.fuse.notify import Notifier
from gateways.fuse.operations import Operations
from gateways.fuse.pyfuse3_backend.limits import require_pyfuse3
from gateways.fuse.server import Observer
from gateways.fuse.session import PAGE, Negotiated, Options

if TYPE_CHECKING:
    from gateways.fuse.pyfuse3_backend.adapter import Adapter

log = logging.getLogger("sluice.fuse")

#: Requests at the same time; each has a task.
MOST_REQUESTS: Final = 256
#: libfuse doesn't tell what it agreed on with the kernel; notices are made so that any kernel understands them.
_OLD_MINOR: Final = 31
_serving = threading.Lock()


class Pyfuse3Server:
    """channel and notify exist from `start` on. `start` can't follow another process: libfuse begins with INIT."""

    channel: Adapter
    notify: Notifier
    negotiated: Negotiated

    def __init__(self, operations: Operations, options: Options | None = None) -> None:
        self.operations = operations
        self.options = options or Options()
        self.fd = -1
        self._pyfuse3: Any = None
        self._main: asyncio.Task[None] | None = None
        self._observers: list[Observer] = []

    def observe(self, observer: Observer) -> None:
        """Let somebody hear of requests and answers, now or from the start."""
        self._observers.append(observer)
        if hasattr(self, "channel"):
            observer.attach(self.channel)  # type: ignore[arg-type]

    async def start(self, fd: int, negotiated: Negotiated | dict[str, Any] | None = None) -> Negotiated:
        """Serve the descriptor, which is the server's from now on, even if this fails."""
        self.fd = fd
        held = False
        try:
            if negotiated is not None:
                raise ConfigError(
                    "a mount that pyfuse3 serves can't be taken over: libfuse begins with INIT, which"
                    " the kernel sends once; unmount and mount again, or use the built-in backend"
                )
            pyfuse3 = self._pyfuse3 = require_pyfuse3()
            from gateways.fuse.pyfuse3_backend.adapter import Adapter

            held = _serving.acquire(blocking=False)
            if not held:
                raise ConfigError("pyfuse3 can serve one mount per process; start another process for the second one")
            options = self.options
            self.channel = Adapter(
                self.operations, writeback_cache=options.writeback_cache, posix_acl=options.posix_acl,
                export=options.export,
            )  # fmt: skip
            os.set_blocking(fd, True)  # libfuse reads only when poll says so, and takes EAGAIN for the end
            pyfuse3.init(self.channel, f"/dev/fd/{fd}", set())
        except BaseException:
            if held:
                _serving.release()
            os.close(fd)
            self.fd = -1
            raise
        most = options.max_io
        self.negotiated = Negotiated(
            minor=_OLD_MINOR, flags=0, max_write=most, max_pages=-(-most // PAGE), max_readahead=options.max_readahead
        )
        self.notify = Notifier(fd, self.negotiated)
        for observer in self._observers:
            observer.attach(self.channel)  # type: ignore[arg-type]
        self._main = asyncio.get_running_loop().create_task(self._serve(), name="pyfuse3")
        return self.negotiated

    async def wait(self) -> None:
        """Until the kernel has ended the connection. Raises what ended it otherwise."""
        assert self._main is not None
        await asyncio.shield(self._main)

    def give_up(self) -> None:
        """This mount can't go on: the kernel fails its requests, and `wait` ends."""
        if self.fd >= 0:
            abort_connection(self.fd)

    async def stop(self, *, timeout_s: float | None = 30.0, keep_fd: bool = False, abandon_waits: bool = True) -> int:
        """Serve no more; unmount first. keep_fd isn't possible: closing a libfuse session closes the descriptor."""
        if keep_fd:
            raise ConfigError("a mount that pyfuse3 serves can't be handed over; unmount and mount again")
        if self._main is None:
            return 0
        if not self._main.done():
            self._pyfuse3.terminate()
            done, _ = await asyncio.wait((self._main,), timeout=timeout_s)
            if not done:
                self.give_up()
                self._main.cancel()
                await asyncio.wait((self._main,))
        await self.notify.close()
        return 0

    async def _serve(self) -> None:
        try:
            await self._pyfuse3.main(max_tasks=MOST_REQUESTS)
        finally:
            self._pyfuse3.close(unmount=False)
            self.fd = -1
            _serving.release()
