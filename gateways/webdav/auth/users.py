# SPDX-License-Identifier: Apache-2.0
"""Users of the door, and what each may see. `repr` shows no password.

Source: spec webdav §16.1 (who), §16.2 (roots, read-only users).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from core.errors import ConfigError

#: First complete pair wins. The last is the S3 door's: one user base for both.
PAIRS = (
    ("WEBDAV_USER", "WEBDAV_PASSWORD"),
    ("SLUICE_WEBDAV_USER", "SLUICE_WEBDAV_PASSWORD"),
    ("SLUICE_ACCESS_KEY", "SLUICE_SECRET_KEY"),
    ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
)


class User:
    """Somebody who was recognised."""

    __slots__ = ("name", "read_only")

    def __init__(self, name: str, *, read_only: bool = False) -> None:
        self.name = name
        self.read_only = read_only

    def __repr__(self) -> str:
        return f"User({self.name!r})"


ANONYMOUS = User("")


class UserBase(Protocol):
    """Where passwords are checked. May be slow (bcrypt): `verify` runs in a thread unless `fast`."""

    fast: bool

    def verify(self, name: str, password: str) -> User | None: ...

    def clear_password(self, name: str) -> str | None:
        """For Digest; None if there is none."""


class StaticUsers:
    """Users with clear passwords, as the environment gives them."""

    fast = True

    def __init__(self, passwords: Mapping[str, str], *, read_only: Iterable[str] = ()) -> None:
        self._passwords = dict(passwords)
        self._read_only = frozenset(read_only)

    def __len__(self) -> int:
        return len(self._passwords)

    def verify(self, name: str, password: str) -> User | None:
        known = self._passwords.get(name)
        # The comparison runs for unknown names too, so that they take as long.
        same = hmac.compare_digest((known or "\0").encode("utf-8", "replace"), password.encode("utf-8", "replace"))
        return User(name, read_only=name in self._read_only) if known is not None and same else None

    def clear_password(self, name: str) -> str | None:
        return self._passwords.get(name)

    def passwords(self) -> list[str]:
        """For masking them in logs."""
        return list(self._passwords.values())

    def user(self, name: str) -> User:
        return User(name, read_only=name in self._read_only)


def _value(environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name):
        return value
    if path := environ.get(name + "_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{name}_FILE={path} can't be read: {e}") from e
    return ""


def users_from(environ: Mapping[str, str] = os.environ) -> StaticUsers:
    """The user of the environment; none if nothing is set. Half a pair is an error."""
    for user_name, secret_name in PAIRS:
        user, secret = _value(environ, user_name), _value(environ, secret_name)
        if not user and not secret:
            continue
        if not user or not secret:
            given, absent = (user_name, secret_name) if user else (secret_name, user_name)
            raise ConfigError(f"{given} is set but {absent} is not: set both, or neither for a door without users")
        if ":" in user:
            raise ConfigError(f"{user_name} must not contain a colon: Basic authentication could not send it")
        return StaticUsers({user: secret})
    return StaticUsers({})
