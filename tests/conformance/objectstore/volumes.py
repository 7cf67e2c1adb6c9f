# SPDX-License-Identifier: Apache-2.0
"""What a store is for: a volume through the command line, a server that dies in the middle, a wrong password.

Shared by the tests of stores that are servers. Nothing here knows which one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from core.errors import ConfigError, ObjectError, ObjectNotFound
from core.object.api import ObjectStore
from core.object.open import open_store
from core.object.retried import RetriedStore

ROOT = Path(__file__).parents[3]
#: Ends in every secret that tests hand out, so that one look finds it anywhere.
MARK = "n0t-to-be-seen"


def sluice(*args: object, env: Mapping[str, str] | None = None, code: int = 0) -> str:
    """Output of the command, errors included; it must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "sluicefs", *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    return text


def volume_works(
    folder: Path,
    storage: str,
    bucket: str,
    access_key: str = "",
    secret_key: str = "",
    *options: object,
    session_token: str = "",
    env: Mapping[str, str] | None = None,
) -> None:
    """Format, write, read, find what is nobody's, remove it, and prove that all is there."""
    meta = f"sqlite3://{folder}/volume.db"
    secrets = {"SECRET_KEY": secret_key, "SESSION_TOKEN": session_token, **(env or {})}
    text = sluice(
        "format", meta, "vol", "--storage", storage, "--bucket", bucket, "--access-key", access_key, "--block-size",
        "1M", *options, env=secrets,
    )  # fmt: skip
    assert not secret_key or secret_key not in text
    source, target = folder / "source", folder / "target"
    source.write_bytes(os.urandom(5_000_000))
    sluice("cp", meta, source, ":/a", env=env)
    sluice("cp", meta, ":/a", target, env=env)
    assert target.read_bytes() == source.read_bytes()

    previous = {name: os.environ.get(name) for name in env or {}}
    os.environ.update(env or {})
    try:

        async def leave_an_orphan() -> None:
            store = open_store(
                storage, bucket, volume="vol", access_key=access_key, secret_key=secret_key,
                session_token=session_token,
            )  # fmt: skip
            await store.put("chunks/0/9/9999_0_5", b"12345")
            await store.close()

        async def orphan_is_gone() -> bool:
            store = open_store(
                storage, bucket, volume="vol", access_key=access_key, secret_key=secret_key,
                session_token=session_token,
            )  # fmt: skip
            try:
                await store.head("chunks/0/9/9999_0_5")
            except ObjectNotFound:
                return True
            finally:
                await store.close()
            return False

        asyncio.run(leave_an_orphan())
        sluice("gc", meta, "--delete", env={**(env or {}), "JFS_GC_SKIPPEDTIME": "0"})
        assert asyncio.run(orphan_is_gone())
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    sluice("fsck", meta, "--objects", env=env)


async def survives(
    store: ObjectStore, kill: Callable[[], None], start: Callable[[], None], *, keeps: bool = True
) -> None:
    """The server is killed under eight writers and comes back: every call ends well, nothing acknowledged is lost.

    keeps: the server promises that what it acknowledged is there after a crash.
    """

    async def soon(pause_s: float) -> None:
        await asyncio.sleep(min(pause_s, 0.1))

    patient = RetriedStore(store, attempts=400, deadline_s=60, attempt_timeout_s=20, sleep=soon)
    acknowledged: dict[str, bytes] = {}
    killed = asyncio.Event()
    enough = asyncio.Event()
    over = False

    async def write(worker: int) -> None:
        count = 0
        while not over:
            key, data = f"s/{worker}/{count}", os.urandom(20_000 + worker)
            await patient.put(key, data)
            acknowledged[key] = data
            count += 1
            if len(acknowledged) >= 40 and not killed.is_set():
                enough.set()
            if count % 4 == 0:
                assert bytes(await patient.get(key, 10, 100)) == data[10:110]

    writers = [asyncio.ensure_future(write(worker)) for worker in range(8)]
    try:
        waiting = asyncio.ensure_future(enough.wait())
        await asyncio.wait([waiting, *writers], return_when=asyncio.FIRST_COMPLETED)
        killed.set()
        await asyncio.to_thread(kill)
        before = set(acknowledged)
        await asyncio.to_thread(start)
        target = len(acknowledged) + 40
        while len(acknowledged) < target and not any(writer.done() for writer in writers):
            await asyncio.sleep(0.01)
        over = True
        await asyncio.gather(*writers)
        waiting.cancel()
    finally:
        over = True
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    for key, data in acknowledged.items():
        if keeps or key not in before:
            assert bytes(await patient.get(key)) == data, key
    listed = [info.key async for info in patient.list("s/")]
    assert set(listed) >= (set(acknowledged) if keeps else set(acknowledged) - before)
    assert listed == sorted(listed)


async def refused(store: ObjectStore, *secrets: str) -> str:
    """What the store says to a put that it must refuse for good, without telling a secret."""
    try:
        await store.put("k", b"v")
    except (ConfigError, ObjectError) as error:
        text = str(error)
        assert not getattr(error, "retryable", False), text
        for secret in secrets:
            assert secret not in text
            assert secret not in repr(error.__cause__)
        return text
    finally:
        await store.close()
    raise AssertionError("the store took it")
