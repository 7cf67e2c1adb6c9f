# SPDX-License-Identifier: Apache-2.0
"""Users of an htpasswd file: bcrypt, SHA-crypt (`$5$`, `$6$`), apr1 and `{SHA}`. The hashing is passlib's.

Clear text and DES, which Apache knows too, are refused: such a line is named in the log and admits nobody.
Source: spec webdav §16.1; Apache documentation, "Password Formats".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from core.errors import ConfigError
from gateways.webdav.auth.files import UserFile, lines_of

log = logging.getLogger("sluice.webdav.auth")

_SCHEMES: Final = ("bcrypt", "sha256_crypt", "sha512_crypt", "apr_md5_crypt", "ldap_sha1")
#: bcrypt never saw more of a password; newer versions of the library refuse instead of cutting.
_BCRYPT_BYTES: Final = 72


class HtpasswdUsers:
    """One file. `verify` is slow on purpose (the hashes are) and runs in a thread."""

    fast = False

    def __init__(self, path: str) -> None:
        try:
            context = import_module("passlib.context").CryptContext
        except ModuleNotFoundError as error:
            raise ConfigError(f"--htpasswd needs {error.name}: install sluicefs[webdav]") from error
        self._context: Any = context(schemes=_SCHEMES)
        self._file = UserFile(path, self._parse, option="--htpasswd")
        # Compared with for unknown names, so that they take as long as known ones.
        self._dummy = next(iter(self._file.current().values()), None) or self._context.hash("\0", scheme="bcrypt")

    def _parse(self, text: str) -> Mapping[str, str]:
        users: dict[str, str] = {}
        for number, line in lines_of(text):
            name, colon, hashed = line.partition(":")
            hashed = hashed.partition(":")[0]
            if not colon or not name:
                raise ConfigError(f"--htpasswd, line {number}: NAME:HASH is needed, as `htpasswd -B` writes it")
            if self._context.identify(hashed) is None:
                log.warning(
                    "--htpasswd, line %d: the hash of %r is none of bcrypt, SHA-crypt, apr1, {SHA}; this user can't "
                    "log in. Make a new one with `htpasswd -B`", number, name,
                )  # fmt: skip
                continue
            users[name] = hashed
        return users

    def verify(self, name: str, password: str) -> bool:
        hashed = self._file.current().get(name)
        try:
            raw = password.encode("utf-8", "surrogateescape")
            if (hashed or self._dummy).startswith("$2"):
                raw = raw[:_BCRYPT_BYTES]
            return bool(self._context.verify(raw, hashed or self._dummy)) and hashed is not None
        except (ValueError, TypeError):  # NUL in a password and the like
            return False

    def secret(self, name: str, realm: str, algorithm: str) -> str | None:
        return None

    def algorithms(self, realm: str) -> Sequence[str]:
        return ()

    def generation(self) -> int:
        self._file.current()
        return self._file.generation
