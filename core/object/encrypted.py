# SPDX-License-Identifier: Apache-2.0
"""Encryption at rest: every object is one envelope of a wrapped data key, a nonce and an AEAD ciphertext.

    0 u16 K | 2 u8 N | 3 wrapped key (K) | 3+K nonce (N) | 3+K+N ciphertext and 16-byte tag          big endian

The data key is fresh for each object, wrapped by RSA-OAEP (SHA-256 twice, label "keys"). Source: spec data-path §3.2.

Unwrapping costs 0.5 ms with RSA-2048 and 4 ms with RSA-4096, so it never runs on the loop, and the last few thousand
data keys are remembered: who reads an object again (ranges of a block, small files) doesn't pay twice. `cryptography`
keeps the GIL during AEAD (measured), so more than two threads would not encrypt faster.
"""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from core.errors import ConfigError, DataCorrupt
from core.object.api import Buffer, ObjectInfo, ObjectStore
from core.object.buffers import clip, joined, total
from core.object.sm4 import SM4GCM

HEAD = struct.Struct(">HB")
NONCE_BYTES = 12
TAG_BYTES = 16
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"keys")
# Wrapping (public key) and encrypting this much takes less than a hop to a thread and back.
INLINE_BYTES = 64 << 10
THREADS = 2

#: Unwrapped data keys that are remembered: 1.5 MB, a few GiB of whole blocks.
MOST_KEYS = 4096

PASSPHRASE_VARIABLE = "JFS_RSA_PASSPHRASE"  # noqa: S105 - the variable's name
DEFAULT_ALGORITHM = "aes256gcm-rsa"

Cipher = AESGCM | ChaCha20Poly1305 | SM4GCM
#: EncryptAlgo → (cipher, bytes of the data key)
ALGORITHMS: dict[str, tuple[Callable[[bytes], Cipher], int]] = {
    "aes256gcm-rsa": (AESGCM, 32),
    "chacha20-rsa": (ChaCha20Poly1305, 32),
    "sm4gcm": (SM4GCM, 16),
}


def load_key(pem: str, passphrase: str | None = None) -> rsa.RSAPrivateKey:
    """The RSA private key of a volume: PKCS#1 or PKCS#8, plain or protected (passphrase, else JFS_RSA_PASSPHRASE)."""
    secret = passphrase if passphrase is not None else os.environ.get(PASSPHRASE_VARIABLE, "")
    try:
        try:
            key = load_pem_private_key(pem.encode(), secret.encode() if secret else None)
        except TypeError:
            if not secret:
                raise ConfigError(
                    f"the private key of this volume is protected: set {PASSPHRASE_VARIABLE} to its pass phrase"
                ) from None
            key = load_pem_private_key(pem.encode(), None)  # a pass phrase for an unprotected key is tolerated
    except UnsupportedAlgorithm:
        raise ConfigError("the private key of this volume is of a kind (such as SM2) that is not supported") from None
    except ValueError:
        raise ConfigError(
            f"the private key of this volume can't be read: it is no PEM private key, or {PASSPHRASE_VARIABLE} holds "
            "a wrong pass phrase"
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError("the private key of this volume is no RSA key; only RSA is supported")
    return key


class Envelope:
    """`seal` and `open`, blocking; safe to call from several threads."""

    def __init__(self, key: rsa.RSAPrivateKey, algorithm: str = "") -> None:
        name = algorithm or DEFAULT_ALGORITHM
        if name not in ALGORITHMS:
            raise ConfigError(f"encryption algorithm {name!r} is not known; known: {', '.join(ALGORITHMS)}")
        self._cipher, self._key_bytes = ALGORITHMS[name]
        self._cipher(bytes(self._key_bytes))  # refuses here, not at the first block, what the library lacks
        self._private = key
        self._public = key.public_key()
        # Wrapped -> unwrapped, the oldest first. Looking needs no lock.
        self._keys: dict[bytes, bytes] = {}
        self._changing = threading.Lock()

    @property
    def overhead(self) -> int:
        """Bytes an envelope is longer than its payload."""
        return HEAD.size + self._private.key_size // 8 + NONCE_BYTES + TAG_BYTES

    def seal(self, data: Buffer | Sequence[Buffer]) -> list[Buffer]:
        key = os.urandom(self._key_bytes)
        nonce = os.urandom(NONCE_BYTES)
        wrapped = self._public.encrypt(key, OAEP)
        head = HEAD.pack(len(wrapped), NONCE_BYTES) + wrapped + nonce
        return [head, self._cipher(key).encrypt(nonce, joined(data), None)]

    def knows(self, data: Buffer) -> bool:
        """Is the data key of an object at hand?"""
        view = memoryview(data)
        if len(view) < HEAD.size:
            return True  # and the rest of it can only be refused
        return bytes(view[HEAD.size : HEAD.size + HEAD.unpack_from(view)[0]]) in self._keys

    def open(self, data: Buffer, what: str = "object") -> bytes:
        """what: names the object in errors."""
        view = memoryview(data)
        if len(view) < HEAD.size:
            raise DataCorrupt(f"{what}: {len(view)} bytes are no encrypted object")
        wrapped_bytes, nonce_bytes = HEAD.unpack_from(view)
        body = HEAD.size + wrapped_bytes + nonce_bytes
        if len(view) < body + TAG_BYTES or not wrapped_bytes or nonce_bytes != NONCE_BYTES:
            raise DataCorrupt(f"{what}: not an encrypted object (or cut short at {len(view)} bytes)")
        try:
            key = self._unwrapped(bytes(view[HEAD.size : HEAD.size + wrapped_bytes]))
            cipher = self._cipher(key)
        except ValueError:
            # The right object gives this only with another key, so reading it again won't help.
            raise DataCorrupt(
                f"{what}: its data key can't be unwrapped; it was written with another RSA key or is damaged",
                retryable=False,
            ) from None
        try:
            return cipher.decrypt(bytes(view[body - nonce_bytes : body]), view[body:], None)
        except InvalidTag:
            raise DataCorrupt(
                f"{what}: decryption failed: the object is damaged or was written with another EncryptAlgo"
            ) from None

    def _unwrapped(self, wrapped: bytes) -> bytes:
        key = self._keys.get(wrapped)
        if key is None:
            key = self._private.decrypt(wrapped, OAEP)
            with self._changing:
                while len(self._keys) >= MOST_KEYS:
                    del self._keys[next(iter(self._keys))]
                self._keys[wrapped] = key
        return key


class EncryptedStore(ObjectStore):
    """`EncryptedStore(store, Envelope(load_key(pem), "aes256gcm-rsa"))`.

    Sizes in `head` and `list` are those of the stored envelopes; a range fetches the whole object.
    """

    def __init__(self, store: ObjectStore, envelope: Envelope) -> None:
        self.store = store
        self.name = store.name
        self.features = store.features._replace(ranges=False, local_path=False)
        self._envelope = envelope
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sluice-crypt")
        # Objects that exist twice, sealed and open: what the threads are at, and what waits for the loop to take it.
        self._coding = asyncio.Semaphore(2 * THREADS)

    @property
    def overhead(self) -> int:
        """Bytes that an object is longer than what it holds."""
        return self._envelope.overhead

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        if total(data) <= INLINE_BYTES:
            sealed = self._envelope.seal(data)
        else:
            async with self._coding:
                sealed = await asyncio.get_running_loop().run_in_executor(self._threads, self._envelope.seal, data)
        await self.store.put(key, sealed)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        sealed = await self.store.get(key)
        what = f"{self.name}: {key!r}"
        if len(sealed) <= INLINE_BYTES and self._envelope.knows(sealed):
            plain = self._envelope.open(sealed, what)
        else:
            loop = asyncio.get_running_loop()
            async with self._coding:
                plain = await loop.run_in_executor(self._threads, self._envelope.open, sealed, what)
                del sealed
        if start == 0 and length is None:
            return plain
        begin, n = clip(len(plain), start, length)
        return memoryview(plain)[begin : begin + n]

    async def delete(self, key: str) -> None:
        await self.store.delete(key)

    async def head(self, key: str) -> ObjectInfo:
        return await self.store.head(key)

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        return self.store.list(prefix, after)

    async def create(self) -> None:
        await self.store.create()

    async def close(self) -> None:
        await self.store.close()
        self._threads.shutdown(wait=False)
