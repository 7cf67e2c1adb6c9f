# SPDX-License-Identifier: Apache-2.0
"""From a volume's settings to its object store, and the proof that the store works.

A new kind of storage is one line in STORAGES: here, or in the tables of `clouds/registry.py` and `servers.py`.
Order of the layers, outermost first: bandwidth limit, encryption, volume prefix, hedged reads, shards, the store itself
(with its checksum). Source: spec data-path §1.2, §1.4, §3 (write order), §4.2.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import string
from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakValueDictionary

from core.errors import ConfigError, ObjectError
from core.object.api import ObjectStore
from core.object.clouds.registry import OPENERS as CLOUDS, check_bucket
from core.object.encrypted import EncryptedStore, Envelope, load_key
from core.object.file import FileStore
from core.object.hedged import HedgedStore
from core.object.limited import LimitedStore, TokenBucket, bytes_per_second
from core.object.memory import MemStore
from core.object.prefix import PrefixStore
from core.object.s3 import S3Store, parse_bucket
from core.object.servers import NORMALISERS, OPENERS
from core.object.sharded import ShardedStore, shard_buckets

log = logging.getLogger("sluice.object")

#: (storage, bucket, access key, secret key, session token) → store
Opener = Callable[[str, str, str, str, str], ObjectStore]


def _file(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    return FileStore(bucket)


# Two volumes opened on one name in one process share it, as two clients share a bucket.
_memories: WeakValueDictionary[str, MemStore] = WeakValueDictionary()


def _mem(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    return _memories.setdefault(bucket, MemStore(bucket))


def _s3(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    client = parse_bucket(storage, bucket).options.get("client", "")
    if client in ("", "own"):
        return S3Store.open(storage, bucket, access_key, secret_key, session_token)
    if client == "aioboto3":
        from core.object.s3.boto import BotoStore  # an optional dependency

        return BotoStore.open(storage, bucket, access_key, secret_key, session_token)
    raise ConfigError(f"{storage}: client={client!r} in the bucket URL is not known; known: own, aioboto3")


STORAGES: dict[str, Opener] = {"file": _file, "mem": _mem, "minio": _s3, "s3": _s3, **CLOUDS, **OPENERS}


_MOUNTED = "mount it, and use --storage file with the folder as --bucket"

#: Types of the spec that have no client here → the way round (docs/object-stores.md says why).
NOT_OFFERED = {
    "bunny": "its storage has no interface that could be tried",
    "ceph": "use the cluster's RADOS gateway with --storage s3",
    "cifs": _MOUNTED,
    "dragonfly": "use the store behind it",
    "gluster": _MOUNTED,
    "jfs": "a volume can't be the store of another one",
    "nfs": _MOUNTED,
    "smb": _MOUNTED,
    "storj": "use Storj's S3 gateway with --storage s3",
    "tikv": "use another storage; TiKV can keep the metadata",
}

#: Storages with many servers behind one name; a second request to a lone one (a database, SSH, a NAS) only adds load.
HEDGED = frozenset({"s3", "minio", "swift", *CLOUDS} - {"webdav"})


def normalise_bucket(storage: str, bucket: str) -> str:
    """The form in which a bucket is stored in the volume's settings. Raises ConfigError if it can't be used."""
    kind = _known(storage)
    if kind == "file":
        if not bucket:
            raise ConfigError("file: the bucket is empty; give a folder such as /var/jfs")
        return os.path.join(os.path.abspath(os.path.expanduser(bucket)), "")
    if kind in ("s3", "minio"):
        parse_bucket(kind, bucket.replace("%d", "0"))
        return bucket.strip()
    if kind in CLOUDS:
        return check_bucket(kind, bucket)
    if kind in NORMALISERS:
        return NORMALISERS[kind](bucket)
    return bucket


def open_store(
    storage: str,
    bucket: str,
    *,
    volume: str,
    access_key: str = "",
    secret_key: str = "",
    session_token: str = "",
    shards: int = 0,
    encrypt_key_pem: str = "",
    encrypt_algo: str = "",
    passphrase: str | None = None,
    upload_limit_mbps: float = 0,
    download_limit_mbps: float = 0,
    hedge: bool | None = None,
    storage_class: str = "",
    tag: str = "",
) -> ObjectStore:
    """The whole stack for one volume. Opens no connection; raises ConfigError for what can't work.

    passphrase: of the private key, by default from JFS_RSA_PASSPHRASE. Retries are the caller's (`RetriedStore`).
    storage_class, tag (`k=v`): of all objects that are put; what the storage can't do is told in the log and left out.
    hedge: ask late reads a second time; by default for clouds, unless SLUICE_HEDGED_READS is 0.
    """
    kind = _known(storage)
    opener = STORAGES[kind]
    buckets = shard_buckets(bucket, shards) if shards > 1 else [bucket]
    # The key first: a wrong pass phrase must not leave open stores behind.
    envelope = Envelope(load_key(encrypt_key_pem, passphrase), encrypt_algo) if encrypt_key_pem else None
    stores = [opener(kind, one, access_key, secret_key, session_token) for one in buckets]
    if storage_class or tag:
        _use_class(kind, stores, storage_class, tag)
    result = ShardedStore(stores) if len(stores) > 1 else stores[0]
    if _hedges(kind) if hedge is None else hedge:
        result = HedgedStore(result)
    result = PrefixStore(result, f"{volume}/")
    if envelope is not None:
        result = EncryptedStore(result, envelope)
    if upload_limit_mbps > 0 or download_limit_mbps > 0:
        result = LimitedStore(result, _bucket_of(upload_limit_mbps), _bucket_of(download_limit_mbps))
    return result


# Their services have no classes (spec §4.2).
_CLASSLESS = frozenset({"b2", "qiniu", "space", "wasabi"})


def _use_class(kind: str, stores: Sequence[ObjectStore], storage_class: str, tag: str) -> None:
    name, equals, value = tag.partition("=")
    if tag and not (name and equals and value and "=" not in value):
        log.warning("the tag %r is not of the form name=value: objects get none", tag)
        tag = ""
    for store in stores:
        setter = None if kind in _CLASSLESS else getattr(store, "use_class", None)
        if setter is None or not setter(storage_class, tag):
            asked = " and ".join(filter(None, (storage_class and f"storage class {storage_class!r}", tag and "tag")))
            log.warning("%s: this client can't set the %s: objects get the bucket's default", store.name, asked)


def _hedges(kind: str) -> bool:
    return kind in HEDGED and os.environ.get("SLUICE_HEDGED_READS", "").lower() not in ("0", "false", "no", "off")


def _bucket_of(mbps: float) -> TokenBucket | None:
    return TokenBucket(bytes_per_second(mbps)) if mbps > 0 else None


def _known(storage: str) -> str:
    kind = storage.lower()
    if kind in NOT_OFFERED and kind not in STORAGES:
        raise ConfigError(f"storage {storage} is not offered; {NOT_OFFERED[kind]}")
    if kind not in STORAGES:
        raise ConfigError(f"storage {storage!r} is not known; known: {', '.join(sorted(STORAGES))}")
    return kind


# Spec §1.2: up to 3 rounds; these are the pauses after a failed one.
PROOF_PAUSES_S = (1.0, 4.0, 7.0)


async def prove(store: ObjectStore, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """The storage test: put, get, compare and delete an object `testing/<10 random>`; makes a missing bucket.

    Raises ObjectError that says which step failed and why. Retryable failures get three rounds.
    """
    for round_, pause in enumerate(PROOF_PAUSES_S, 1):
        try:
            await _prove_once(store)
            break
        except ObjectError as error:
            if not error.retryable or round_ == len(PROOF_PAUSES_S):
                raise
            await sleep(pause)
    try:
        await store.delete("testing/")  # the folder, on stores that have folders
    except ObjectError:
        pass  # nothing depends on it


async def _prove_once(store: ObjectStore) -> None:
    rng = random.SystemRandom()
    key = "testing/" + "".join(rng.choices(string.ascii_letters + string.digits, k=10))
    data = os.urandom(100)
    try:
        await store.put(key, data)
    except ObjectError as error:
        if "denied" in str(error).lower():
            raise _step("write to", store, error) from error
        try:
            await store.create()
        except ObjectError as second:
            # Which of the two tells more depends on the store: a wrong key fails the first, a missing right the second.
            both = ObjectError(f"{error}; and making it: {second}", retryable=error.retryable and second.retryable)
            raise _step("write to", store, both) from error
        try:
            await store.put(key, data)
        except ObjectError as third:
            raise _step("write to", store, third) from third
    try:
        found = await store.get(key)
    except ObjectError as error:
        raise _step("read back from", store, error) from error
    if bytes(found) != data:
        raise ObjectError(
            f"storage test: {store.name} returned other bytes ({len(found)}) than were written ({len(data)}); "
            "is another object or a cache in the way?"
        )
    try:
        await store.delete(key)
    except ObjectError as error:
        raise _step("delete from", store, error) from error


def _step(what: str, store: ObjectStore, error: ObjectError) -> ObjectError:
    return ObjectError(f"storage test: can't {what} {store.name}: {error}", retryable=error.retryable)
