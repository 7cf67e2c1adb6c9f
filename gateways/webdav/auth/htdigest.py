# SPDX-License-Identifier: Apache-2.0
"""Users of an htdigest file, `NAME:REALM:HASH`: for Digest, and for Basic where a client prefers that.

HASH is MD5 as Apache's `htdigest` writes it, or SHA-256 (64 digits). Lines of other realms are left alone.
Source: spec webdav §16.1; RFC 7616 §3.4.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from core.errors import ConfigError
from gateways.webdav.auth.files import UserFile, lines_of
from gateways.webdav.auth.users import ALGORITHMS, digest_secret, same_text

_HASH: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_OF_LENGTH: Final = {32: "MD5", 64: "SHA-256"}

#: (realm, name, algorithm) -> hash
_Secrets = Mapping[tuple[str, str, str], str]


class HtdigestUsers:
    """One file. realm: of the door; Basic is checked against its lines."""

    fast = True

    def __init__(self, path: str, realm: str) -> None:
        self._realm = realm
        self._path = path
        self._file = UserFile(path, _parse, option="--htdigest")
        if not self.algorithms(realm):
            raise ConfigError(
                f"--htdigest {path} has no user of the realm {realm!r}; make one with "
                f"`htdigest {path} {realm!r} NAME`, or name the file's realm with --realm"
            )

    def verify(self, name: str, password: str) -> bool:
        secrets = self._file.current()
        good = False
        for algorithm in ALGORITHMS:
            known = secrets.get((self._realm, name, algorithm))
            same = same_text(known or "", digest_secret(name, self._realm, password, algorithm))
            good = good or (known is not None and same)
        return good

    def secret(self, name: str, realm: str, algorithm: str) -> str | None:
        return self._file.current().get((realm, name, algorithm))

    def algorithms(self, realm: str) -> Sequence[str]:
        """Those that every user of the realm has: any of them may come."""
        users: dict[str, set[str]] = {}
        for where, name, algorithm in self._file.current():
            if where == realm:
                users.setdefault(name, set()).add(algorithm)
        common = set.intersection(*users.values()) if users else set[str]()
        return tuple(name for name in ALGORITHMS if name in common)

    def generation(self) -> int:
        self._file.current()
        return self._file.generation


def _parse(text: str) -> _Secrets:
    found: dict[tuple[str, str, str], str] = {}
    for number, line in lines_of(text):
        name, _, rest = line.partition(":")
        realm, _, hashed = rest.rpartition(":")
        hashed = hashed.strip().lower()
        if not name or not realm or not _HASH.fullmatch(hashed):
            raise ConfigError(f"--htdigest, line {number}: NAME:REALM:HASH is needed, as `htdigest` writes it")
        found[realm, name, _OF_LENGTH[len(hashed)]] = hashed
    return found
