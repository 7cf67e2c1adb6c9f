# SPDX-License-Identifier: Apache-2.0
"""One mount of one volume in this process: everything between an opened volume and a `/dev/fuse` descriptor.

A door may follow another one that served the same descriptor in a process before (`keeper`): it goes on with that
one's session, handles, locks and unrecorded writes. The order is what makes that safe: session, handles, writes, and
only then requests.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import shutil
from functools import partial
from typing import Any, Literal, Protocol, cast

import msgspec

from core.dump.autobackup import autobackup
from core.errors import ConfigError, FsError, VolumeError
from core.meta.patience import is_waiting, make_patient
from core.meta.records import ROOT
from core.vfs.internal.files import InternalFiles
from core.vfs.keeper import Keeper, NoKeeper
from core.vfs.posix.config import PosixConfig
from core.vfs.posix.posix import Posix
from core.vfs.vfs import VFS
from core.volume import Volume
from gateways.fuse.abandoned import Abandoned
from gateways.fuse.access_log import Observer
from gateways.fuse.handlers import PosixOperations, Ttl
from gateways.fuse.invalidation import PageInvalidator
from gateways.fuse.mount import set_read_ahead
from gateways.fuse.operations import Operations
from gateways.fuse.passthrough import PassthroughHandlers
from gateways.fuse.patience import PatientOperations
from gateways.fuse.server import FuseServer
from gateways.fuse.session import Options
from gateways.fuse.wire.constants import Init

log = logging.getLogger("sluice.fuse")

#: Requests that run when a worker hands over get this long; what isn't answered then is asked again.
HAND_OVER_S = 30.0
#: After a take-over, until what the kernel asks again has surely been answered.
SETTLED_S = 30.0


class DoorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a mount is asked to be."""

    mount_point: str
    posix: PosixConfig = PosixConfig()
    ttl: Ttl = Ttl()
    session: Options = Options()
    subdir: bytes = b""
    readdir_cache: bool = False
    passthrough: bool = False
    copies_in: str | None = None  # a private folder, for files that the kernel reads by itself
    patience_s: float = 300
    heartbeat_s: int = 12
    jobs: bool = True
    backup_meta_s: float = 0
    #: What speaks with the kernel: our own channel, or pyfuse3 (which can't be followed by another process).
    backend: Literal["builtin", "pyfuse3"] = "builtin"
    shown: dict[str, Any] = {}  # for `.config`


class Table(Keeper, Protocol):
    """A keeper that other processes continue."""

    def load(self) -> dict[str, Any]: ...

    def save(self, document: dict[str, Any]) -> None: ...

    def replayed(self) -> int: ...

    def settled(self) -> None: ...


class Handlers(PassthroughHandlers, PosixOperations):  # type: ignore[misc]  # a mixin in front repeats signatures
    """All requests of a mount: what the kernel may do by itself, and the rest."""


class Door:
    """`volume` was opened without a session; it stays the caller's to close."""

    def __init__(self, volume: Volume, options: DoorOptions, table: Table | None = None) -> None:
        self.volume = volume
        self.options = options
        self._table = table
        self._keeper: Keeper = table or NoKeeper()
        self._saved: dict[str, Any] = {}
        self.failure: VolumeError | None = None  # the volume is gone: nothing more may be written to it
        self.server: FuseServer
        self.posix: Posix
        self.internal: InternalFiles
        self.vfs: VFS
        self._handlers: Handlers

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self, fd: int) -> None:
        """Serve; returns when the kernel and we have agreed how."""
        options, meta = self.options, self.volume.meta
        make_patient(meta.store, options.patience_s)
        saved = self._saved = self._table.load() if self._table is not None else {}
        root = await self._root()
        await self._session(saved)
        self.vfs = VFS(meta, self.volume.slices, keeper=self._keeper)
        self.internal = InternalFiles(
            self.volume, self.vfs, root=root, hide=options.posix.hide_internal,
            prefix=options.posix.prefix_internal, options=options.shown, mount_point=options.mount_point,
        )  # fmt: skip
        # rmr and clone work behind the kernel's back.
        self.internal.control.name_changed = lambda parent, name: self.server.notify.inval_entry(parent, name)
        config = msgspec.structs.replace(options.posix, root=root)
        self.posix = Posix(self.vfs, config, self._keeper, self.internal)
        self.posix.writeback_cache = options.session.writeback_cache
        if saved:
            await self._recover()
        handlers = self._handlers = Handlers(self.posix, options.ttl, readdir_cache=options.readdir_cache)
        self.server = self._new_server(PatientOperations(handlers))
        self.server.observe(Observer(self.internal.access_log, self.internal.metrics, warn=log.warning))
        self._invalidator = PageInvalidator(self.server)
        self.vfs.invalidate = self._invalidator
        self.vfs.push = self._invalidator.push
        agreed = saved.get("negotiated")
        if agreed and options.passthrough and agreed["flags"] & Init.PASSTHROUGH:
            # Before the first request: what the kernel reads by itself has to follow every change.
            await handlers.attach(fd, self._place()).resume()
        if agreed and not agreed["flags"] & Init.HAS_RESEND:
            self.server.observe(Abandoned())
        await self.server.start(fd, agreed)
        if not agreed:
            # Only now: the kernel's INIT says what it had before, and our answer can't raise that.
            await asyncio.to_thread(set_read_ahead, options.mount_point, options.session.max_readahead)
        self.server.channel.may_give_up = is_waiting
        if not agreed and options.passthrough and self.server.negotiated.has(Init.PASSTHROUGH):
            handlers.attach(fd, self._place()).start_afresh()
        if self._table is not None and not agreed:
            self._saved["negotiated"] = self.server.negotiated.to_dict()
            self._table.save(self._saved)
        if agreed:
            self.server.notify.resend()
            assert self._table is not None
            asyncio.get_running_loop().call_later(SETTLED_S, self._table.settled)
        self._jobs()
        # What start-up made stays; a full collection would walk it again and again (3-5 % of a create).
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)

    async def wait(self) -> None:
        """Until the kernel has ended the connection, or the volume is gone (`failure`)."""
        await self.server.wait()

    async def hand_over(self) -> None:
        """Stop serving, so that another process can go on: what was taken is recorded, session and handles stay."""
        await self.server.stop(timeout_s=HAND_OVER_S, keep_fd=True)
        try:
            await self.vfs.flush_all()
        except FsError as e:
            log.error("not everything could be recorded (%s); the next process tries again", e)
        finally:
            await self.volume.meta.stop_jobs()
            await self.volume.meta.leave_session()

    async def stop(self) -> None:
        """The end of the mount: everything is recorded, handles are closed. The session ends with the volume."""
        await self.server.stop(timeout_s=1)
        if self._handlers.passed is not None:
            await self._handlers.passed.finish()
        await self.vfs.close()
        self._invalidator.close()
        if self.options.copies_in is not None and self._table is not None:
            shutil.rmtree(self.options.copies_in, ignore_errors=True)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _new_server(self, operations: Operations) -> FuseServer:
        if self.options.backend == "pyfuse3":
            from gateways.fuse.pyfuse3_backend.server import Pyfuse3Server

            return cast(FuseServer, Pyfuse3Server(operations, self.options.session))
        return FuseServer(operations, self.options.session)

    def _place(self) -> str | None:
        """Only a mount that outlives its process needs copies with names."""
        return self.options.copies_in if self._table is not None else None

    async def _root(self) -> int:
        subdir = self.options.subdir.strip(b"/")
        if not subdir:
            return ROOT
        try:
            found = await self.volume.fs.lookup(b"/" + subdir)
        except FsError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            raise ConfigError(f"--subdir: the volume has no folder /{subdir.decode(errors='backslashreplace')}") from e
        if not found.attr.is_dir:
            raise ConfigError(f"--subdir: /{subdir.decode(errors='backslashreplace')} is no folder")
        return found.ino

    async def _session(self, saved: dict[str, Any]) -> None:
        meta, options = self.volume.meta, self.options
        meta.on_fatal = self._fatal
        if saved.get("sid"):
            handles = [handle.ino for handle in self._keeper.handles() if not handle.directory]
            await meta.adopt_session(
                saved["sid"], options.mount_point, heartbeat_s=options.heartbeat_s, handles=handles
            )
            return
        await meta.new_session(options.mount_point, heartbeat_s=options.heartbeat_s)
        if self._table is not None:
            self._saved = {"sid": meta.sid}
            self._table.save(self._saved)

    async def _recover(self) -> None:
        await self.posix.recover()
        if self._table is not None:
            given_up = self._table.replayed()
            if given_up:
                log.debug("%d kept records were of no use any more", given_up)

    def _jobs(self) -> None:
        options, volume = self.options, self.volume
        if not options.jobs or options.posix.read_only:
            return
        volume.meta.start_jobs()
        if options.backup_meta_s:
            volume.meta.start_job(
                options.backup_meta_s / 10, partial(autobackup, volume.meta, volume.objects, options.backup_meta_s)
            )
        if volume.scrub is not None:
            volume.meta.start_job(volume.scrub.ask_s, volume.scrub)

    def _fatal(self, error: VolumeError) -> None:
        log.critical("%s; this mount ends", error)
        self.failure = error
        self.server.give_up()
