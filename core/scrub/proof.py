# SPDX-License-Identifier: Apache-2.0
"""The proof of one block: fetched from the object store, past all caches, and decoded as a reader would.

Memory: a block and its object per proof under way. Source: spec data-path §3 (encodings), §3.4 (checksums), §9.6.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from core.chunk.encoding import codec_for
from core.chunk.naming import BlockId, block_key
from core.errors import DataCorrupt, ObjectNotFound, SluiceError
from core.meta.format import Format
from core.object.api import Buffer, ObjectStore
from core.object.checksum import crc32c
from core.object.encrypted import EncryptedStore
from core.object.limited import TokenBucket

#: Damage is believed when it was seen twice; what doesn't answer gets more time.
_ATTEMPTS: Final = 3
_PAUSE_S: Final = 0.5
_INLINE: Final = 64 << 10


class BlockProof:
    """`await proof.fault(block)` is None or says what is wrong. bytes_per_s: of objects, as they travel; 0: no limit.

    Single blocks wait for one of `threads` places, so many may be asked for at once.
    """

    def __init__(
        self, objects: ObjectStore, fmt: Format, *, threads: int = 8, bytes_per_s: float = 0, timeout_s: float = 60
    ) -> None:  # fmt: skip
        self.objects = objects
        self.hash_prefix = fmt.hash_prefix
        self.blocks = 0
        self.bytes = 0
        self._codec = codec_for(fmt.compression)
        self._places = asyncio.Semaphore(max(threads, 1))
        self._pace = TokenBucket(bytes_per_s) if bytes_per_s > 0 else None
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="sluice-proof")

    def key(self, block: BlockId) -> str:
        return block_key(*block, self.hash_prefix)

    async def fetch(self, block: BlockId) -> tuple[Buffer, int]:
        """The plain bytes and their CRC-32C. Raises ObjectNotFound, DataCorrupt, or what kept the store from
        answering (ObjectError, OSError, TimeoutError)."""
        async with self._places:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(_PAUSE_S * attempt)
                if self._pace is not None:
                    await self._pace.take(block[2])
                try:
                    async with asyncio.timeout(self._timeout_s):
                        raw = await self.objects.get(self.key(block))
                    self.blocks += 1
                    self.bytes += len(raw)
                    if block[2] <= _INLINE:
                        return self._decoded(raw, block[2])
                    return await asyncio.get_running_loop().run_in_executor(self._threads, self._decoded, raw, block[2])
                except ObjectNotFound:
                    raise
                except DataCorrupt as e:
                    if attempt or not e.retryable:
                        raise
                except (SluiceError, OSError, TimeoutError):
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    async def fault(self, block: BlockId, expected_crc: int | None = None) -> str | None:
        """What is wrong with a block; None if nothing is. A store that doesn't answer is a fault that says so."""
        return (await self.prove(block, expected_crc))[0]

    async def prove(self, block: BlockId, expected_crc: int | None = None) -> tuple[str | None, int | None]:
        """(what is wrong, checksum of what is there)."""
        try:
            _, crc = await self.fetch(block)
        except ObjectNotFound:
            return "the object is missing", None
        except TimeoutError:
            return f"no answer within {self._timeout_s:g} s", None
        except (SluiceError, OSError) as e:
            return str(e) or type(e).__name__, None
        if expected_crc is not None and crc != expected_crc:
            return (
                f"its bytes have changed since they were read before (CRC-32C {crc:08x}, was {expected_crc:08x})",
                crc,
            )
        return None, crc

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    def _decoded(self, raw: Buffer, n: int) -> tuple[Buffer, int]:
        plain = self._codec.decode(raw, n)
        return plain, crc32c([memoryview(plain)])


def object_sizes(fmt: Format, objects: ObjectStore, n: int) -> tuple[int, int]:
    """Least and most bytes that the object of a block of n bytes can have (data-path §3.1, §3.2)."""
    overhead = 0
    store: ObjectStore | None = objects
    while store is not None:
        if isinstance(store, EncryptedStore):
            overhead = store.overhead
            break
        store = getattr(store, "store", None)
    codec = codec_for(fmt.compression)
    if codec.plain:
        # Longer plain objects are read as if they ended at n; an envelope has to be exact.
        return n + overhead, n + overhead if overhead else 1 << 62
    # LZ4 can't do better than 1 to 255; a Zstandard frame of zeros has some bytes whatever it holds.
    least = n // 256 + 1 if codec.name == "lz4" else 1
    return least + overhead, codec.bound(n) + overhead
