# SPDX-License-Identifier: Apache-2.0
"""Who is let in, and with how little: the rights that docs/metadata-redis.md lists, certificates of clients."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from core.errors import ConfigError, MetaError
from core.meta import keys as k
from core.meta.store import ADD, LOG, PUT, RecordStore
from core.meta.stores.redis import RedisStore
from tests.conformance.recordstore.suite import RecordStoreSuite
from tests.servers.redis import PASSWORD_IN_URL, RedisServer, Sentinel
from tests.servers.redis_cluster import RedisCluster

DOCUMENT = Path(__file__).parents[3] / "docs/metadata-redis.md"


def documented_rules() -> list[str]:
    """The words of the ACL rule in the document, for the user `sluice` with the password "PASSWORD"."""
    found = re.search(r"```\nACL SETUSER sluice (.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found
    return found[1].split()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        assert server.cli("ACL", "SETUSER", "sluice", *documented_rules()) == "OK"
        yield server


def as_user(server: RedisServer, db: int) -> str:
    return f"redis://sluice:PASSWORD@127.0.0.1:{server.port}/{db}"


class TestRedisWithFewRights(RecordStoreSuite):
    """Everything a volume needs; only emptying the database beforehand takes the administrator."""

    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RecordStore]:
        server.cli("-n", "1", "FLUSHDB")
        server.cli("ACL", "SETUSER", "sluice", "+flushdb")  # one test of the suite empties a volume
        store = RedisStore(as_user(server, 1))
        await store.open()
        yield store
        await store.close()
        server.cli("ACL", "SETUSER", "sluice", "-flushdb")


@pytest.mark.parametrize("right", ["del", "hincrby", "rpush", "ltrim", "zrem"])
async def test_a_right_that_is_missing_is_named_before_anything_is_changed(server: RedisServer, right: str) -> None:
    server.cli("ACL", "SETUSER", "sluice", f"-{right}")
    store = RedisStore(as_user(server, 2))
    await store.open()
    try:
        for _ in range(2):
            with pytest.raises(MetaError, match=rf"may not run {right.upper()} .*docs/metadata-redis\.md") as caught:
                await store.commit([], [(PUT, k.symlink(1), b"x"), (PUT, k.chunk(1, 0), bytes(24))])
            assert not caught.value.retryable
            assert "PASSWORD" not in str(caught.value)
        assert server.cli("-n", "2", "KEYS", "*") == ""
        server.cli("ACL", "SETUSER", "sluice", f"+{right}")
        await store.commit([], [(PUT, k.symlink(1), b"x")])
        assert server.cli("-n", "2", "KEYS", "*") == "s1"
    finally:
        server.cli("ACL", "SETUSER", "sluice", f"+{right}")
        server.cli("-n", "2", "FLUSHDB")
        await store.close()


async def test_a_user_who_may_only_read_opens_the_volume(server: RedisServer) -> None:
    server.cli("-n", "3", "SET", "s1", "target")
    server.cli("ACL", "SETUSER", "reader", "on", ">PASSWORD", "%R~*", "-@all", "+@read", "+select", "+ping", "+multi",
               "+exec", "+evalsha", "+script|load", "+time")  # fmt: skip
    store = RedisStore(as_user(server, 3).replace("sluice:", "reader:"))
    await store.open()
    try:
        assert await store.read(k.symlink(1), k.node(1)) == [b"target", None]
        assert (await store.resolve(1, [b"a"])).base is None
        assert [key async for key, _ in store.scan(k.SYMLINK)] == [k.symlink(1)]
        with pytest.raises(MetaError, match="NOPERM"):
            await store.commit([], [(PUT, k.symlink(1), b"x")])
    finally:
        await store.close()


async def test_a_user_of_a_cluster_is_confined_to_one_volume() -> None:
    with RedisCluster() as cluster:
        rules = [rule.replace("~*", "~{1}*") for rule in documented_rules()]
        for node in cluster.nodes:
            node.cli("ACL", "SETUSER", "sluice", *rules, "+cluster|info", "+cluster|slots")
        # The masters' own password is another one; seeds are all the same.
        place = cluster.url().rpartition("@")[2].removesuffix("/0")
        mine, other = RedisStore(f"redis://sluice:PASSWORD@{place}/1"), RedisStore(f"redis://sluice:PASSWORD@{place}/2")
        await mine.open()
        await other.open()
        try:
            await mine.commit(
                [], [(PUT, k.flocks(2), {(1, 2): "R"}), (ADD, k.sliceref(1, 2), 1), (LOG, (k.CHANGELOG,), b"x")]
            )
            assert [key async for key, _ in mine.scan(k.SLICEREF)] == [k.sliceref(1, 2)]
            assert [line async for _, line in mine.scan(k.CHANGELOG)] == [b"x"]
            await mine.wipe()
            with pytest.raises(MetaError, match="NOPERM"):
                await other.read(k.node(1))
        finally:
            await mine.close()
            await other.close()


# -- TLS with certificates of both sides ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict() -> Iterator[RedisServer]:
    with RedisServer(tls=True, client_certificates=True) as server:
        assert isinstance(server, RedisServer)
        yield server


async def test_a_client_shows_its_certificate(strict: RedisServer) -> None:
    store = RedisStore(strict.tls_url(1, strict.own_certificate))
    await store.open()
    await store.commit([], [(PUT, k.symlink(1), b"x")])
    assert await store.read(k.symlink(1)) == [b"x"]
    await store.close()


async def test_sentinels_want_certificates_too(strict: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sentinel(strict) as sentinel:
        options = strict.tls_url(1, strict.own_certificate).partition("?")[2]
        url = f"rediss://:{PASSWORD_IN_URL}@vol,127.0.0.1:{sentinel.port}/1"
        store = RedisStore(f"{url}?{options}")
        await store.open()
        await store.commit([], [(PUT, k.symlink(2), b"y")])
        assert await store.read(k.symlink(2)) == [b"y"]
        await store.close()
        monkeypatch.setattr("core.meta.stores.redis.connection.OPEN_PATIENCE_S", 1.5)
        without = RedisStore(f"{url}?tls-ca-cert-file={strict.folder}/ca.pem")
        with pytest.raises(MetaError, match="certificate"):
            await without.open()
        await without.close()


async def test_a_client_without_a_certificate_is_told_at_once(strict: RedisServer) -> None:
    store = RedisStore(strict.tls_url(1))
    began = time.monotonic()
    with pytest.raises(MetaError, match="tls-cert-file") as caught:
        await store.open()
    assert not caught.value.retryable
    assert PASSWORD_IN_URL not in str(caught.value)
    assert time.monotonic() - began < 2.5  # not the patience with a server that is away
    await store.close()


def test_a_certificate_that_cannot_be_read_is_named(strict: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tls-cert-file"):
        RedisStore(strict.tls_url(1, f"&tls-cert-file={tmp_path}/none.pem"))
