# SPDX-License-Identifier: Apache-2.0
"""Who we are to an S3 endpoint: given keys, else what boto users expect, or nobody.

Order: keys of the volume; `anonymous`; environment; then botocore's chain (profiles, shared configuration, web
identity, container and instance roles), if botocore is installed. Source: spec data-path §4.1, §4.2.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from core.errors import ConfigError

# How often a chain is asked again whether its keys are to be renewed (it renews 10–15 minutes before they expire).
RECHECK_S = 60.0


class Credentials(NamedTuple):
    access_key: str
    secret_key: str
    session_token: str = ""

    def __repr__(self) -> str:  # keys never reach a log
        return "Credentials(***)"


class Provider(Protocol):
    """current() is cheap and called for each request; renew=True says that the server found the keys expired."""

    async def current(self, *, renew: bool = False) -> Credentials | None: ...


class Fixed:
    """Given keys, or None for unsigned requests."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    async def current(self, *, renew: bool = False) -> Credentials | None:
        return self._credentials


class Chain:
    """botocore's credential chain, asked in a thread because roles are fetched over the network."""

    def __init__(self, hint: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._hint = hint
        self._clock = clock
        self._source: Any = None
        self._found: Credentials | None = None
        self._checked = 0.0
        self._lock = asyncio.Lock()

    async def current(self, *, renew: bool = False) -> Credentials | None:
        if self._found is not None and not renew and self._clock() - self._checked < RECHECK_S:
            return self._found
        async with self._lock:
            if self._found is None or renew or self._clock() - self._checked >= RECHECK_S:
                self._found = await asyncio.to_thread(self._ask, renew)
                self._checked = self._clock()
        return self._found

    def _ask(self, renew: bool) -> Credentials:
        if self._source is None or renew:
            try:
                from botocore.session import Session  # type: ignore[import-untyped]
            except ImportError:
                raise ConfigError(f"{self._hint}; profiles and roles need the package botocore") from None
            try:
                self._source = Session().get_credentials()
            except Exception as error:  # botocore has a dozen kinds: bad profile, unreadable file, no role
                raise ConfigError(f"the AWS credential chain failed ({type(error).__name__}); {self._hint}") from error
        if self._source is None:
            raise ConfigError(self._hint)
        frozen = self._source.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")


def choose(
    storage: str, access_key: str, secret_key: str, session_token: str, environ: Mapping[str, str] = os.environ
) -> Provider:
    """The provider for the settings of a volume."""
    # Keys copied from a file or a web page bring line ends along.
    access_key, secret_key, session_token = access_key.strip(), secret_key.strip(), session_token.strip()
    if access_key == "anonymous":
        return Fixed(None)
    if access_key or secret_key:
        if not (access_key and secret_key):
            missing = "secret key" if access_key else "access key"
            raise ConfigError(f"{storage}: the {missing} is missing; give both --access-key and --secret-key, or none")
        return Fixed(Credentials(access_key, secret_key, session_token))
    if storage == "minio":
        pair = environ.get("MINIO_ACCESS_KEY", ""), environ.get("MINIO_SECRET_KEY", "")
        if all(pair):
            return Fixed(Credentials(*pair))
    pair = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
    if all(pair):
        return Fixed(Credentials(*pair, environ.get("AWS_SESSION_TOKEN", "")))
    names = (
        "MINIO_ACCESS_KEY and MINIO_SECRET_KEY" if storage == "minio" else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    return Chain(
        f"{storage}: no credentials were found; give --access-key and --secret-key, set {names}, or use the access key "
        "'anonymous' for a public bucket"
    )
