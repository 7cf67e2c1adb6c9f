# SPDX-License-Identifier: Apache-2.0
"""Secret fields of a volume's settings: SecretKey, SessionToken, EncryptKey.

base64( nonce 12 ‖ AES-128-GCM ciphertext ‖ tag 16 ), key = MD5 of the UUID as stored, no additional data; with
EncryptAlgo `sm4gcm` SM4-GCM under a key derived by SM3. This hides secrets from a glance, not from who can read the
UUID beside them. Source: spec data-path §2.1, metadata-format §7.2 and the test vector of its §12.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import VolumeError
from core.object.sm4 import SM4GCM, no_sm

NONCE_BYTES = 12
TAG_BYTES = 16

#: What backups hold in place of a secret.
REMOVED = "removed"


def encrypt_secret(text: str, uuid: str, algorithm: str = "", *, nonce: bytes | None = None) -> str:
    """The stored form; empty stays empty. nonce: for tests only."""
    if not text:
        return ""
    nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
    return base64.b64encode(nonce + _cipher(uuid, algorithm).encrypt(nonce, text.encode(), None)).decode("ascii")


def decrypt_secret(stored: str, uuid: str, algorithm: str = "", *, field: str = "secret") -> str:
    """The plain text. Raises VolumeError (never with the secret) if it can't be read."""
    if not stored:
        return ""
    if stored == REMOVED:
        raise VolumeError(f"{field} was removed from this volume's settings (a backup holds none): set it again")
    try:
        data = base64.b64decode(stored, validate=True)
    except binascii.Error:
        raise VolumeError(f"{field}: not base64; the volume's settings are damaged") from None
    if len(data) < NONCE_BYTES + TAG_BYTES:
        raise VolumeError(f"{field}: too short; the volume's settings are damaged")
    nonce, sealed = data[:NONCE_BYTES], data[NONCE_BYTES:]
    try:
        return _cipher(uuid, algorithm).decrypt(nonce, sealed, None).decode()
    except (InvalidTag, UnicodeDecodeError):
        raise VolumeError(
            f"{field} can't be decrypted with this volume's UUID; the settings were mixed up or changed by hand"
        ) from None


def _cipher(uuid: str, algorithm: str) -> AESGCM | SM4GCM:
    if algorithm == "sm4gcm":
        return SM4GCM(_sm3_key(uuid))
    return AESGCM(hashlib.md5(uuid.encode(), usedforsecurity=False).digest())


def _sm3_key(uuid: str) -> bytes:
    """SM3 KDF: the hash of the text and a 4-byte counter that begins with 1; 16 bytes need one round."""
    try:
        digest = hashes.Hash(hashes.SM3())
    except UnsupportedAlgorithm:
        raise no_sm() from None
    digest.update(uuid.encode() + b"\0\0\0\1")
    return digest.finalize()[:16]
