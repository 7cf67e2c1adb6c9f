# SPDX-License-Identifier: Apache-2.0
"""A gateway for the tests of the application: the real HTTP server in a thread, boto3 in front, a volume behind.

The volume is the in-memory model of `fake_fs`, or a real one (SQLite and a folder) where a test asks for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.vfs.filesystem import FileSystem
from gateways.http.server import Server
from gateways.s3.app import S3Application
from gateways.s3.auth import Credential, Identity, StaticCredentials, owner_id
from gateways.s3.config import S3Config
from tests.gateways.s3.fake_fs import FakeFileSystem

ACCESS_KEY = "testadmin"
SECRET_KEY = "testsecret-0123456789"


def credentials() -> StaticCredentials:
    root = Identity(ACCESS_KEY, owner_id(ACCESS_KEY), ACCESS_KEY, root=True)
    return StaticCredentials([Credential(ACCESS_KEY, SECRET_KEY, identity=root)])


class Gateway:
    """One server in its own loop and thread."""

    def __init__(
        self, fs: FileSystem | None, config: S3Config, *, open_volume: Callable[[], Any] | None = None, **options: Any
    ) -> None:
        self.fs = fs
        self.volume: Any = None
        self._open_volume = open_volume
        self.config = config
        self.options = options
        self.port = 0
        self.app: S3Application
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._server: Server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        if self._open_volume is not None:
            self.volume = await self._open_volume()
            self.fs = self.volume.fs
        assert self.fs is not None
        self.app = S3Application(self.fs, self.config, credentials(), **self.options)
        self._server = Server(self.app)
        await self._server.start("127.0.0.1", 0)
        self.port = self._server.port

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def __enter__(self) -> Gateway:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        self.run(self._server.stop())
        if self.volume is not None:
            self.run(self.volume.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **config: Any) -> Any:
        import boto3
        from botocore.config import Config

        s3 = {"addressing_style": "path", **config.pop("s3", {})}
        return boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
            region_name=config.pop("region", "us-east-1"),
            config=Config(s3=s3, retries={"max_attempts": 0}, **config),
        )  # fmt: skip


@pytest.fixture
def fs() -> FakeFileSystem:
    return FakeFileSystem()


@pytest.fixture
def make_gateway(fs: FakeFileSystem) -> Iterator[Callable[..., Gateway]]:
    """Start gateways over the test's volume; options of `S3Config` by name."""
    running: list[Gateway] = []

    def make(**options: Any) -> Gateway:
        opener = options.pop("open_volume", None)
        app = {n: options.pop(n) for n in ("clock", "probe", "metrics", "observe", "monotonic") if n in options}
        config = S3Config(**{"multi_buckets": True, **options})
        gateway = Gateway(None if opener else fs, config, open_volume=opener, **app)
        running.append(gateway.__enter__())
        return gateway

    yield make
    for gateway in running:
        gateway.__exit__()


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway()


@pytest.fixture
def s3(gateway: Gateway) -> Any:
    client = gateway.client()
    client.create_bucket(Bucket="bkt")
    return client
