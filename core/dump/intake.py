# SPDX-License-Identifier: Apache-2.0
"""A dump file of either form, from its first byte to a verified `Reading`; which form it is shows in the first byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from core.dump.binary_reader import BackupReader
from core.dump.json_reader import JsonReader
from core.dump.reading import Reading
from core.dump.rebuild import complete, rebuild
from core.dump.verify import verify, verify_records
from core.errors import ConfigError
from core.meta.format import Format
from core.object.secrets import REMOVED, decrypt_secret, encrypt_secret

#: Type of the first segment, the setting.
_BINARY: Final = b"\0\0\0\1"
_OTHERS: Final = ("secret_key", "session_token")


class Bytes(Protocol):
    def read(self, size: int) -> bytes: ...


class _Peeked:
    """Bytes whose beginning has been looked at."""

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self.head = b""
        while len(self.head) < 4 and (more := source.read(4 - len(self.head))):
            self.head += more
        self._rest = self.head

    def read(self, size: int) -> bytes:
        if self._rest:
            data, self._rest = self._rest[:size], self._rest[size:]
            return data
        return self._source.read(size)


async def take_in(
    source: Bytes, reading: Reading, *, binary: bool | None = None, progress: Callable[[int], None] | None = None
) -> str:
    """Read and verify all of it; returns "json" or "binary". What is wrong is in `reading.problems`. `binary`: insist
    on a form. `progress` gets the number of inodes so far."""
    peeked = _Peeked(source)
    if not peeked.head:
        raise ConfigError("the file is empty, or nothing came through the pipe; look for an error of whoever wrote it")
    found = peeked.head == _BINARY
    if binary is not None and binary != found:
        has, way = ("a JSON dump", "without --binary") if not found else ("a binary backup", "with --binary")
        if found or peeked.head.lstrip()[:1] == b"{":
            raise ConfigError(f"the file is {has}; load it {way}")

    async def turn() -> None:
        if progress is not None:
            progress(reading.used_inodes)
        await asyncio.sleep(0)

    if found or binary:
        await BackupReader(peeked.read, reading).read(turn)
        verify_records(reading)
    else:
        await JsonReader(peeked.read, reading).read(turn)
    verify(reading)
    if not reading.problems.error_count:
        (complete if found or binary else rebuild)(reading)
    return "binary" if found or binary else "json"


def with_key(fmt: Format, pem: str, algorithm: str | None = None) -> Format:
    """The setting of an encrypted volume with its data key set again, which a binary backup doesn't carry."""
    if not fmt.encrypt_key:
        raise ConfigError(f"--encrypt-rsa-key: the data of volume {fmt.name} isn't encrypted; leave the option out")
    new = algorithm or fmt.encrypt_algo
    secrets = {"encrypt_key": encrypt_secret(pem, fmt.uuid, new)}
    for name in _OTHERS:
        stored = getattr(fmt, name)
        if stored and stored != REMOVED:
            plain = decrypt_secret(stored, fmt.uuid, fmt.encrypt_algo) if fmt.key_encrypted else stored
            secrets[name] = encrypt_secret(plain, fmt.uuid, new)
    return msgspec.structs.replace(fmt, **secrets, encrypt_algo=new, key_encrypted=True)
