# SPDX-License-Identifier: Apache-2.0
"""Access keys: what verification needs to know about them, and the root key from the environment.

A `Credentials` answers from memory; whoever keeps users on the volume implements it and reloads in the background.
There is no default key: a gateway without root credentials does not start.
Source: spec s3 §4.7 (users, minimum lengths), §5.6 (disabled, expired), §8 (owner id), §21 (environment).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from core.errors import ConfigError
from gateways.s3.auth.model import Identity
from gateways.s3.errors import S3Error

MIN_ACCESS_KEY = 3
MIN_SECRET_KEY = 8


class Credential:
    """One access key. `repr` shows no secret."""

    __slots__ = ("access_key", "enabled", "expires", "identity", "secret_key", "session_token")

    def __init__(
        self, access_key: str, secret_key: str, *, identity: Identity | None = None, enabled: bool = True,
        expires: float | None = None, session_token: str = "",
    ) -> None:  # fmt: skip
        self.access_key = access_key
        self.secret_key = secret_key
        self.identity = identity or Identity(access_key, owner_id(access_key), access_key)
        self.enabled = enabled
        self.expires = expires  # Unix time, None for never
        self.session_token = session_token  # temporary credentials must send it with each request

    def __repr__(self) -> str:
        return f"Credential({self.access_key!r})"


class Credentials(Protocol):
    """Finds keys. Called once per signed request on the event loop: must not block."""

    def find(self, access_key: str) -> Credential | None: ...


def require_credential(credentials: Credentials, access_key: str, now: float) -> Credential:
    """The usable credential of an access key; unknown, disabled and expired ones look the same to a client."""
    found = credentials.find(access_key)
    if found is None or not found.enabled or (found.expires is not None and found.expires <= now):
        raise S3Error("InvalidAccessKeyId", extra=(("AWSAccessKeyId", access_key),))
    return found


def check_session_token(credential: Credential, sent: str) -> None:
    """Temporary credentials need their token, permanent ones must not bring one."""
    if (sent or credential.session_token) and not hmac.compare_digest(
        sent.encode("utf-8", "replace"), credential.session_token.encode()
    ):
        raise S3Error("InvalidTokenId")


class StaticCredentials:
    """A fixed set of keys: the root user, and users of tests."""

    def __init__(self, credentials: Iterable[Credential]) -> None:
        self._by_key = {c.access_key: c for c in credentials}

    def find(self, access_key: str) -> Credential | None:
        return self._by_key.get(access_key)


def owner_id(access_key: str) -> str:
    """Default owner id: stable, 64 hex digits like AWS's canonical ids, and not reversible to anything secret."""
    return hashlib.sha256(access_key.encode()).hexdigest()


#: First complete pair wins; the first name of each is what error texts recommend.
PAIRS = (
    ("SLUICE_ACCESS_KEY", "SLUICE_SECRET_KEY"),
    ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
)


def _value(environ: Mapping[str, str], name: str) -> str:
    """NAME, or the content of the file that NAME_FILE names (container secrets)."""
    if value := environ.get(name):
        return value
    if path := environ.get(name + "_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{name}_FILE={path} can't be read: {e}") from e
    return ""


def root_credential(environ: Mapping[str, str] = os.environ) -> Credential:
    """The root key of this process. Raises `ConfigError` if there is none or it is too weak."""
    for user_name, secret_name in PAIRS:
        user, secret = _value(environ, user_name), _value(environ, secret_name)
        if not user and not secret:
            continue
        if not user or not secret:
            given, absent = (user_name, secret_name) if user else (secret_name, user_name)
            raise ConfigError(f"{given} is set but {absent} is not: set both")
        if len(user) < MIN_ACCESS_KEY:
            raise ConfigError(f"{user_name} is too short: it needs at least {MIN_ACCESS_KEY} characters")
        if len(secret) < MIN_SECRET_KEY:
            raise ConfigError(f"{secret_name} is too short: it needs at least {MIN_SECRET_KEY} characters")
        if "," in user or " " in user or not user.isascii() or not user.isprintable():
            # It stands unquoted in the Authorization header: Credential=KEY/DATE/…,
            raise ConfigError(f"{user_name} may only contain printable ASCII without space and comma")
        return Credential(user, secret, identity=Identity(user, owner_id(user), user, root=True))
    raise ConfigError(
        "the S3 gateway needs root credentials and has no default ones: set SLUICE_ACCESS_KEY and SLUICE_SECRET_KEY "
        f"(or MINIO_ROOT_USER and MINIO_ROOT_PASSWORD; at least {MIN_ACCESS_KEY} and {MIN_SECRET_KEY} characters; "
        "with the suffix _FILE they name files that hold the values)"
    )


def root_credentials(environ: Mapping[str, str] = os.environ) -> StaticCredentials:
    return StaticCredentials([root_credential(environ)])
