# SPDX-License-Identifier: Apache-2.0
"""Users of the door: where passwords are checked, and what each user may do. `repr` shows no password.

A `UserBase` answers for one source of users: the environment and keys of the S3 door here, files in `htpasswd.py` and
`htdigest.py`; `Several` joins them. Source: spec webdav §16.1 (who), §16.2 (read-only users).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from core.errors import ConfigError

#: First complete pair wins. Without one the keys of the S3 door are the users (`KeyUsers`).
PAIRS: Final = (
    ("WEBDAV_USER", "WEBDAV_PASSWORD"),
    ("SLUICE_WEBDAV_USER", "SLUICE_WEBDAV_PASSWORD"),
)
#: Hashes of Digest authentication, the better one first.
ALGORITHMS: Final = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}


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

    def verify(self, name: str, password: str) -> bool: ...

    def secret(self, name: str, realm: str, algorithm: str) -> str | None:
        """HASH(name:realm:password) in hex, for Digest; None if the user or this hash isn't known."""

    def algorithms(self, realm: str) -> Sequence[str]:
        """Those for which `secret` can answer; none: Digest is not possible."""

    def generation(self) -> int:
        """Changes when a password may have changed: what was remembered of it no longer counts."""


def same_text(one: str, other: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def digest_secret(name: str, realm: str, password: str, algorithm: str) -> str:
    return ALGORITHMS[algorithm](f"{name}:{realm}:{password}".encode("utf-8", "surrogateescape")).hexdigest()


class StaticUsers:
    """Users with clear passwords, as the environment gives them."""

    fast = True

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = dict(passwords)

    def __len__(self) -> int:
        return len(self._passwords)

    def verify(self, name: str, password: str) -> bool:
        known = self._passwords.get(name)
        # The comparison runs for unknown names too, so that they take as long.
        return same_text(known if known is not None else "\0", password) and known is not None

    def secret(self, name: str, realm: str, algorithm: str) -> str | None:
        known = self._passwords.get(name)
        return None if known is None else digest_secret(name, realm, known, algorithm)

    def algorithms(self, realm: str) -> Sequence[str]:
        return tuple(ALGORITHMS)

    def generation(self) -> int:
        return 0

    def passwords(self) -> list[str]:
        """For masking them in logs."""
        return list(self._passwords.values())


class AccessKey(Protocol):
    """What we need to know of a key of the S3 door."""

    secret_key: str
    enabled: bool
    expires: float | None
    session_token: str


class KeyUsers:
    """The users of the S3 door: access key as name, secret key as password. Temporary keys can't log in here: their
    token has no place in HTTP authentication."""

    fast = True

    def __init__(self, find: Callable[[str], AccessKey | None], clock: Callable[[], float] = time.time) -> None:
        self._find = find
        self._clock = clock

    def _usable(self, name: str) -> AccessKey | None:
        key = self._find(name)
        if key is None or not key.enabled or key.session_token:
            return None
        return None if key.expires is not None and key.expires <= self._clock() else key

    def verify(self, name: str, password: str) -> bool:
        key = self._usable(name)
        return same_text(key.secret_key if key is not None else "\0", password) and key is not None

    def secret(self, name: str, realm: str, algorithm: str) -> str | None:
        key = self._usable(name)
        return None if key is None else digest_secret(name, realm, key.secret_key, algorithm)

    def algorithms(self, realm: str) -> Sequence[str]:
        return tuple(ALGORITHMS)

    def generation(self) -> int:
        # Keys may be disabled at any time, and verifying is cheap: nothing is remembered for longer than a second.
        return int(self._clock())


class Several:
    """Users of several sources; the first that knows name and password admits."""

    def __init__(self, sources: Sequence[UserBase]) -> None:
        self._sources = tuple(sources)
        self.fast = all(source.fast for source in sources)

    def verify(self, name: str, password: str) -> bool:
        return any(source.verify(name, password) for source in self._sources)

    def secret(self, name: str, realm: str, algorithm: str) -> str | None:
        found = (source.secret(name, realm, algorithm) for source in self._sources)
        return next((secret for secret in found if secret is not None), None)

    def algorithms(self, realm: str) -> Sequence[str]:
        """Only if every source can: a client that prefers Digest would never get in as a user of the others."""
        each = [set(source.algorithms(realm)) for source in self._sources]
        common = set.intersection(*each) if each else set[str]()
        return tuple(name for name in ALGORITHMS if name in common)

    def generation(self) -> int:
        return hash(tuple(source.generation() for source in self._sources))


def _value(environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name):
        return value
    if path := environ.get(name + "_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{name}_FILE={path} can't be read: {e}") from e
    return ""


def users_from(environ: Mapping[str, str] = os.environ, pairs: Iterable[tuple[str, str]] = PAIRS) -> StaticUsers:
    """The user of the environment; none if nothing is set. Half a pair is an error."""
    for user_name, secret_name in pairs:
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
