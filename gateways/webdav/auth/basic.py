# SPDX-License-Identifier: Apache-2.0
"""Basic authentication: header to user name and password, and a short memory of pairs that were right.

Clients send Basic with every request; a slow hash at each of them would be the limit of the server. What is remembered
is a keyed hash, never the password. Source: spec webdav §16.1; RFC 7617.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_REMEMBER_S: Final = 300.0
_MAX_REMEMBERED: Final = 4096


def parse(value: str) -> tuple[str, str] | None:
    """(user, password) of an Authorization header's credentials; None if they are malformed."""
    try:
        raw = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    name, colon, password = text.partition(":")
    return (name, password) if colon else None


class Remembered:
    """Names whose credentials were right, for five minutes or until passwords change."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._names: OrderedDict[bytes, tuple[float, int, str]] = OrderedDict()

    def _digest(self, value: str) -> bytes:
        return hashlib.blake2b(value.encode("latin-1", "replace"), key=self._key, digest_size=32).digest()

    def find(self, value: str, generation: int) -> str | None:
        found = self._names.get(self._digest(value))
        return found[2] if found is not None and found[0] > self._clock() and found[1] == generation else None

    def learn(self, value: str, generation: int, name: str) -> None:
        self._names[self._digest(value)] = (self._clock() + _REMEMBER_S, generation, name)
        while len(self._names) > _MAX_REMEMBERED:
            self._names.popitem(last=False)
