# SPDX-License-Identifier: Apache-2.0
"""SM4-GCM, where the OpenSSL behind `cryptography` has it.

Source: spec data-path §2.1, §3.2 (16-byte key, 12-byte nonce, 16-byte tag after the ciphertext, no additional data).
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core.errors import ConfigError
from core.object.api import Buffer

TAG_BYTES = 16


class SM4GCM:
    """The interface of `cryptography`'s AEAD classes. InvalidTag from `decrypt` means what it means there."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        try:
            self._cipher(bytes(12)).encryptor()
        except UnsupportedAlgorithm:
            raise no_sm() from None

    def _cipher(self, nonce: bytes, tag: bytes | None = None) -> Cipher[modes.GCM]:
        return Cipher(algorithms.SM4(self._key), modes.GCM(nonce, tag))

    def encrypt(self, nonce: bytes, data: Buffer, associated_data: None) -> bytes:
        encryptor = self._cipher(nonce).encryptor()
        return encryptor.update(data) + encryptor.finalize() + encryptor.tag

    def decrypt(self, nonce: bytes, data: Buffer, associated_data: None) -> bytes:
        end = len(data) - TAG_BYTES
        decryptor = self._cipher(nonce, bytes(data[end:])).decryptor()
        return decryptor.update(memoryview(data)[:end]) + decryptor.finalize()


def no_sm() -> ConfigError:
    return ConfigError(
        "this volume uses SM3 and SM4, which the installed `cryptography` package does not offer; install one whose "
        "OpenSSL has them"
    )
