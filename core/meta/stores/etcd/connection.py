# SPDX-License-Identifier: Apache-2.0
"""Calls to an etcd cluster: log-in, TLS, failover. Knows bytes in and bytes out, and no message but the log-in.

A call that only reads is tried again on the next endpoint, for a few seconds. One that may write is sent at most once:
it is repeated only if it certainly was not carried out.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from pathlib import Path
from typing import Final

from core.errors import ConfigError, MetaError
from core.meta.stores.etcd import messages as m
from core.meta.stores.etcd.channel import Channel, Lost, RpcError
from core.meta.stores.etcd.failures import Verdict, judge, to_meta_error
from core.meta.stores.etcd.url import TLS, EtcdURL

#: etcd gives up on a request after 7 s (5 s + two election time-outs); a little more, so that its answer wins.
CALL_TIMEOUT_S: Final = 10.0
#: How long calls that change nothing are repeated while no endpoint answers; an election takes one to two seconds.
PATIENCE_S: Final = 4.0
#: HTTP/2 asks servers to admit at least so many.
_PARALLEL: Final = 100


class Connection:
    """One client of one cluster. Calls may run in parallel."""

    def __init__(self, url: EtcdURL) -> None:
        self._url = url
        self._channels: dict[str, Channel] = {}
        self._connecting: dict[str, asyncio.Task[Channel]] = {}
        self._tls: ssl.SSLContext | None = None
        self._at = random.randrange(len(url.endpoints))  # noqa: S311 - spreads clients over the members
        self._token = ""
        self._login = asyncio.Lock()
        self._free = asyncio.Semaphore(_PARALLEL)
        self._open = False

    @property
    def where(self) -> str:
        return ",".join(self._url.endpoints)

    @property
    def endpoint(self) -> str:
        return self._url.endpoints[self._at]

    async def open(self) -> None:
        """Log in, if there is a user. Raises MetaError or ConfigError."""
        if self._url.tls is not None:
            self._tls = await asyncio.to_thread(_tls_context, self._url.tls)
        self._open = True
        if self._url.username:
            await self._authenticate("")

    async def close(self) -> None:
        self._open = False
        for task in list(self._connecting.values()):
            task.cancel()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    # -- calls ---------------------------------------------------------------------------------------------------

    async def call(
        self, path: str, request: bytes, *, writing: bool = False, timeout_s: float = CALL_TIMEOUT_S
    ) -> bytes:
        """Answer of one call. RpcError for what `failures.judge` calls LARGE or GONE, else MetaError."""
        deadline = time.monotonic() + PATIENCE_S
        pause_s = 0.05
        logins = 0
        while True:
            endpoint, token = self.endpoint, self._token
            try:
                async with self._free:
                    channel = self._channels.get(endpoint)
                    if channel is None or not channel.usable:
                        channel = await self._connect(endpoint)
                    return await channel.call(path, request, timeout_s=timeout_s, token=token)
            except (RpcError, Lost) as e:
                verdict = judge(e)
                if verdict in (Verdict.LARGE, Verdict.GONE):
                    raise
                if verdict is Verdict.TOKEN and logins < 2 and self._url.username:
                    logins += 1
                    await self._authenticate(token)
                    continue
                again = verdict is Verdict.AWAY or (verdict is Verdict.LOST and not writing)
                if not again or time.monotonic() + pause_s > deadline:
                    raise to_meta_error(e, endpoint, writing=writing) from e
            if self.endpoint == endpoint:  # else somebody has turned to the next one already
                self._at = (self._at + 1) % len(self._url.endpoints)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311
            pause_s = min(pause_s * 2, 0.5)

    async def _connect(self, endpoint: str) -> Channel:
        """A connection that all callers share; they also share the wait for it."""
        if not self._open:
            raise MetaError(f"etcd at {self.where}: the store is closed; open it first")
        task = self._connecting.get(endpoint)
        if task is None:
            host, _, port = endpoint.rpartition(":")
            name = self._url.tls.server_name if self._url.tls else ""
            task = asyncio.ensure_future(Channel.connect(host.strip("[]"), int(port), self._tls, name))
            self._connecting[endpoint] = task
            task.add_done_callback(lambda done: self._connected(endpoint, done))
        return await asyncio.shield(task)

    def _connected(self, endpoint: str, done: asyncio.Task[Channel]) -> None:
        self._connecting.pop(endpoint, None)
        if done.cancelled() or done.exception() is not None:
            return
        if self._open:
            self._channels[endpoint] = done.result()
        else:
            done.result().close()

    # -- log-in --------------------------------------------------------------------------------------------------

    async def _authenticate(self, stale: str) -> None:
        """Get a token; they expire (after five minutes, by default), so this happens again and again."""
        async with self._login:
            if self._token != stale:
                return  # another call has a newer one
            self._token = ""
            request = m.AuthenticateRequest(name=self._url.username, password=self._url.password)
            answer = m.AuthenticateResponse.FromString(await self.call(m.AUTHENTICATE, request.SerializeToString()))
            self._token = answer.token


def _tls_context(tls: TLS) -> ssl.SSLContext:
    for option, path in (("cacert", tls.ca_file), ("cert", tls.cert_file), ("key", tls.key_file)):
        if path:
            try:
                Path(path).read_bytes()
            except OSError as e:
                raise ConfigError(f"{option}={path} in the etcd URL: {e.strerror}; give a readable PEM file") from e
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except ssl.SSLError as e:
        raise ConfigError(f"cacert, cert or key in the etcd URL can't be used: {e}; give PEM files that match") from e
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
