# SPDX-License-Identifier: Apache-2.0
"""Layers beyond the contract: vectors of shards, secrets, envelopes; retries, limits, faults; opening and proving."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from core.errors import ConfigError, DataCorrupt, ObjectError, ObjectNotFound, VolumeError
from core.object.buffers import joined
from core.object.encrypted import EncryptedStore, Envelope, load_key
from core.object.faulty import Fault, FaultyStore
from core.object.file import FileStore
from core.object.limited import LimitedStore, TokenBucket, bytes_per_second
from core.object.memory import MemStore
from core.object.names import named_size
from core.object.open import normalise_bucket, open_store, prove
from core.object.prefix import PrefixStore
from core.object.retried import RetriedStore
from core.object.secrets import decrypt_secret, encrypt_secret
from core.object.sharded import ShardedStore, fnv1a_32, shard_buckets

KEY = rsa.generate_private_key(65537, 2048)
UUID = "00000000-1111-2222-3333-444444444444"


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


# ---- shards


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("myjfs/chunks/0/0/1_0_4194304", 0x964A9AA8),
        ("myjfs/chunks/0/0/1_1_4194304", 0xC721C88F),
        ("myjfs/chunks/0/0/2_0_131072", 0xFD8E63DE),
        ("myjfs/juicefs_uuid", 0x991D29CE),
    ],
)
async def test_fnv_vectors_choose_the_shard(key: str, value: int) -> None:
    assert fnv1a_32(key) == value
    shards = [MemStore(str(i)) for i in range(16)]
    await PrefixStore(ShardedStore(shards), "myjfs/").put(key.removeprefix("myjfs/"), b"x")
    assert [i for i, shard in enumerate(shards) if shard.objects] == [value % 16]


def test_shard_patterns() -> None:
    assert shard_buckets("http://b%d.h", 3) == ["http://b0.h", "http://b1.h", "http://b2.h"]
    for bucket, shards in [("http://b.h", 2), ("b%d%d", 2), ("b%d", 257)]:
        with pytest.raises(ConfigError):
            shard_buckets(bucket, shards)


# ---- secrets


def test_the_secret_of_the_format_specification() -> None:
    stored = "AAECAwQFBgcICQoLPhWpdO/wfmIrpiXN8opuN6RfWypSBA=="
    assert encrypt_secret("secret", UUID, nonce=bytes(range(12))) == stored
    assert decrypt_secret(stored, UUID) == "secret"
    assert encrypt_secret("secret", UUID) != encrypt_secret("secret", UUID)
    assert encrypt_secret("", UUID) == decrypt_secret("", UUID) == ""


@pytest.mark.parametrize("stored", ["removed", "%%%", "AAAA", "AAECAwQFBgcICQoLPhWpdO/wfmIrpiXN8opuN6RfWypSBQ=="])
def test_unreadable_secrets_name_the_field(stored: str) -> None:
    with pytest.raises(VolumeError, match="SecretKey"):
        decrypt_secret(stored, UUID, field="SecretKey")
    with pytest.raises(VolumeError):
        decrypt_secret(encrypt_secret("s", UUID), UUID.replace("0", "1"))


def test_sm4_secrets_or_a_clear_refusal() -> None:
    try:
        stored = encrypt_secret("secret", UUID, "sm4gcm")
    except ConfigError as error:
        assert "OpenSSL" in str(error)
        return
    assert decrypt_secret(stored, UUID, "sm4gcm") == "secret"


# ---- encryption


def pem(key: rsa.RSAPrivateKey, form: PrivateFormat, protection: KeySerializationEncryption) -> str:
    return key.private_bytes(Encoding.PEM, form, protection).decode()


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_keys_plain_and_protected(form: PrivateFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JFS_RSA_PASSPHRASE", raising=False)
    plain, protected = pem(KEY, form, NoEncryption()), pem(KEY, form, BestAvailableEncryption(b"pass"))
    assert load_key(plain).private_numbers() == KEY.private_numbers()
    assert load_key(plain, "tolerated").private_numbers() == KEY.private_numbers()
    with pytest.raises(ConfigError, match="set JFS_RSA_PASSPHRASE"):
        load_key(protected)
    with pytest.raises(ConfigError, match="wrong pass phrase"):
        load_key(protected, "other")
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "pass")
    assert load_key(protected).private_numbers() == KEY.private_numbers()
    with pytest.raises(ConfigError, match="no PEM"):
        load_key("nonsense")
    elliptic = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ConfigError, match="no RSA key"):
        load_key(elliptic.decode())


@pytest.mark.parametrize("algorithm", ["", "aes256gcm-rsa", "chacha20-rsa", "sm4gcm"])
def test_envelopes(algorithm: str) -> None:
    envelope = Envelope(KEY, algorithm)
    sealed = bytes(joined(envelope.seal([b"some ", b"bytes"])))
    assert len(sealed) == 10 + envelope.overhead == 10 + 287
    assert sealed[:3] == b"\x01\x00\x0c"
    assert envelope.open(sealed) == b"some bytes"
    assert envelope.open(joined(envelope.seal(b""))) == b""
    for at in (0, 1, 2, 3, 200, 260, 280, len(sealed) - 1):
        damaged = bytearray(sealed)
        damaged[at] ^= 1
        with pytest.raises(DataCorrupt, match="the object"):
            envelope.open(damaged, "the object")
    for cut in (0, 2, 3, 100, 287, len(sealed) - 1):
        with pytest.raises(DataCorrupt):
            envelope.open(sealed[:cut])
    other = Envelope(rsa.generate_private_key(65537, 2048), algorithm)
    with pytest.raises(DataCorrupt, match="another RSA key") as caught:
        other.open(sealed)
    assert not caught.value.retryable


def test_unknown_algorithms_are_refused() -> None:
    with pytest.raises(ConfigError, match="known: aes256gcm-rsa, chacha20-rsa, sm4gcm"):
        Envelope(KEY, "rot13")


async def test_nothing_readable_reaches_the_store() -> None:
    below = MemStore()
    store = EncryptedStore(below, Envelope(KEY))
    await store.put("k", b"plain text" * 100)
    assert b"plain text" not in below.objects["k"][0]
    await store.close()


# ---- retries


async def test_retries_pause_k_squared_and_give_up() -> None:
    clock = Clock()
    inner = FaultyStore(MemStore(), [Fault("put", times=-1)])
    store = RetriedStore(inner, attempts=5, clock=clock, sleep=clock.sleep, rng=random.Random(1))
    with pytest.raises(ObjectError) as caught:
        await store.put("k", b"x")
    assert inner.calls["put"] == 5
    assert all(k * k * 0.75 <= pause <= k * k for k, pause in enumerate(clock.slept, 1))
    assert "5 attempts" in caught.value.__notes__[0]


async def test_a_passing_fault_is_invisible() -> None:
    clock = Clock()
    inner = FaultyStore(MemStore(), [Fault("*", times=2)])
    store = RetriedStore(inner, clock=clock, sleep=clock.sleep)
    await store.put("k", b"x")
    assert bytes(await store.get("k")) == b"x"
    assert (await store.head("k")).size == 1
    assert [info.key async for info in store.list()] == ["k"]
    await store.delete("k")
    with pytest.raises(ObjectNotFound):
        await store.get("k")
    assert len(clock.slept) == 10


async def test_refusals_are_not_retried_and_deadlines_hold() -> None:
    clock = Clock()
    inner = FaultyStore(MemStore(), [Fault("put", times=-1, retryable=False), Fault("get", times=-1)])
    store = RetriedStore(inner, attempts=100, deadline_s=20, clock=clock, sleep=clock.sleep)
    with pytest.raises(ObjectError):
        await store.put("k", b"x")
    assert clock.slept == []
    with pytest.raises(ObjectError):
        await store.get("k")
    assert clock.now <= 20


async def test_a_hanging_attempt_is_abandoned() -> None:
    clock = Clock()
    inner = FaultyStore(MemStore(), [Fault("get", "hang")])
    await inner.put("k", b"x")
    store = RetriedStore(inner, attempt_timeout_s=0.01, clock=clock, sleep=clock.sleep)
    assert bytes(await store.get("k")) == b"x"


async def test_a_deadline_ends_an_attempt_that_hangs() -> None:
    inner = FaultyStore(MemStore(), [Fault("get", "hang", times=-1)])
    store = RetriedStore(inner, attempt_timeout_s=0, deadline_s=0.05)
    async with asyncio.timeout(10):
        with pytest.raises(ObjectError, match="took longer than"):
            await store.get("k")


@pytest.mark.parametrize("kind", ["truncate", "flip", "other", "extend"])
async def test_faults_that_change_the_data(kind: str) -> None:
    data = bytes(range(256)) * 4
    store = FaultyStore(MemStore(), [Fault("get", kind)], seed=1)
    await store.put("k", data)
    found = bytes(await store.get("k"))
    assert found != data
    assert len(found) == {"truncate": 512, "extend": 1025}.get(kind, 1024)
    assert bytes(await store.get("k")) == data


async def test_a_list_goes_on_where_it_broke() -> None:
    clock = Clock()
    inner = FaultyStore(MemStore(), [Fault("list", "late", times=3)])
    for i in range(10):
        await inner.put(f"{i}", b"")
    store = RetriedStore(inner, clock=clock, sleep=clock.sleep)
    assert [info.key async for info in store.list()] == [str(i) for i in range(10)]


# ---- limits


async def test_limits_pass_the_promised_rate() -> None:
    clock = Clock()
    rate = bytes_per_second(8)
    assert rate == 850_000
    bucket = TokenBucket(rate, clock=clock, sleep=clock.sleep)
    await bucket.take(85_000)  # the bucket is full at first
    assert clock.slept == []
    for _ in range(10):
        await bucket.take(850_000)
    assert clock.now == pytest.approx(10)
    clock.now += 1000
    await bucket.take(85_000)
    await bucket.take(850_000)
    assert clock.slept[-1] == pytest.approx(1)  # idle time is not saved up


async def test_limits_of_both_directions() -> None:
    up, down = Clock(), Clock()
    store = LimitedStore(
        MemStore(),
        TokenBucket(1000, clock=up, sleep=up.sleep),
        TokenBucket(1000, clock=down, sleep=down.sleep),
    )
    await store.put("k", [b"x" * 600, b"y" * 500])
    assert up.now == pytest.approx(1)
    await store.get("k", 0, 600)
    assert down.now == pytest.approx(0.5)
    await store.get("k")
    assert down.now == pytest.approx(1.6)
    assert len(store.store.objects) == 1 if isinstance(store.store, MemStore) else False


async def test_a_whole_block_is_charged_before_it_is_read_and_what_was_saved_is_given_back() -> None:
    clock = Clock()
    store = LimitedStore(MemStore(), None, TokenBucket(1000, clock=clock, sleep=clock.sleep))
    await store.put("chunks/0/0/1_0_2000", b"x" * 500)  # compressed to a quarter
    at_once = [asyncio.ensure_future(store.get("chunks/0/0/1_0_2000")) for _ in range(3)]
    await asyncio.gather(*at_once)
    # The bucket holds 100, each takes 2000 before its request and gives 1500 back after it.
    assert clock.slept[0] == pytest.approx(1.9)
    before = clock.now
    await store.get("chunks/0/0/1_0_2000")
    await store.get("chunks/0/0/1_0_2000")
    assert clock.now - before < 4
    with pytest.raises(ObjectNotFound):
        await store.get("chunks/0/0/2_0_2000")
    before = clock.now
    await store.get("chunks/0/0/1_0_2000", 0, 50)  # nothing is owed for what failed
    assert clock.now - before < 2


@pytest.mark.parametrize(
    "key, size",
    [("v/chunks/0/0/1_0_4194304", 4194304), ("1_0_5", 5), ("meta/dump_x", None), ("juicefs_uuid", None), ("_", None),
     ("12", None), ("a_²", None), ("a_" + "9" * 30, None)],
)  # fmt: skip
def test_sizes_in_names(key: str, size: int | None) -> None:
    assert named_size(key) == size


# ---- faults


async def test_faults_strike_where_they_are_told() -> None:
    store = FaultyStore(
        MemStore(),
        [
            Fault("put", nth=2),
            Fault("put", "late", nth=3),
            Fault("get", "truncate", nth=2),
            Fault("get", "flip", nth=3),
        ],
    )
    await store.put("a", b"12345678")
    with pytest.raises(ObjectError, match="call 2"):
        await store.put("b", b"1")
    with pytest.raises(ObjectError, match="call 3"):
        await store.put("c", b"1")
    assert [info.key async for info in store.list()] == ["a", "c"]
    assert bytes(await store.get("a")) == b"12345678"
    assert bytes(await store.get("a")) == b"1234"
    flipped = bytes(await store.get("a"))
    assert sum((a ^ b).bit_count() for a, b in zip(flipped, b"12345678", strict=True)) == 1
    with pytest.raises(ValueError, match="kind"):
        FaultyStore(MemStore(), [Fault("put", "sneeze")])


async def test_chances_repeat_with_their_seed() -> None:
    async def run(seed: int) -> list[tuple[str, str, int]]:
        store = FaultyStore(MemStore(), [Fault("put", nth=0, chance=0.5)], seed=seed)
        await asyncio.gather(*(store.put(str(i), b"") for i in range(50)), return_exceptions=True)
        return store.struck

    assert await run(1) == await run(1) != await run(2)


# ---- opening


def test_buckets_are_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert normalise_bucket("file", "data") == f"{tmp_path}/data/"
    assert normalise_bucket("FILE", "/var/jfs") == "/var/jfs/"
    assert normalise_bucket("file", "~/d/%d") == "/home/somebody/d/%d/"
    assert normalise_bucket("s3", " http://h.example/b%d ") == "http://h.example/b%d"
    for storage, bucket in [("file", ""), ("minio", "http://h.example"), ("gopher", "x")]:
        with pytest.raises(ConfigError):
            normalise_bucket(storage, bucket)


def test_unknown_storage_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"known: b2, bos,.* wasb, webdav"):
        open_store("gopher", "hole", volume="v")
    with pytest.raises(ConfigError, match="known: own, aioboto3"):
        open_store("s3", "http://h.example/b?client=curl", volume="v")


async def test_the_stack_has_its_order(tmp_path: Path) -> None:
    text = pem(KEY, PrivateFormat.PKCS8, NoEncryption())
    store = open_store("file", f"{tmp_path}/%d", volume="vol", shards=2, encrypt_key_pem=text, upload_limit_mbps=1e6)
    assert isinstance(store, LimitedStore)
    assert isinstance(store.store, EncryptedStore)
    assert isinstance(store.store.store, PrefixStore)
    assert isinstance(store.store.store.store, ShardedStore)
    await store.put("juicefs_uuid", b"u")
    assert [path.relative_to(tmp_path).parts for path in tmp_path.rglob("juicefs_uuid")] == [
        (str(fnv1a_32("vol/juicefs_uuid") % 2), "vol", "juicefs_uuid")
    ]
    await store.close()


async def test_memory_stores_of_one_name_are_one() -> None:
    first, second = open_store("mem", "shared", volume="v"), open_store("mem", "shared", volume="v")
    await first.put("k", b"x")
    assert bytes(await second.get("k")) == b"x"


# ---- proving


async def test_prove_leaves_nothing(tmp_path: Path) -> None:
    store = PrefixStore(FileStore(str(tmp_path)), "vol/")
    await prove(store)
    assert [path for path in tmp_path.rglob("*") if path.name != "vol"] == []
    await store.close()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("put", times=-1, retryable=False), "can't write to"),
        (Fault("get", times=-1, retryable=False), "can't read back from"),
        (Fault("get", "flip", times=-1), "other bytes"),
        (Fault("delete", times=-1, retryable=False), "can't delete from"),
    ],
)
async def test_prove_names_the_step_that_failed(fault: Fault, text: str) -> None:
    clock = Clock()
    with pytest.raises(ObjectError, match=text):
        await prove(FaultyStore(MemStore(), [fault]), sleep=clock.sleep)
    assert clock.slept == ([1, 4] if fault.kind == "flip" else [])


async def test_prove_tries_three_rounds_and_makes_the_bucket() -> None:
    clock = Clock()
    await prove(FaultyStore(MemStore(), [Fault("get", times=2)]), sleep=clock.sleep)
    assert clock.slept == [1, 4]

    class NoBucket(MemStore):
        made = False

        async def create(self) -> None:
            self.made = True

        async def put(self, key: str, data: object) -> None:
            if not self.made:
                raise ObjectError("NoSuchBucket", retryable=False)

        async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            raise ObjectError("stop here", retryable=False)

    store = NoBucket()
    with pytest.raises(ObjectError, match="stop here"):
        await prove(store)
    assert store.made
