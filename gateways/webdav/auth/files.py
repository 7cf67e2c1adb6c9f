# SPDX-License-Identifier: Apache-2.0
"""A file of users that is read again when it changes. Source: spec webdav §16.1 ("reloaded on change")."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from core.errors import ConfigError

log = logging.getLogger("sluice.webdav.auth")

T = TypeVar("T")

#: Looked at so often at most; a request never waits for more than one stat.
_LOOK_S: Final = 1.0


class UserFile(Generic[T]):
    """`current()` is what the file says. At the start it must be readable; later a bad file leaves the old users in.

    parse: text of the file to its meaning, raises ConfigError. option: named in error texts.
    """

    def __init__(
        self, path: str, parse: Callable[[str], T], *, option: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = Path(path)
        self._parse = parse
        self._option = option
        self._clock = clock
        self._looked = clock()
        self._failed: object = None
        self._stamp = self._stat()
        self._value = self._read()
        self.generation = 1

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigError(f"{self._option} {self._path} can't be read: {os.strerror(error.errno or 0)}") from error
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> T:
        try:
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{self._option} {self._path} can't be read: {os.strerror(error.errno or 0)}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._option} {self._path} is no UTF-8 text: {error.reason}") from error
        return self._parse(text)

    def current(self) -> T:
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return self._value
        self._looked = now
        try:
            stamp = self._stat()
            if stamp != self._stamp:
                self._value = self._read()
                self._stamp = stamp
                self.generation += 1
                log.info("%s %s was read again", self._option, self._path)
            self._failed = None
        except ConfigError as error:
            if str(error) != self._failed:
                log.warning("%s; the users of before stay until it can be read", error)
                self._failed = str(error)
        return self._value


def lines_of(text: str) -> list[tuple[int, str]]:
    """Lines that say something, with their numbers."""
    found = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in found if line and not line.startswith("#")]
