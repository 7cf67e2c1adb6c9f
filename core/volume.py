# SPDX-License-Identifier: Apache-2.0
"""Open, create and close a volume: metadata URL in; metadata engine, data path and path facade out.

The record store comes from the URL's scheme, the object store from the volume's setting (format §7).
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.chunk.cacheoptions import CacheOptions, open_cache
from core.chunk.merge import Merger
from core.chunk.store import BlockSliceStore
from core.config import mask_url, parse_meta_url
from core.dump.autobackup import autobackup
from core.errors import ConfigError, ObjectError, VolumeError
from core.meta.base import NOATIME
from core.meta.format import Format
from core.meta.meta import Meta, init_format, load_format, require_format
from core.meta.sessions import HEARTBEAT_S
from core.meta.store import RecordStore
from core.object.api import ObjectStore
from core.object.open import normalise_bucket, open_store, prove
from core.object.servers import require_block_fits
from core.vfs.filesystem import FileSystem

if TYPE_CHECKING:
    from core.scrub import ScrubJob

log = logging.getLogger("sluice.volume")

DEFAULT_BUFFER = 300 << 20
UUID_OBJECT = "juicefs_uuid"


#: Scheme of a metadata URL -> module and class of the record store, and the extra that brings its client library.
#: Imported when used, so that nobody pays for a database they don't have.
_ENGINES: Final[dict[str, tuple[str, str, str]]] = {
    "sqlite3": ("core.meta.stores.sqlite", "SQLiteStore", ""),
    "redis": ("core.meta.stores.redis", "RedisStore", ""),
    "rediss": ("core.meta.stores.redis", "RedisStore", ""),
    "unix": ("core.meta.stores.redis", "RedisStore", ""),
    "postgres": ("core.meta.stores.postgres", "PostgresStore", "postgres"),
    "mysql": ("core.meta.stores.mysql", "MySQLStore", "mysql"),
    "etcd": ("core.meta.stores.etcd", "EtcdStore", "etcd"),
    "tikv": ("core.meta.stores.tikv", "TiKVStore", "tikv"),
    "memkv": ("core.meta.stores.memory", "MemoryStore", ""),
}


def open_record_store(meta_url: str) -> RecordStore:
    """The record store that a metadata URL names; not connected yet. Text without `://` is a Redis address."""
    parsed = parse_meta_url(meta_url)
    engine = _ENGINES.get(parsed.scheme)
    if engine is None:
        raise ConfigError(
            f"metadata scheme {parsed.scheme!r} is not supported; use sqlite3://PATH, redis://HOST:PORT/DB, "
            "postgres://USER@HOST/DB, mysql://USER@(HOST:3306)/DB, etcd://HOST:2379/PREFIX or tikv://PD:2379/PREFIX"
        )
    module, name, extra = engine
    try:
        store: type[RecordStore] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as e:
        if not extra or (e.name or "").startswith("core."):
            raise
        raise ConfigError(
            f"{parsed.scheme}:// needs the Python package {e.name}; install it with `pip install 'sluicefs[{extra}]'`"
        ) from e
    return store.from_url(meta_url)


class Volume:
    """One opened volume. `close` ends its session."""

    def __init__(self, fmt: Format, meta: Meta, objects: ObjectStore, slices: BlockSliceStore, fs: FileSystem) -> None:
        self.format = fmt
        self.meta = meta
        self.objects = objects
        self.slices = slices
        self.fs = fs
        #: Reads data back in the background, if this client was asked to.
        self.scrub: ScrubJob | None = None

    async def close(self) -> None:
        await self.meta.close()
        await self.slices.close()
        await self.objects.close()


def open_objects(fmt: Format, *, storage: str | None = None, bucket: str | None = None, **limits: float) -> ObjectStore:
    """The object store of a volume, with the overrides that a user gives for a moved volume."""
    plain = fmt.with_plain_secrets()
    kind = storage or fmt.storage
    return open_store(
        kind,
        normalise_bucket(kind, bucket) if bucket else fmt.bucket,
        volume=fmt.name,
        access_key=plain.access_key,
        secret_key=plain.secret_key,
        session_token=plain.session_token,
        shards=fmt.shards,
        encrypt_key_pem=plain.encrypt_key,
        encrypt_algo=fmt.encrypt_algo,
        storage_class=fmt.tier(0).storage_class,
        tag=fmt.tier(0).tag,
        upload_limit_mbps=limits.get("upload_limit", 0) or fmt.upload_limit,
        download_limit_mbps=limits.get("download_limit", 0) or fmt.download_limit,
    )


async def open_volume(
    meta_url: str,
    *,
    read_only: bool = False,
    session: bool = True,
    jobs: bool = True,
    mount_point: str = "sdk",
    heartbeat_s: int = HEARTBEAT_S,
    backup_meta: float = 0,
    atime_mode: str = NOATIME,
    storage: str | None = None,
    bucket: str | None = None,
    cache_dir: str | None = None,
    cache_size: int | None = None,
    cache: CacheOptions | None = None,
    cache_local: bool = True,
    max_readahead: int | None = None,
    buffer_size: int = DEFAULT_BUFFER,
    max_uploads: int = 20,
    max_downloads: int = 200,
    get_timeout_s: float = 60,
    put_timeout_s: float = 60,
    io_retries: int = 10,
    upload_limit: float = 0,
    download_limit: float = 0,
    link_root: bytes = b"",
    umask: int = 0,
    scrub: float = 0,
) -> Volume:
    """Connect to a volume that exists. VolumeError, ConfigError or MetaError say what is wrong and what to do.

    session: register this client (gc and similar tools don't). backup_meta: seconds between automatic backups of the
    metadata into the object store, by whichever client is due; 0 is never. atime_mode: noatime, relatime, strictatime.
    cache_dir: folders of the disk cache, or "memory"; cache_size in bytes, 0: no cache. cache: the rest about caches.
    cache_local: also where objects are local files. buffer_size: memory budget in bytes for everything else.
    max_readahead: bytes ahead of one sequential reader (None: as much as pays). Bandwidth limits in Mbit/s.
    scrub: read all blocks back in the background, so many bytes a second, by one client of the volume at a time.
    """
    store = open_record_store(meta_url)
    await store.open()
    objects: ObjectStore | None = None
    slices: BlockSliceStore | None = None
    try:
        fmt = await require_format(store, mask_url(meta_url))
        if fmt.change_log and not store.caps.change_log:
            log.warning("volume %s asks for a change log, which %s can't keep: none is written", fmt.name, store.name)
        objects = open_objects(
            fmt, storage=storage, bucket=bucket, upload_limit=upload_limit, download_limit=download_limit
        )
        meta = Meta(store, fmt, read_only=read_only, atime_mode=atime_mode)
        wanted = cache or CacheOptions()
        if read_only and wanted.writeback:
            log.warning("--writeback has no effect with --read-only: what is staged waits for a client that may write")
            wanted = msgspec.structs.replace(wanted, writeback=False)
        if not cache_local and not wanted.writeback and objects.features.local_path and fmt.compression in ("", "none"):
            cache_dir = None  # a second file beside the object's own
        blocks, wanted = open_cache(
            cache_dir,
            cache_size,
            wanted,
            uuid=fmt.uuid,
            hash_prefix=fmt.hash_prefix,
            buffer_size=buffer_size,
        )
        slices = BlockSliceStore(
            objects,
            block_size=fmt.block_size,
            compression=fmt.compression,
            hash_prefix=fmt.hash_prefix,
            new_slice_id=meta.slice_ids.take,
            cache=blocks,
            staging=wanted.staging(),
            cache_large_write=wanted.large_write,
            cache_partial_only=wanted.partial_only,
            prefetch=wanted.prefetch,
            max_readahead=max_readahead,
            memory_budget=buffer_size,
            max_uploads=max_uploads,
            max_downloads=max_downloads,
            get_timeout_s=get_timeout_s,
            put_timeout_s=put_timeout_s,
            retries=io_retries,
            # Clients before 1.0 miscount shared slices when they compact, and delete them. A volume that admits such
            # clients gets none.
            share_slices=bool(fmt.min_client_version),
        )
        await slices.start()
        if not read_only:
            meta.remove_slice = slices.remove
            meta.merge_slices = Merger(slices)
            meta.on_deleted = meta.delete_data_soon
            meta.on_freed = meta.delete_slices_soon
        volume = Volume(fmt, meta, objects, slices, FileSystem(meta, slices, link_root=link_root, umask=umask))
        if scrub and not read_only:
            from core.scrub import ScrubJob

            volume.scrub = ScrubJob(volume, scrub)
        if session:
            await meta.new_session(mount_point, heartbeat_s=heartbeat_s)
            if jobs and not read_only:
                meta.start_jobs()
                if backup_meta:
                    meta.start_job(backup_meta / 10, partial(autobackup, meta, objects, backup_meta))
                if volume.scrub is not None:
                    meta.start_job(volume.scrub.ask_s, volume.scrub)
        else:
            await meta.reload_usage()
    except BaseException:
        if slices is not None:
            await slices.close()
        if objects is not None:
            await objects.close()
        await store.close()
        raise
    return volume


async def format_volume(meta_url: str, fmt: Format, *, force: bool = False, no_update: bool = False) -> Format:
    """Create a volume, or change the settings of an existing one; returns what is stored now.

    Proves the object store first (put, get, compare, delete) and refuses a prefix that holds objects already.
    JFS_NO_CHECK_OBJECT_STORAGE skips both.
    """
    store = open_record_store(meta_url)
    await store.open()
    try:
        old = await load_format(store)
        if old is not None:
            if no_update:
                return old
            fmt = fmt if force else fmt.replacing(old)
        fmt.validate()
        require_block_fits(fmt.storage, fmt.block_size)
        objects = open_objects(fmt)
        try:
            check = not os.environ.get("JFS_NO_CHECK_OBJECT_STORAGE")
            if check:
                await prove(objects)
            if old is None or force:
                if check and not force:
                    await _require_empty(objects, fmt)
                try:
                    await objects.put(UUID_OBJECT, fmt.uuid.encode())
                except ObjectError as e:
                    raise VolumeError(f"the volume's id can't be written to {fmt.storage} {fmt.bucket}: {e}") from e
            try:
                stored = fmt.with_encrypted_secrets()
                await init_format(store, stored, time.time_ns())
            except BaseException:
                if old is None:
                    await objects.delete(UUID_OBJECT)
                raise
            return stored
        finally:
            await objects.close()
    finally:
        await store.close()


async def _require_empty(objects: ObjectStore, fmt: Format) -> None:
    async for info in objects.list():
        if info.size > 0 and not info.key.endswith("/") and not info.key.startswith("testing"):
            raise VolumeError(
                f"{fmt.storage} {fmt.bucket} already holds objects under {fmt.name}/ ({info.key}); choose another name"
                " or bucket, or empty it, or use --force if the data there may be mixed up"
            )


def volume_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's options that `open_volume` takes, without the ones that weren't given."""
    known = open_volume.__kwdefaults__ or {}
    return {name: value for name, value in options.items() if name in known and value is not None}
