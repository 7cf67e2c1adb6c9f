# SPDX-License-Identifier: Apache-2.0
"""Sessions: this client's registration, its heartbeat, and cleaning up after clients that died.

Source: spec metadata-semantics §10.1; format §4.5, §8.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import random
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from core.errors import FsError, VolumeError
from core.meta import keys as k
from core.meta.format import Format
from core.meta.publish import Publish
from core.meta.store import PUT, PUT_NEW, Tx
from core.meta.version import CLIENT_VERSION

log = logging.getLogger("sluice.meta")

HEARTBEAT_S: Final = 12
#: A session is dead after so many missed heartbeats.
MISSED: Final = 5
MAX_STALE_PER_RUN: Final = 1000
_YEAR_S: Final = 365 * 86400


def session_info(mount_point: str, now_ns: int) -> bytes:
    """The document other clients show in their status (format §8)."""
    when = datetime.datetime.fromtimestamp(now_ns // 1_000_000_000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    info = {
        "Version": CLIENT_VERSION,
        "HostName": socket.gethostname(),
        "IPAddrs": _addresses(),
        "MountPoint": mount_point,
        "MountTime": f"{when}.{now_ns % 1_000_000_000:09d}Z",
        "ProcessID": os.getpid(),
    }
    return json.dumps({name: value for name, value in info.items() if value or name != "IPAddrs"}).encode()


def _addresses() -> list[str]:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return []
    return sorted(a for a in found if not a.startswith("127.") and a != "::1")


class Sessions(Publish):
    """Mixin of `Meta`."""

    heartbeat_s: int = HEARTBEAT_S
    on_fatal: Callable[[VolumeError], None] | None = None  # the volume is gone or was replaced: end the process
    _info: bytes = b""
    _beat: asyncio.Task[None] | None = None

    def _expiry(self) -> int:
        now = self.clock_ns() // 1_000_000_000
        return now + (MISSED * self.heartbeat_s if self.heartbeat_s else _YEAR_S)

    async def new_session(self, mount_point: str, *, heartbeat_s: int = HEARTBEAT_S) -> None:
        """Register this client and keep it registered. Read-only clients only reload settings."""
        self.heartbeat_s = heartbeat_s
        if not self.read_only:
            self._info = session_info(mount_point, self.clock_ns())
            sid = await self.store.allocate("nextSession", 1)
            await self.store.transact(lambda tx: self._register(tx, sid))
            self.sid = sid
        await self.reload_usage()
        if heartbeat_s:
            self._beat = asyncio.create_task(self._heartbeats())

    async def adopt_session(
        self, sid: int, mount_point: str, *, heartbeat_s: int = HEARTBEAT_S, handles: Iterable[int] = ()
    ) -> None:
        """Go on as the client that another process was: its locks and its unlinked-open files are ours now.

        The other process must be dead or have left by `leave_session`. handles: inodes that it had open and that will
        be opened here; nothing else can be locked. Call `finish_unlinked` when they are.
        """
        self.heartbeat_s = heartbeat_s
        if self.read_only:
            await self.new_session(mount_point, heartbeat_s=heartbeat_s)
            return
        self._info = session_info(mount_point, self.clock_ns())
        (expiry,) = await self.store.read(k.session(sid))
        if not expiry:
            log.error("session %d was given up by other clients before it could go on: its locks are gone", sid)
        await self.store.transact(lambda tx: self._register(tx, sid))
        self.sid = sid
        self.sustained = {key[2] async for key, _ in self.store.scan(k.SUSTAINED, sid)}
        await self.reload_usage()
        if heartbeat_s:
            self._beat = asyncio.create_task(self._heartbeats())

    async def finish_unlinked(self) -> None:
        """Delete what is unlinked and not open here: its last handle was closed while nobody served it."""
        for ino in sorted(self.sustained):
            if not self.open_files.get(ino):
                self.sustained.discard(ino)
                await self.finalise_sustained(self.sid, ino)

    async def leave_session(self) -> None:
        """Stop being this client without ending the session: another process goes on with it. Changes are refused
        from here on."""
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
            self._beat = None
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        self.sid = 0
        self.read_only = True

    async def _register(self, tx: Tx, sid: int) -> None:
        expiry = self._expiry()
        tx.put(k.session(sid), expiry)
        tx.put(k.sessioninfo(sid), self._info)
        self.log_change(tx, "NEWSESSION", sid, expiry, self._info)

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_s * random.uniform(0.95, 1.05))  # noqa: S311 - jitter
            try:
                await self.refresh()
            except VolumeError as e:
                # Another volume's records must not be changed with what we know of this one (semantics §10.1).
                log.critical("%s", e)
                self.read_only = True
                if self.on_fatal is not None:
                    self.on_fatal(e)
                return
            except FsError as e:
                log.error("heartbeat failed, the next one tries again: %s", e)
            except Exception:
                log.exception("heartbeat failed unexpectedly")

    async def refresh(self) -> None:
        """One heartbeat: stay registered, adopt changed settings, see what others used, clean up after the dead."""
        if self.sid:
            await self.store.commit(
                [], [(PUT, k.session(self.sid), self._expiry()), (PUT_NEW, k.sessioninfo(self.sid), self._info)]
            )
        await self.reload_format()
        await self.reload_usage()
        if self.sid and await self.store.gate(
            "lastCleanupSessions", self.clock_ns() // 1_000_000_000, int(self.heartbeat_s * 0.9)
        ):
            await self.clean_stale_sessions()

    async def reload_format(self) -> None:
        """VolumeError if the volume vanished, was replaced by another, or became too new (semantics §10.1)."""
        (raw,) = await self.store.read(k.setting())
        if raw is None:
            raise VolumeError("the volume's setting is gone; was it destroyed? Stop this client.")
        fmt = Format.parse(raw)
        if fmt.uuid != self.format.uuid:
            raise VolumeError(f"the database now holds another volume ({fmt.name}); stop this client")
        fmt.check_client()
        self.use_format(fmt)

    async def sessions(self) -> list[dict[str, Any]]:
        """All registered clients, as `sluice status` shows them."""
        expiries = {key[1]: expiry async for key, expiry in self.store.scan(k.SESSION)}
        infos = await self.store.read(*(k.sessioninfo(sid) for sid in sorted(expiries)))
        found = []
        for sid, raw in zip(sorted(expiries), infos, strict=True):
            when = datetime.datetime.fromtimestamp(expiries[sid], datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            found.append({"Sid": sid, "Expire": when, **(json.loads(raw) if raw else {})})
        return found

    async def clean_stale_sessions(self) -> int:
        """Clean up after clients whose heartbeat stopped; returns how many."""
        now = self.clock_ns() // 1_000_000_000
        stale = [key[1] async for key, expiry in self.store.scan(k.SESSION) if expiry < now and key[1] != self.sid]
        done = 0
        for sid in stale[:MAX_STALE_PER_RUN]:
            try:
                await self.clean_session(sid)
                done += 1
                log.info("cleaned up after session %d", sid)
            except FsError as e:
                log.warning("session %d can't be cleaned up yet: %s", sid, e)
        return done

    async def clean_session(self, sid: int) -> None:
        """Drop its locks, finish its unlinked-open files, then its records; all or nothing (it is tried again)."""
        for kind in (k.FLOCKS, k.PLOCKS):
            async for key, holders in self.store.scan(kind):
                if any(owner[0] == sid for owner in holders):
                    await self._drop_locks(key, sid)
        async for key, _ in self.store.scan(k.SUSTAINED, sid):
            await self.finalise_sustained(sid, key[2])
        await self.store.transact(lambda tx: self._forget(tx, sid))

    async def _forget(self, tx: Tx, sid: int) -> None:
        tx.delete(k.session(sid))
        tx.delete(k.sessioninfo(sid))
        self.log_change(tx, "CLEANSESSION", sid)

    async def _drop_locks(self, key: k.Key, sid: int) -> None:
        async def body(tx: Tx) -> None:
            (holders,) = await tx.read(key)
            left = {owner: value for owner, value in holders.items() if owner[0] != sid}
            if len(left) != len(holders):
                tx.put(key, left)

        await self.store.transact(body)

    async def end_session(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
            self._beat = None
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        if self.sid:
            sid, self.sid = self.sid, 0
            await self.clean_session(sid)
            while self._background:
                await asyncio.gather(*self._background, return_exceptions=True)
