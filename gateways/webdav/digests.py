# SPDX-License-Identifier: Apache-2.0
"""Checksums that clients send with a body: proven before anybody can see it.

`Content-MD5`, `OC-Checksum`, `Content-Digest` and `Repr-Digest`. Unknown algorithms are ignored, as the standards ask.
Source: spec webdav §8; RFC 9530.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from core.object.api import Buffer
from gateways.webdav.errors import DavError

_MEMBER: Final = re.compile(r"\s*([a-z0-9*_.-]+)\s*=\s*:([A-Za-z0-9+/=]*):\s*(?:,|$)")
_RFC9530: Final[dict[str, Callable[[], Any]]] = {
    "sha-256": hashlib.sha256, "sha-512": hashlib.sha512, "md5": lambda: hashlib.md5(usedforsecurity=False),
}  # fmt: skip


class _Adler:
    def __init__(self) -> None:
        self._value = 1

    def update(self, data: Buffer) -> None:
        self._value = zlib.adler32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


OC_ALGORITHMS: Final[dict[str, Callable[[], Any]]] = {
    "SHA1": lambda: hashlib.sha1(usedforsecurity=False), "SHA256": hashlib.sha256, "ADLER32": _Adler,
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
}  # fmt: skip


class Checks:
    """What has to come out."""

    def __init__(self) -> None:
        self._expected: list[tuple[str, Any, bytes]] = []
        self.md5: Any = None  # computed whatever the client sent, to be kept as the ETag

    def add(self, header: str, hasher: Any, digest: bytes) -> None:
        self._expected.append((header, hasher, digest))

    def __bool__(self) -> bool:
        return bool(self._expected) or self.md5 is not None

    def update(self, data: Buffer) -> None:
        for _, hasher, _ in self._expected:
            hasher.update(data)
        if self.md5 is not None:
            self.md5.update(data)

    def require(self) -> None:
        for header, hasher, digest in self._expected:
            if not hmac.compare_digest(hasher.digest(), digest):
                raise DavError(400, f"The body does not match its {header}.")


def wanted(headers: Mapping[str, str], *, md5: bool = False) -> Checks | None:
    """None if the client sent no checksum that we know, and no MD5 is to be kept. 400 for values that are none."""
    checks = Checks()
    if md5:
        checks.md5 = _RFC9530["md5"]()
    if text := headers.get("content-md5"):
        checks.add("Content-MD5", _RFC9530["md5"](), _base64(text, "Content-MD5", 16))
    if text := headers.get("oc-checksum"):
        name, _, value = text.strip().partition(":")
        make = OC_ALGORITHMS.get(name.upper())
        if make is not None:
            try:
                checks.add("OC-Checksum", make(), bytes.fromhex(value.strip()))
            except ValueError:
                raise DavError(400, "OC-Checksum can't be read.") from None
    for header in ("content-digest", "repr-digest"):
        for found in _MEMBER.finditer(headers.get(header, "")):
            make = _RFC9530.get(found[1])
            if make is not None:
                checks.add(header.title(), make(), _base64(found[2], header.title(), 0))
    return checks if checks else None


def _base64(text: str, header: str, length: int) -> bytes:
    try:
        value = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if not value or (length and len(value) != length):
        raise DavError(400, f"{header} can't be read.")
    return value
