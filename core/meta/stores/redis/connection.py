# SPDX-License-Identifier: Apache-2.0
"""The lasting connection to a Redis server: dial, authenticate, choose the database, reconnect, retry what is safe.

What may be sent again: everything the server refused without doing it (LOADING, READONLY …), everything that never
left this process, and, after a loss, what the caller calls repeatable (`resend`). A commit whose answer was lost is
reported, never repeated. Error texts name the server, the cause and the next step, never the password.
AUTH and SELECT instead of HELLO: they work on every server since 4.0, and a new connection speaks RESP2 anyway.
Source: format §4, §4.1; semantics §1.6.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from hiredis import ReplyError

from core.errors import MetaError
from core.meta.stores.redis.discovery import Address, find_master, find_owner
from core.meta.stores.redis.replies import ELSEWHERE, TRANSIENT, code_of, moved_to, typed_error
from core.meta.stores.redis.scripts import Script
from core.meta.stores.redis.url import RedisURL
from core.meta.stores.redis.wire import Wire, WireLost, first_error, pack_command

log = logging.getLogger(__name__)

#: How long a call outlives an unreachable server. One read time-out: what a hanging server would cost too.
PATIENCE_S: Final = 10.0
#: Opening a volume fails sooner: the user waits for it, and a wrong address is the usual cause.
OPEN_PATIENCE_S: Final = 3.0
#: A server that is silent for so long may have been replaced: Sentinel or the other nodes know.
SILENCE_S: Final = 1.0
_MULTI: Final[bytes] = pack_command(("MULTI",))
_EXEC: Final[bytes] = pack_command(("EXEC",))
_ROLE: Final[bytes] = pack_command(("ROLE",))

Command = tuple[Any, ...]


class Connection:
    """`call`, `transaction` and `run` wait for one round trip each.

    cluster: known after `open`; then every key carries the prefix `{db}` and there is no SELECT.
    """

    def __init__(self, url: RedisURL, scripts: Sequence[Script] = (), *, patience_s: float = PATIENCE_S) -> None:
        self.url = url
        self.cluster = url.mode == "cluster"
        self._scripts = scripts
        self._patience_s = patience_s
        self._tls: ssl.SSLContext | None = url.tls.context() if url.tls else None
        self._wire: Wire | None = None
        self._dialing = asyncio.Lock()
        self._last_cause: Exception | None = None
        self._told = False  # the log knows that the server is away
        self._nodes: list[Address] = []  # of a cluster, as last seen
        self._moved: Address | None = None  # where the last node said our slot is
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    # -- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._closed = False
        await self._ready(asyncio.get_running_loop().time() + OPEN_PATIENCE_S)
        if self.url.mode == "single":
            info = await self.call(pack_command(("CLUSTER", "INFO")), tolerate=True)
            if not isinstance(info, ReplyError):
                self.cluster = b"cluster_state:" in info
            elif "cluster mode" in str(info):
                self.cluster = True
            if self.cluster:  # seeds are the one host; find the owner of our slot
                self.url = replace(self.url, mode="cluster")
                self._drop()
        if self.url.mode != "single":
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        self._closed = True
        self._drop()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None

    @property
    def server(self) -> str:
        """Which server process answers now. What it calls a cursor means nothing to another one."""
        return self._wire.server if self._wire is not None else ""

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    # -- calls --------------------------------------------------------------------------------------------------

    async def call(self, packed: bytes, count: int = 1, *, resend: bool = True, tolerate: bool = False) -> Any:
        """Send packed commands; the reply, or the list of `count` replies.

        Raises MetaError for an error reply; with `tolerate` one that no retry would cure is returned instead.
        """
        deadline, attempt = 0.0, 0
        while True:
            wire = self._wire
            if wire is None or wire.full:
                wire = await self._ready(deadline or asyncio.get_running_loop().time() + self._patience_s)
            try:
                reply = await wire.send(packed, count)
            except WireLost as lost:
                if lost.sent and not resend:
                    raise MetaError(
                        f"connection to Redis at {self._where(wire)} was lost during a commit ({lost}): it may or may"
                        " not have happened; look at the result before repeating it",
                        retryable=True,
                        uncertain=True,
                    ) from lost
                failure: MetaError = self._unreachable(lost)
            else:
                error = (reply if isinstance(reply, ReplyError) else None) if count == 1 else first_error(reply)
                if error is None:
                    return reply
                code = code_of(str(error))
                if code not in TRANSIENT:
                    if tolerate or code == "NOSCRIPT":
                        return error
                    raise typed_error(str(error), self._where(wire))
                failure = typed_error(str(error), self._where(wire))
                if code in ELSEWHERE and wire is self._wire:
                    if (moved := moved_to(str(error))) is not None:
                        self._moved = moved if moved[0] or not wire.address else (wire.address[0], moved[1])
                    self._drop()  # ask again who the master is
            now = asyncio.get_running_loop().time()
            deadline = deadline or now + self._patience_s
            if now >= deadline or self._closed:
                raise failure
            await asyncio.sleep(min(self._pause(attempt), deadline - now))
            attempt += 1

    async def transaction(self, commands: Sequence[Command]) -> list[Any]:
        """Replies of several reading commands as one snapshot (MULTI … EXEC in one write)."""
        if len(commands) == 1:
            return [await self.call(pack_command(commands[0]))]
        packed = b"".join([_MULTI, *map(pack_command, commands), _EXEC])
        replies = await self.call(packed, len(commands) + 2)
        result: list[Any] = replies[-1]
        return result

    async def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any], *, resend: bool = True) -> Any:
        """Reply of a script; loads it if the server forgot it (then nothing of it ran, so a commit may go again)."""
        packed = pack_command(("EVALSHA", script.sha, len(keys), *keys, *args))
        reply = await self.call(packed, resend=resend)
        if isinstance(reply, ReplyError):  # NOSCRIPT
            await self.call(pack_command(("SCRIPT", "LOAD", script.text)))
            reply = await self.call(packed, resend=resend)
            if isinstance(reply, ReplyError):
                raise typed_error(str(reply), self._where(self._wire))
        return reply

    # -- connecting ---------------------------------------------------------------------------------------------

    async def _ready(self, deadline: float) -> Wire:
        """A connection with room. Dials again, with growing pauses, until the deadline."""
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            if self._closed:
                raise MetaError(f"the connection to Redis at {self.url.where} was closed")
            wire = self._wire
            if wire is not None:
                if not wire.full:
                    return wire
                await wire.room()
                continue
            try:
                async with asyncio.timeout_at(deadline), self._dialing:
                    if self._wire is None:
                        self._wire = await self._dial_target()
                        self._last_cause = None
                        if self._told:
                            self._told = False
                            log.warning("Redis at %s answers again", self.url.where)
                continue
            except MetaError as e:
                if not e.retryable:
                    raise
                self._last_cause = e
            except WireLost as e:
                if "CERTIFICATE_REQUIRED" in str(e).upper().replace(" ", "_"):
                    raise MetaError(
                        f"Redis at {self.url.where} wants a certificate of the client; give it in the URL as"
                        " tls-cert-file and tls-key-file"
                    ) from e
                self._last_cause = e
            except ssl.SSLCertVerificationError as e:
                raise MetaError(
                    f"Redis at {self.url.where} shows a certificate that can't be trusted ({e.verify_message});"
                    " give its authority as tls-ca-cert-file, or the name it carries as tls-server-name"
                ) from e
            except OSError as e:  # includes TimeoutError and ssl.SSLError
                if not isinstance(e, TimeoutError) or self._last_cause is None:
                    self._last_cause = e
            now = loop.time()
            if now >= deadline:
                raise self._unreachable(self._last_cause)
            if not self._told:  # once per outage, however many callers wait
                self._told = True
                log.warning("cannot reach Redis at %s (%s); trying again", self.url.where, self._last_cause)
            await asyncio.sleep(min(self._pause(attempt), deadline - now))
            attempt += 1

    def _pause(self, attempt: int) -> float:
        limit = min(self.url.max_backoff_s, self.url.min_backoff_s * 2 ** min(attempt, 20))
        return random.uniform(limit / 2, limit)  # noqa: S311 - spreads clients after an outage

    async def _dial_target(self) -> Wire:
        moved, self._moved = self._moved, None
        if moved is not None and moved[0] and self.cluster:
            try:
                return await self._dial(moved)  # who sent us away knows it before the others do
            except (OSError, WireLost) as e:
                log.info("cannot reach %s:%d, where the volume's slot was said to be: %s", *moved, e)
        wire = await self._dial(await self._target())
        if self.url.mode == "sentinel":
            role = await wire.send(_ROLE)
            if isinstance(role, list) and role[0] != b"master":
                # A failover is under way: it would answer reads with what it has, however old that is.
                wire.close()
                raise MetaError(f"Redis at {wire.peer} is no master any more", retryable=True)
        return wire

    async def _target(self) -> Address | None:
        """Whom to talk to."""
        url = self.url
        if url.mode == "sentinel":
            return await find_master(url, self._dial_sentinel)
        if url.mode == "cluster":
            owner, self._nodes = await find_owner(url, self._nodes, self._dial)
            return owner
        return url.hosts[0] if url.hosts else None

    async def _watch(self) -> None:
        """Don't wait for a server that hangs until the read time-out, if another has taken its place meanwhile."""
        while True:
            await asyncio.sleep(SILENCE_S * random.uniform(0.9, 1.1))  # noqa: S311 - jitter
            wire = self._wire
            if wire is None or wire.silent_s < SILENCE_S:
                continue
            try:
                target = await self._target()
            except (OSError, WireLost):  # MetaError is an OSError
                continue
            if target is not None and target != wire.address and not wire.closed:
                log.warning("Redis at %s is silent; %s:%d has taken its place", wire.peer, *target)
                wire.close(f"it is silent, and {target[0]}:{target[1]} has taken its place")

    async def _dial_sentinel(self, address: Address) -> Wire:
        return await self._dial(address, sentinel=True)

    async def _dial(self, address: Address | None, *, sentinel: bool = False) -> Wire:
        """One authenticated connection. Raises OSError, WireLost, or MetaError for a refusal."""
        url, loop = self.url, asyncio.get_running_loop()

        def make() -> Wire:
            return Wire(read_timeout_s=url.read_timeout_s, write_timeout_s=url.write_timeout_s, lost=self._on_lost)

        async with asyncio.timeout(url.dial_timeout_s):
            if address is None:
                _, wire = await loop.create_unix_connection(make, url.path)
            else:
                host, port = address
                name = (url.tls.server_name if url.tls else "") or host
                transport, wire = await loop.create_connection(
                    make, host, port, ssl=self._tls, server_hostname=name if self._tls else None
                )
                if (sock := transport.get_extra_info("socket")) is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            try:
                wire.address = address
                if not sentinel:
                    await self._greet(wire, address)
                elif url.sentinel_password:
                    await wire.send(
                        pack_command(("AUTH", url.sentinel_password))
                    )  # the next reply tells if it was wrong
            except BaseException:
                wire.close()
                raise
        return wire

    async def _greet(self, wire: Wire, address: Address | None) -> None:
        url = self.url
        commands: list[Command] = []
        if url.username:
            commands.append(("AUTH", url.username, url.password))
        elif url.password:
            commands.append(("AUTH", url.password))
        if url.db and not self.cluster:
            commands.append(("SELECT", url.db))
        must = len(commands)
        commands.append(("PING",))  # tells NOAUTH now and not in the middle of a commit
        commands.append(("INFO", "server"))
        commands += [("SCRIPT", "LOAD", script.text) for script in self._scripts]
        replies = await wire.send(b"".join(map(pack_command, commands)), len(commands))
        if isinstance(replies, ReplyError):  # a single command
            replies = [replies]
        where = f"{address[0]}:{address[1]}" if address else url.where
        if isinstance(replies, list):
            wire.server = _server_of(replies[must + 1])
        for i, reply in enumerate(replies if isinstance(replies, list) else []):
            if isinstance(reply, ReplyError) and "cluster mode" in str(reply):
                self.cluster = True  # has no databases to SELECT; `open` asks who serves our slot
                continue
            # While the server loads its data it accepts AUTH and SELECT and refuses the rest: `call` waits for it.
            if isinstance(reply, ReplyError) and (i < must or code_of(str(reply)) in ("NOAUTH", "WRONGPASS")):
                raise typed_error(str(reply), where)

    def _on_lost(self, wire: Wire) -> None:
        if wire is self._wire:
            self._wire = None

    def _where(self, wire: Wire | None) -> str:
        peer = wire.peer if wire is not None else ""
        return f"{peer}/{self.url.db}" if peer else self.url.where

    def _unreachable(self, cause: Exception | None) -> MetaError:
        if isinstance(cause, MetaError):
            return cause
        reason = str(cause) or type(cause).__name__ if cause else "no answer in time"
        return MetaError(
            f"cannot reach Redis at {self.url.where}: {reason}; check server, address and network",
            retryable=True,
        )


def _server_of(info: Any) -> str:
    """The process, by the number that it draws at its start; one that must not tell is taken for a new one."""
    lines = info.split() if isinstance(info, bytes) else ()
    return next((line[7:].decode() for line in lines if line.startswith(b"run_id:")), "") or uuid.uuid4().hex
