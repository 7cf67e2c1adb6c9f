# SPDX-License-Identifier: Apache-2.0
"""Digest authentication with SHA-256 and MD5, `qop=auth`. No IO.

Nonces are signed: a time and random bytes, so every process with the same key accepts them and no two clients share
one. A replayed counter of a nonce is refused by the process that saw it. Source: spec webdav §16.1; RFC 7616.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from gateways.webdav.auth.users import ALGORITHMS, UserBase

NONCE_S: Final = 300
_MAX_NONCES: Final = 4096
_RANDOM: Final = 9  # bytes
_FIELD: Final = re.compile(r'\s*([A-Za-z0-9_*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')


class Verdict(NamedTuple):
    """name: who proved to be whom, None if nobody. claimed: the name that was sent, for counting failures."""

    name: str | None
    stale: bool = False
    claimed: str = ""


def parse(value: str) -> dict[str, str] | None:
    fields: dict[str, str] = {}
    at = 0
    while at < len(value):
        found = _FIELD.match(value, at)
        if found is None:
            return None
        text = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
        if fields.setdefault(found[1].lower(), text) != text:
            return None
        at = found.end()
    return fields


class Digest:
    """Challenges and verdicts. key: the same in all processes of a door."""

    def __init__(self, realm: str, users: UserBase, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._realm = realm
        self._users = users
        self._key = key
        self._clock = clock
        self._seen: OrderedDict[str, tuple[int, int]] = OrderedDict()  # nonce -> (highest count, bitmap below it)

    def _nonce(self, stamp: bytes) -> str:
        return base64.urlsafe_b64encode(stamp + hmac.digest(self._key, stamp, "sha256")[:18]).decode()

    def challenges(self, *, stale: bool = False) -> list[str]:
        nonce = self._nonce(int(self._clock()).to_bytes(6, "big") + secrets.token_bytes(_RANDOM))
        more = ", stale=true" if stale else ""
        return [
            f'Digest realm="{self._realm}", nonce="{nonce}", qop="auth", algorithm={name}, charset=UTF-8{more}'
            for name in self._users.algorithms(self._realm)
        ]

    def verify(self, value: str, method: str, target: str) -> Verdict:
        fields = parse(value)
        if fields is None:
            return Verdict(None)
        algorithm = fields.get("algorithm", "MD5").upper()
        make = ALGORITHMS.get(algorithm)
        needed = ("username", "realm", "nonce", "uri", "response", "qop", "nc", "cnonce")
        if make is None or any(name not in fields for name in needed) or fields["qop"] != "auth":
            return Verdict(None)
        if fields["realm"] != self._realm or not _same_target(fields["uri"], target):
            return Verdict(None)
        name = _name(fields["username"])
        first = self._users.secret(name, self._realm, algorithm)

        def digest(text: str) -> str:
            return make(text.encode("utf-8", "surrogateescape")).hexdigest()

        second = digest(f"{method}:{fields['uri']}")
        count = fields["nc"]
        wanted = digest(f"{first or chr(0)}:{fields['nonce']}:{count}:{fields['cnonce']}:auth:{second}")
        if not hmac.compare_digest(wanted.encode(), fields["response"].lower().encode("utf-8", "replace")):
            return Verdict(None, claimed=name)
        if first is None:
            return Verdict(None, claimed=name)
        if not self._is_fresh(fields["nonce"]) or not self._is_new(fields["nonce"], count):
            return Verdict(None, stale=True)
        return Verdict(name)

    def _is_fresh(self, nonce: str) -> bool:
        try:
            raw = base64.urlsafe_b64decode(nonce)
        except ValueError:
            return False
        if not hmac.compare_digest(self._nonce(raw[: 6 + _RANDOM]).encode(), nonce.encode("utf-8", "replace")):
            return False
        when = int.from_bytes(raw[:6], "big")
        return 0 <= self._clock() - when + 1 <= NONCE_S + 1

    def _is_new(self, nonce: str, count: str) -> bool:
        """Was this counter not used with this nonce? Parallel requests may come in any order, within 64."""
        try:
            number = int(count, 16)
        except ValueError:
            return False
        high, bits = self._seen.pop(nonce, (0, 0))
        if number > high:
            bits = (bits << (number - high) | 1) & (1 << 64) - 1 if number - high < 64 else 1
            high, new = number, True
        else:
            bit = 1 << (high - number)
            new = high - number < 64 and not bits & bit
            bits |= bit if new else 0
        self._seen[nonce] = (high, bits)
        while len(self._seen) > _MAX_NONCES:
            self._seen.popitem(last=False)
        return new


def _same_target(uri: str, target: str) -> bool:
    """Clients may name the URI with scheme and host where the request has a path only."""
    return uri == target or ("://" in uri and "/" + uri.partition("://")[2].partition("/")[2] == target)


def _name(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text


def all_challenges(realm: str, digest: Digest | None, *, secure: bool, stale: bool) -> Iterable[str]:
    """In the order of preference: Basic first where the line is safe, Digest first where it isn't."""
    basic = f'Basic realm="{realm}", charset="UTF-8"'
    others = digest.challenges(stale=stale) if digest is not None else []
    return [basic, *others] if secure else [*others, basic]
