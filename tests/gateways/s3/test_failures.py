# SPDX-License-Identifier: Apache-2.0
"""What clients see while something below the gateway is broken, and that it heals by itself: full disks, a database or
an object store that is away, a damaged block. Real processes, real file systems, real servers.

Rules: an error says so (507, 503 with Retry-After, 500), the old object stays whole, nothing half-written is visible,
wrong bytes are never sent, the log names the cause without secrets, and no restart is needed afterwards.
Source: spec s3 §16; design §8 (promises 2 and 6).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.faults.campaign import require_clean
from tests.faults.client import CUT, SECRET_KEY, Answer
from tests.faults.gateway import GatewayProcess, TestVolume
from tests.servers import versitygw as versity
from tests.servers.process import missing, wait_for
from tests.servers.redis import PASSWORD, RedisServer

OLD = b"what was there before " * 100
MIB = 1 << 20
PATIENCE_S = 150


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="sluice-disk-"))
    if os.geteuid() != 0:
        missing("a small file system", "mounting a tmpfs needs root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        missing("a small file system", f"mount of a tmpfs failed: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sluice-fault-") as name:
        yield Path(name)


async def begin(gateway: GatewayProcess) -> None:
    assert (await gateway.request("PUT", "/bkt")).ok
    assert (await gateway.request("PUT", "/bkt/old", OLD)).ok


async def until_ok(gateway: GatewayProcess, method: str, path: str, body: bytes = b"") -> Answer:
    """Repeat until it works again; the deadline only bounds a failure."""
    for _ in range(200):
        answer = await gateway.request(method, path, body)
        if answer.ok:
            return answer
        assert answer.status in (0, 500, 503), answer
        await asyncio.sleep(0.1)
    raise AssertionError(f"{method} {path} never worked again: {answer}")


def require_clear_log(gateway: GatewayProcess, *words: str) -> None:
    text = gateway.log_text()
    for word in words:
        assert word in text, f"{word!r} isn't in the log:\n{text[-3000:]}"
    for secret in (SECRET_KEY, PASSWORD, versity.SECRET_KEY):
        assert secret not in text, "a secret is in the log"
    assert "Traceback" not in text, text[-3000:]


async def keys(gateway: GatewayProcess) -> bytes:
    answer = await gateway.request("GET", "/bkt", query="list-type=2")
    assert answer.ok
    return answer.body


# -- full ------------------------------------------------------------------------------------------------------------


async def _until_full(gateway: GatewayProcess, size: int) -> tuple[int, Answer]:
    """Put objects until one is refused; how many went in, and the refusal."""
    for number in range(100):
        answer = await gateway.request("PUT", f"/bkt/fill{number}", os.urandom(size))
        if not answer.ok:
            return number, answer
    raise AssertionError("it never became full")


async def _full_and_free_again(gateway: GatewayProcess, size: int = MIB // 2) -> None:
    await begin(gateway)
    count, refused = await _until_full(gateway, size)
    assert (refused.status, refused.code) == (507, "InsufficientStorage"), refused
    overwrite = await gateway.request("PUT", "/bkt/old", os.urandom(6 * MIB))
    assert (overwrite.status, overwrite.code) == (507, "InsufficientStorage"), overwrite
    assert (await gateway.request("GET", "/bkt/old")).body == OLD
    listed = await keys(gateway)
    assert b"<Key>fill%d</Key>" % count not in listed and b"<Key>old</Key>" in listed
    for number in range(count):
        assert (await gateway.request("DELETE", f"/bkt/fill{number}")).ok
    fresh = os.urandom(size)
    await until_ok_after_507(gateway, fresh)
    assert (await gateway.request("GET", "/bkt/old")).body == fresh


async def until_ok_after_507(gateway: GatewayProcess, body: bytes) -> None:
    """Deleted data leaves the disk in the background, so the first tries may still find it full."""
    for _ in range(100):
        answer = await gateway.request("PUT", "/bkt/old", body)
        if answer.ok:
            return
        assert answer.status == 507, answer
        await asyncio.sleep(0.1)
    raise AssertionError("still full after everything was deleted")


@pytest.fixture
def volume_on_small_disk(small_disk: Path) -> Iterator[TestVolume]:
    volume = TestVolume(bucket=f"{small_disk}/objects/")
    volume.objects = small_disk / "objects"
    yield volume
    volume.remove()


@pytest.mark.parametrize("trash", [0])
async def test_a_full_object_disk(volume_on_small_disk: TestVolume, trash: int) -> None:
    with GatewayProcess(volume_on_small_disk, "--io-retries", "0") as gateway:
        await _full_and_free_again(gateway)
        require_clear_log(gateway, "No space left")
    await require_clean(volume_on_small_disk)


@pytest.fixture
def volume_with_capacity() -> Iterator[TestVolume]:
    volume = TestVolume(capacity=8 * MIB)
    yield volume
    volume.remove()


async def test_a_full_volume(volume_with_capacity: TestVolume) -> None:
    with GatewayProcess(volume_with_capacity, heartbeat="1s") as gateway:
        await _full_and_free_again(gateway)
    await require_clean(volume_with_capacity)


@pytest.fixture
def database_on_small_disk(small_disk: Path) -> Iterator[TestVolume]:
    volume = TestVolume(f"sqlite3://{small_disk}/meta.db")
    yield volume
    volume.remove()


async def test_a_full_database_disk(database_on_small_disk: TestVolume, small_disk: Path) -> None:
    volume = database_on_small_disk
    with GatewayProcess(volume) as gateway:
        await begin(gateway)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(1 << 14))
        refused = CUT
        for number in range(2000):  # the log of the database has some room left
            refused = await gateway.request("PUT", f"/bkt/{'n' * 200}{number}", b"x")
            if not refused.ok:
                break
        assert (refused.status, refused.code) == (507, "InsufficientStorage"), refused
        assert (await gateway.request("GET", "/bkt/old")).body == OLD
        assert b"n%d</Key>" % number not in await keys(gateway)
        require_clear_log(gateway, "full")
        filler.unlink()
        await until_ok_after_507(gateway, b"works again")
        assert (await gateway.request("GET", "/bkt/old")).body == b"works again"
    await require_clean(volume)


# -- away ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_volume() -> Iterator[tuple[TestVolume, RedisServer]]:
    with RedisServer(save=True) as server:
        assert isinstance(server, RedisServer)
        volume = TestVolume(server.url(1) + "?read-timeout=1s&max-retry-backoff=500ms")
        yield volume, server
        volume.remove()


async def test_redis_goes_away_during_load_and_comes_back(redis_volume: tuple[TestVolume, RedisServer]) -> None:
    volume, server = redis_volume
    with GatewayProcess(volume) as gateway:
        await begin(gateway)
        sent: dict[str, tuple[bytes, Answer]] = {}

        async def put(number: int) -> None:
            body = b"%d" % number * 1000
            sent[f"/bkt/load{number}"] = (
                body,
                await gateway.request("PUT", f"/bkt/load{number}", body, timeout_s=PATIENCE_S),
            )

        load = [asyncio.ensure_future(put(number)) for number in range(60)]
        while not sent:
            await asyncio.sleep(0.001)
        server.kill()
        # Each call waits for as long as the engine hopes that Redis comes back (30 s), so both at once.
        answer, overwrite = await asyncio.gather(
            gateway.request("GET", "/bkt/old", timeout_s=PATIENCE_S),
            gateway.request("PUT", "/bkt/old", b"new", timeout_s=PATIENCE_S),
        )
        assert (answer.status, answer.code) in ((503, "ServiceUnavailable"), (503, "SlowDown")), answer
        assert int(answer.headers["retry-after"]) >= 1
        assert overwrite.status == 503
        require_clear_log(gateway, "Redis")
        server.start()
        await asyncio.gather(*load)
        refused = [answer for _, answer in sent.values() if not answer.ok]
        assert {(answer.status, "retry-after" in answer.headers) for answer in refused} <= {(503, True)}, refused
        assert (await until_ok(gateway, "GET", "/bkt/old")).body in (OLD, b"new")
        for path, (body, answer) in sent.items():
            there = await until_ok(gateway, "GET", path) if answer.ok else await gateway.request("GET", path)
            assert there.body == body or (not answer.ok and there.status == 404), (path, there)
        assert (await gateway.request("PUT", "/bkt/old", b"newer")).ok
    await require_clean(volume)


async def test_the_object_store_goes_away_and_comes_back(folder: Path) -> None:
    server = versity.versitygw()
    with server:
        endpoint = versity.endpoint(server)
        client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=versity.ACCESS_KEY,
            aws_secret_access_key=versity.SECRET_KEY, region_name=versity.REGION,
        )  # fmt: skip
        client.create_bucket(Bucket="blocks")
        volume = await asyncio.to_thread(
            TestVolume, storage="s3", bucket=f"{endpoint}/blocks", access_key=versity.ACCESS_KEY,
            secret_key=versity.SECRET_KEY,
        )  # fmt: skip
        try:
            with GatewayProcess(volume, "--io-retries", "1", "--get-timeout", "3s", "--put-timeout", "3s") as gateway:
                await begin(gateway)
                big = os.urandom(6 * MIB)  # beyond what is kept in memory as small objects
                assert (await gateway.request("PUT", "/bkt/big", big)).ok
                server.kill()
                for method, path, body in (("PUT", "/bkt/old", b"new"), ("PUT", "/bkt/new", os.urandom(5 * MIB))):
                    answer = await gateway.request(method, path, body)
                    assert answer.status in (500, 503), answer
                answer = await gateway.request("GET", "/bkt/big")
                assert answer.status in (0, 500, 503) or answer.body == big, answer.status
                assert (await gateway.request("HEAD", "/bkt/old")).headers["content-length"] == str(len(OLD))
                require_clear_log(gateway, "upload failed")
                server.start()
                assert (await until_ok(gateway, "GET", "/bkt/big")).body == big
                assert (await gateway.request("GET", "/bkt/old")).body == OLD
                await until_ok(gateway, "PUT", "/bkt/old", b"new")
            await require_clean(volume)
        finally:
            volume.remove()


# -- damaged ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def volume() -> Iterator[TestVolume]:
    volume = TestVolume()
    yield volume
    volume.remove()


def _shorten(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [Path.unlink, _shorten, _make_folder])
@pytest.mark.parametrize("size", [100_000, 9 * MIB])
async def test_a_damaged_block_is_never_sent_as_if_it_were_whole(volume: TestVolume, damage: object, size: int) -> None:
    body = os.urandom(size)
    with GatewayProcess(volume) as gateway:
        await begin(gateway)
        assert (await gateway.request("PUT", "/bkt/victim", body)).ok
    blocks = sorted(volume.objects.rglob("*_*_*"), key=lambda path: path.stat().st_size)
    damage(next(p for p in blocks if p.stat().st_size == min(size, 4 * MIB)))  # type: ignore[operator]
    # A new process: what the old one had in memory doesn't help it.
    with GatewayProcess(volume, "--io-retries", "0") as gateway:
        answer = await gateway.request("GET", "/bkt/victim")
        assert answer.status in (0, 500), (answer.status, len(answer.body))
        ranged = await gateway.request("GET", "/bkt/victim", headers={"range": f"bytes={size - 10}-{size - 1}"})
        assert ranged.status in (0, 500) or ranged.body == body[-10:], ranged
        assert (await gateway.request("GET", "/bkt/old")).body == OLD
        wait_for(lambda: "victim" in gateway.log_text(), what="a log line that names the object")
        assert (await gateway.request("DELETE", "/bkt/victim")).ok
