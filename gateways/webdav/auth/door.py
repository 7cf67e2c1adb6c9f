# SPDX-License-Identifier: Apache-2.0
"""The doorkeeper: an Authorization header to a user, or 401 with every challenge. Source: spec webdav §16.1."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateways.webdav.auth import basic
from gateways.webdav.auth.digest import Digest, all_challenges
from gateways.webdav.auth.throttle import Throttle
from gateways.webdav.auth.users import ANONYMOUS, User, UserBase
from gateways.webdav.errors import DavError
from gateways.webdav.http import Request


class Doorkeeper:
    """users None: everybody may come in, whatever credentials they bring (Finder insists on a name)."""

    def __init__(
        self, users: UserBase | None, *, realm: str = "SluiceFS", allow_basic: bool = True,
        digest: Digest | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._users = users
        self._realm = realm
        self._allow_basic = allow_basic
        self._digest = digest
        self._sleep = sleep
        self._throttle = Throttle()
        self._remembered = basic.Remembered()

    async def admit(self, request: Request) -> User:
        """401 with a challenge, always: without one clients don't ask their user again."""
        if self._users is None:
            return ANONYMOUS
        header = request.headers.get("authorization")
        if header is None:
            raise self._refusal(request)
        scheme, _, value = header.partition(" ")
        name, stale = "", False
        if scheme.lower() == "basic" and self._allow_basic:
            user = self._remembered.find(value)
            if user is not None:
                return user
            pair = basic.parse(value)
            if pair is not None:
                name = pair[0]
                user = await self._verify(*pair)
                if user is not None:
                    self._remembered.learn(value, user)
                    return user
        elif scheme.lower() == "digest" and self._digest is not None:
            verdict = self._digest.verify(value, request.method, request.target)
            if verdict.user is not None:
                return verdict.user
            stale = verdict.stale
        if not stale:
            delay = self._throttle.failed("address " + request.peer, *(["user " + name] if name else []))
            if delay:
                await self._sleep(delay)
        raise self._refusal(request, stale=stale)

    async def _verify(self, name: str, password: str) -> User | None:
        assert self._users is not None
        if self._users.fast:
            return self._users.verify(name, password)
        return await asyncio.get_running_loop().run_in_executor(None, self._users.verify, name, password)

    def _refusal(self, request: Request, *, stale: bool = False) -> DavError:
        found = all_challenges(self._realm, self._digest, secure=request.secure, stale=stale)
        wanted = [text for text in found if self._allow_basic or not text.startswith("Basic")]
        return DavError(
            401, "User name and password are needed.", headers=[("WWW-Authenticate", text) for text in wanted]
        )
