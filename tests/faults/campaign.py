# SPDX-License-Identifier: Apache-2.0
"""What a kill campaign does and what it demands: concurrent writers that remember, and the state that must be left.

A writer owns one key and knows at each moment which contents that key may have: exactly the acknowledged one, or,
after an answer that never came, the old one or the new one. Nothing else may ever be read there, and nothing in part.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from core.check import check
from core.chunk.naming import block_key, iter_blocks
from core.gc import collect, delayed_slices
from core.meta import keys as k
from core.meta.records import decode_slices
from core.volume import Volume
from tests.faults.client import Answer
from tests.faults.gateway import GatewayProcess, TestVolume

BUCKET = "/bkt"

Content = str | None  # SHA-256 of the bytes; None: no object


class Key:
    """One key and every content it may have now."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.possible: set[Content] = {None}

    def settled(self, content: Content) -> None:
        self.possible = {content}

    def in_doubt(self, content: Content) -> None:
        self.possible.add(content)


class Campaign:
    """Rounds over one gateway. Every random choice comes from `rng`."""

    def __init__(self, gateway: GatewayProcess, rng: random.Random) -> None:
        self.gateway = gateway
        self.rng = rng
        self.keys: list[Key] = []
        self.acknowledged = 0
        self.unanswered = 0
        self.wrong: list[str] = []

    # -- writing -------------------------------------------------------------------------------------------------

    async def round(self, number: int, clients: int, fault: Callable[[], None] | None, after: int) -> None:
        """`clients` writers at once; `fault` happens when `after` requests of the round were acknowledged."""
        start = self.acknowledged
        keys = [Key(f"{BUCKET}/r{number}/d{n % 7}/k{n}") for n in range(clients)]
        shared = [Key(f"{BUCKET}/r{number}/shared{n}") for n in range(3)]
        self.keys += keys + shared
        fresh = [asyncio.ensure_future(self._writer(key, random.Random(self.rng.random()))) for key in keys]
        fresh += [asyncio.ensure_future(self._rival(key, random.Random(self.rng.random()))) for key in shared * 4]
        pending = set(fresh)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=0.005)
            if fault is not None and self.acknowledged - start >= after:
                fault()
                fault = None
        for task in fresh:
            task.result()
        assert fault is None, "the round ended before its fault; give it more clients"

    async def _writer(self, key: Key, rng: random.Random) -> None:
        for _ in range(rng.randint(1, 3)):
            step = rng.random()
            if step < 0.15 and key.possible != {None}:
                await self._delete(key)
            elif step < 0.3:
                await self._multipart(key, rng)
            else:
                await self._put(key, rng)

    async def _put(self, key: Key, rng: random.Random) -> None:
        body = content(rng)
        await self._send(key, digest(body), lambda: self.gateway.request("PUT", key.path, body))

    async def _delete(self, key: Key) -> None:
        await self._send(key, None, lambda: self.gateway.request("DELETE", key.path))

    async def _multipart(self, key: Key, rng: random.Random) -> None:
        """Parts on the way are invisible; only the completion may change the key."""
        begun = await self.gateway.request("POST", key.path, query="uploads=")
        found = re.search(rb"<UploadId>([^<]+)</UploadId>", begun.body)
        if not self._judge(begun) or not found:
            return
        upload, parts, whole = found[1].decode(), "", b""
        for number in (1, 2):
            body = content(rng, 64 << 10)
            sent = await self.gateway.request(
                "PUT", key.path, body, query=f"partNumber={number}&uploadId={quote(upload, safe='')}"
            )
            if not self._judge(sent):
                return
            whole += body
            parts += f"<Part><PartNumber>{number}</PartNumber><ETag>{sent.headers['etag']}</ETag></Part>"
        document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        await self._send(
            key, digest(whole),
            lambda: self.gateway.request("POST", key.path, document, query=f"uploadId={quote(upload, safe='')}"),
        )  # fmt: skip

    async def _send(self, key: Key, after: Content, send: Callable[[], Awaitable[Answer]]) -> None:
        before = set(key.possible)
        key.in_doubt(after)
        answer = await send()
        if self._judge(answer):
            key.settled(after)
        elif answer.status and answer.status < 500:
            key.possible = before  # refused: nothing changed

    async def _rival(self, key: Key, rng: random.Random) -> None:
        """One of several writers of a key: any content that was ever sent may win, but only a whole one."""
        body = content(rng)
        key.in_doubt(digest(body))
        if self._judge(await self.gateway.request("PUT", key.path, body)):
            key.possible.discard(None)

    def _judge(self, answer: Answer) -> bool:
        if answer.ok:
            self.acknowledged += 1
            return True
        self.unanswered += 1
        if answer.status and answer.status not in (500, 503, 409, 404):
            self.wrong.append(f"{answer.status} {answer.code}")
        return False

    # -- reading -------------------------------------------------------------------------------------------------

    async def verify(self, keys: list[Key] | None = None) -> None:
        """Every key has one of the contents that it may have, and from now on exactly that one."""
        gate = asyncio.Semaphore(16)

        async def read(key: Key) -> str:
            async with gate:
                answer = await self.gateway.request("GET", key.path)
            got: Content = digest(answer.body) if answer.status == 200 else None
            if answer.status not in (200, 404):
                return f"{key.path}: GET answered {answer.status} {answer.code}"
            if got not in key.possible:
                return f"{key.path}: has {got} of {len(answer.body)} bytes, may have {key.possible}"
            key.settled(got)
            return ""

        wrong = [text for text in await asyncio.gather(*map(read, keys or self.keys)) if text]
        assert not wrong, "\n".join(wrong)
        assert not self.wrong, self.wrong


def content(rng: random.Random, least: int = 1 << 10) -> bytes:
    """1 KiB to 1 MiB, small ones more often; no two alike."""
    size = int(least * ((1 << 20) / least) ** rng.random())
    return rng.randbytes(16) + bytes(size - 16)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


# -- what must be left when everybody has gone ---------------------------------------------------------------------


async def require_clean(volume: TestVolume) -> None:
    """After cleaning up with nobody else at work: no findings, no leftovers, objects exactly those in use."""
    opened = await volume.open()
    try:
        # Sessions of killed workers count as dead an hour from now.
        opened.meta.clock_ns = lambda: time.time_ns() + 3600 * 10**9
        if any(entry.name == b".sys" for entry in await opened.meta.readdir(1)):
            await opened.fs.remove_tree(b"/.sys", skip_trash=True)  # abandoned uploads
        first = await collect(opened, delete=True, min_age_s=0)
        assert not first.failures, first.failures
        findings = await check(opened.meta, objects=opened.objects, confirm=False)
        assert not findings, "\n".join(map(str, findings))
        second = await collect(opened, min_age_s=0)
        left = {
            name: getattr(second, name)
            for name in (
                "stale_sessions",
                "delfiles",
                "unused_slices",
                "miscounted",
                "temporary_files",
                "counters",
                "detached",
            )
        }
        assert not any(left.values()), left
        assert not second.leaked.objects and not second.pending.objects and not second.skipped.objects, second
        assert await stored(opened) == await used(opened)
        assert [key async for key, _ in opened.meta.store.scan(k.SESSION)] == []
    finally:
        await opened.close()
    hidden = [path for path in Path(volume.objects).rglob(".*") if path.is_file()]
    assert not hidden, hidden


async def stored(volume: Volume) -> set[str]:
    return {info.key async for info in volume.objects.list("chunks/")}


async def used(volume: Volume) -> set[str]:
    """Keys of all objects that records refer to."""
    slices = {(s.id, s.size) async for _, raw in volume.meta.store.scan(k.CHUNK) for s in decode_slices(raw) if s.id}
    slices |= {pair async for pair in delayed_slices(volume.meta.store)}
    fmt = volume.format
    return {block_key(*b, fmt.hash_prefix) for s in slices for b in iter_blocks(*s, fmt.block_size)}
