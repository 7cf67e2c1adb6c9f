# SPDX-License-Identifier: Apache-2.0
"""The doorkeeper: an Authorization header to a user, or 401 with every challenge. Source: spec webdav §16.1."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import unquote

from gateways.http.messages import Request
from gateways.webdav.auth import basic
from gateways.webdav.auth.digest import Digest, all_challenges
from gateways.webdav.auth.proxies import NOBODY, Proxies
from gateways.webdav.auth.throttle import Throttle
from gateways.webdav.auth.users import ANONYMOUS, User, UserBase
from gateways.webdav.errors import DavError


class Doorkeeper:
    """users None: everybody may come in, whatever credentials they bring (Finder insists on a name).

    header: name of the header in which a trusted proxy says who it is; then nobody else is asked. read_only: names of
    users who change nothing.
    """

    def __init__(
        self, users: UserBase | None, *, realm: str = "SluiceFS", allow_basic: bool = True,
        digest: Digest | None = None, proxies: Proxies = NOBODY, header: str = "", read_only: Collection[str] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._users = users
        self._realm = realm
        self._allow_basic = allow_basic
        self._digest = digest
        self._proxies = proxies
        self._header = header.lower()
        self._read_only = frozenset(read_only)
        self._sleep = sleep
        self._throttle = Throttle()
        self._remembered = basic.Remembered()

    async def admit(self, request: Request) -> User:
        """401 with a challenge, always: without one clients don't ask their user again."""
        if self._header:
            return self._named_by_proxy(request)
        if self._users is None:
            return ANONYMOUS
        header = request.headers.get("authorization")
        if header is None:
            raise self._refusal(request)
        scheme, _, value = header.partition(" ")
        name, stale = "", False
        if scheme.lower() == "basic" and self._allow_basic:
            generation = self._users.generation()
            known = self._remembered.find(value, generation)
            if known is not None:
                return self._user(known)
            pair = basic.parse(value)
            if pair is not None:
                name = pair[0]
                if await self._verify(*pair):
                    self._remembered.learn(value, generation, name)
                    return self._user(name)
        elif scheme.lower() == "digest" and self._digest is not None:
            verdict = self._digest.verify(value, request.method, request.target)
            if verdict.name is not None:
                return self._user(verdict.name)
            name, stale = verdict.claimed, verdict.stale
        if not stale:
            keys = ["address " + self._proxies.client(request), *(["user " + name] if name else [])]
            delay = self._throttle.failed(*keys)
            if delay:
                await self._sleep(delay)
        raise self._refusal(request, stale=stale)

    def _user(self, name: str) -> User:
        return User(name, read_only=name in self._read_only)

    def _named_by_proxy(self, request: Request) -> User:
        """The proxy has asked for the password; whoever else reaches us is turned away, whatever they send."""
        if request.peer not in self._proxies:
            raise DavError(403, "This server is reached through its proxy only.")
        name = unquote(request.headers.get(self._header, "").strip())
        if not name:
            raise DavError(401, "The proxy named no user.", headers=[("WWW-Authenticate", self._basic())])
        return self._user(name)

    async def _verify(self, name: str, password: str) -> bool:
        assert self._users is not None
        if self._users.fast:
            return self._users.verify(name, password)
        return await asyncio.get_running_loop().run_in_executor(None, self._users.verify, name, password)

    def _basic(self) -> str:
        return f'Basic realm="{self._realm}", charset="UTF-8"'

    def _refusal(self, request: Request, *, stale: bool = False) -> DavError:
        found = all_challenges(self._realm, self._digest, secure=self._proxies.secure(request), stale=stale)
        wanted = [text for text in found if self._allow_basic or not text.startswith("Basic")]
        return DavError(
            401, "User name and password are needed.", headers=[("WWW-Authenticate", text) for text in wanted]
        )
