# SPDX-License-Identifier: Apache-2.0
"""What a user may say about the caches of a client, and the cache that this makes.

Source: data-path §12.3 (options and defaults), §5.9 (memory), §5.7 (queue). Parsing of texts is the affair of whoever
has them; here are values, their limits and what they mean together. ConfigError says what to change.
"""

from __future__ import annotations

import logging
import os
from typing import Final

import msgspec

from core.chunk.blockcache import BlockCache
from core.chunk.cachedir import CacheLimits
from core.chunk.cachefile import Level
from core.chunk.cacheindex import Eviction
from core.chunk.diskcache import DiskCache, split_dirs
from core.chunk.memcache import MemoryCache
from core.chunk.staging import StagingOptions
from core.chunk.uploadhours import parse_upload_hours
from core.errors import ConfigError

log = logging.getLogger("sluice.chunk.cache")

MEMORY: Final = "memory"
DEFAULT_SIZE: Final = 100 << 30
#: `--cache-dir memory` without a size. The default of a disk would be the end of most machines.
DEFAULT_MEMORY: Final = 100 << 20
#: More staged bytes at once than this would mean that every writer waits for the disk anyway.
_QUEUE_SHARE: Final = 5


class CacheOptions(msgspec.Struct, frozen=True):
    """Beside directories and size. mode: of cached files. items: 0 is what the disk has inodes for. free_ratio: share
    of a disk that is left free (0 means 0.1). partial_only: only blocks of which somebody wants parts. large_write:
    also full blocks that are written. prefetch: whole blocks at a time that are fetched after reads of parts.

    writeback: acknowledge what is on the local disk, upload later: after upload_delay_s, within upload_hours, only
    blocks below writeback_threshold (0: all), at most max_stage_write at once (0: no limit).
    """

    mode: int = 0o600
    items: int = 0
    free_ratio: float = 0.1
    partial_only: bool = False
    large_write: bool = False
    verify: Level = "extend"
    eviction: Eviction = "2-random"
    scan_interval_s: float = 3600
    expire_s: float = 0
    prefetch: int = 1
    writeback: bool = False
    writeback_threshold: int = 0
    upload_delay_s: float = 0
    upload_hours: str = ""
    max_stage_write: int = 1000

    def validate(self) -> None:
        if not 0 <= self.free_ratio < 1:
            raise ConfigError(
                f"--free-space-ratio: {self.free_ratio:g} is no share of a disk; write 0.1 to keep a tenth of it free"
            )
        if not 0 <= self.mode <= 0o777 or self.mode & 0o600 != 0o600:
            raise ConfigError(
                f"--cache-mode: {self.mode:04o} isn't between 0600 and 0777 with the owner's right to read and write"
            )
        for name, value in (
            ("--cache-items", self.items), ("--cache-expire", self.expire_s), ("--prefetch", self.prefetch),
            ("--upload-delay", self.upload_delay_s), ("--max-stage-write", self.max_stage_write),
            ("--writeback-threshold-size", self.writeback_threshold),
        ):  # fmt: skip
            if value < 0:
                raise ConfigError(f"{name}: {value:g} is negative; 0 is the least")
        parse_upload_hours(self.upload_hours)

    def staging(self) -> StagingOptions | None:
        """None without writeback."""
        if not self.writeback:
            return None
        return StagingOptions(
            self.writeback_threshold,
            self.upload_delay_s,
            parse_upload_hours(self.upload_hours),
            self.max_stage_write,
        )


def default_cache_dir() -> str:
    """The reference client's, or what SLUICE_CACHE_HOME says (containers mount a volume there)."""
    if chosen := os.environ.get("SLUICE_CACHE_HOME"):
        return chosen
    return "/var/jfsCache" if os.geteuid() == 0 else os.path.expanduser("~/.juicefs/cache")


def open_cache(
    cache_dir: str | None,
    cache_size: int | None,
    options: CacheOptions,
    *,
    uuid: str,
    hash_prefix: bool,
    buffer_size: int,
) -> tuple[BlockCache | None, CacheOptions]:
    """The cache, not started, and the options as they are in force. cache_dir: None for none (small objects are kept
    in memory all the same); cache_size: None is the default of the kind."""
    options.validate()
    in_memory = cache_dir == MEMORY
    if options.writeback and (in_memory or not cache_dir):
        raise ConfigError(
            "--writeback: what is acknowledged must lie on a disk; give --cache-dir one or more folders on local disks"
        )
    if cache_size is not None and cache_size < 0:
        raise ConfigError(f"--cache-size: {cache_size} is negative; 0 means no cache")
    if not cache_dir or cache_size == 0:
        if options.writeback:
            log.warning("--writeback has no effect with --cache-size 0: data is uploaded before it is acknowledged")
        return None, msgspec.structs.replace(options, writeback=False, prefetch=0)
    if in_memory:
        size = DEFAULT_MEMORY if cache_size is None else cache_size
        return MemoryCache(size, eviction=options.eviction, expire_s=options.expire_s, separate=True), options
    limits = CacheLimits(
        size=DEFAULT_SIZE if cache_size is None else cache_size,
        items=options.items,
        free_ratio=options.free_ratio,
        eviction=options.eviction,
        verify=options.verify,
        expire_s=options.expire_s,
        scan_interval_s=options.scan_interval_s,
        file_mode=options.mode,
        queue_bytes=buffer_size // _QUEUE_SHARE,
        writeback=options.writeback,
    )
    folders = split_dirs(cache_dir)
    if not folders:
        raise ConfigError(f"--cache-dir: {cache_dir!r} names no folder; a pattern must match some that exist")
    return DiskCache(folders, uuid, limits, hash_prefix=hash_prefix), options
