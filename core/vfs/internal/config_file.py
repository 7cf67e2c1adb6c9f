# SPDX-License-Identifier: Apache-2.0
"""`.config`: what this client runs with, as one JSON document. Secrets are taken out. Source: cli §10.1."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from core.log import mask
from core.meta.format import Format
from core.meta.version import CLIENT_VERSION

#: Option of a mount -> where JuiceFS's document has it. What isn't named here stands under `Options` only.
_PLACES: Final[dict[str, tuple[str, str]]] = {
    "read_only": ("Meta", "ReadOnly"),
    "atime_mode": ("Meta", "AtimeMode"),
    "heartbeat": ("Meta", "Heartbeat"),
    "subdir": ("Meta", "Subdir"),
    "no_bgjob": ("Meta", "NoBGJob"),
    "sort_dir": ("Meta", "SortDir"),
    "fast_statfs": ("Meta", "FastStatfs"),
    "open_cache": ("Meta", "OpenCache"),
    "cache_dir": ("Chunk", "CacheDir"),
    "cache_size": ("Chunk", "CacheSize"),
    "buffer_size": ("Chunk", "BufferSize"),
    "max_uploads": ("Chunk", "MaxUpload"),
    "max_downloads": ("Chunk", "MaxDownload"),
    "get_timeout": ("Chunk", "GetTimeout"),
    "put_timeout": ("Chunk", "PutTimeout"),
    "io_retries": ("Chunk", "MaxRetries"),
    "upload_limit": ("Chunk", "UploadLimit"),
    "download_limit": ("Chunk", "DownloadLimit"),
    "writeback": ("Chunk", "Writeback"),
    "prefetch": ("Chunk", "Prefetch"),
    "max_readahead": ("Chunk", "Readahead"),
    "enable_cap": ("Security", "EnableCap"),
    "enable_selinux": ("Security", "EnableSELinux"),
    "metrics": ("Port", "PrometheusAgent"),
    "debug_agent": ("Port", "DebugAgent"),
    "consul": ("Port", "ConsulAddr"),
    "attr_cache": ("", "AttrTimeout"),
    "entry_cache": ("", "EntryTimeout"),
    "dir_entry_cache": ("", "DirEntryTimeout"),
    "negative_entry_cache": ("", "NegEntryTimeout"),
    "readdir_cache": ("", "ReaddirCache"),
    "prefix_internal": ("", "PrefixInternal"),
    "hide_internal": ("", "HideInternal"),
    "root_squash": ("", "RootSquash"),
    "all_squash": ("", "AllSquash"),
    "fuse": ("", "FuseOpts"),
    "state_path": ("", "StatePath"),
    "pid": ("", "Pid"),
    "supervisor_pid": ("", "PPid"),
}
_SECRET: Final = ("password", "secret", "token", "passphrase", "access_key", "encrypt_key", "credential")


def config_document(fmt: Format, options: Mapping[str, Any], *, mount_point: str = "") -> dict[str, Any]:
    document: dict[str, Any] = {
        "Meta": {"MountPoint": mount_point},
        "Format": fmt.redacted().to_dict(),
        "Chunk": {"BlockSize": fmt.block_size, "Compress": fmt.compression, "HashPrefix": fmt.hash_prefix},
        "Security": {},
        "Port": {"PrometheusAgent": "", "DebugAgent": "", "ConsulAddr": "", "PyroscopeAddr": ""},
        "Version": CLIENT_VERSION,
        "Mountpoint": mount_point,
        "Pid": os.getpid(),
        "PPid": os.getppid(),
        "Options": {},
    }
    for name, value in options.items():
        if any(word in name.lower() for word in _SECRET):
            continue
        shown = _plain(value)
        document["Options"][name] = shown
        if name in _PLACES:
            section, key = _PLACES[name]
            (document[section] if section else document)[key] = shown
    return document


def config_text(fmt: Format, options: Mapping[str, Any], *, mount_point: str = "") -> bytes:
    return (
        msgspec.json.format(msgspec.json.encode(config_document(fmt, options, mount_point=mount_point)), indent=1)
        + b"\n"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if not any(word in str(k).lower() for word in _SECRET)}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return mask(str(value))
