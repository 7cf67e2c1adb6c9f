# SPDX-License-Identifier: Apache-2.0
"""Options of the WebDAV door: one frozen record, defaults as a careful administrator wants them.

Names follow spec webdav §21. Nothing here reads the environment or a command line.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final, Literal

import msgspec

#: Request documents (§2.4).
MAX_XML_BYTES: Final = 1 << 20
MAX_XML_DEPTH: Final = 32
MAX_XML_ELEMENTS: Final = 4096
#: The owner element of a lock (§12.3), and a resource's dead properties (§4.2).
MAX_OWNER_BYTES: Final = 4096
MAX_DEAD_BYTES: Final = 64 << 10
#: Locks in all, and of one principal (§12.2).
MAX_LOCKS: Final = 10_000
MAX_LOCKS_OF_ONE: Final = 1_000
DEFAULT_LOCK_S: Final = 1800
#: A lock's stored expiry is renewed at most so often, and rounded up by as much (§12.2).
REFRESH_WRITE_S: Final = 10


class WebDavConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one door behaves."""

    volume_name: str = "sluice"
    prefix: tuple[bytes, ...] = ()
    external_authorities: tuple[str, ...] = ()
    trusted_proxies: Container[str] = ()
    read_only: bool = False
    umask: int = 0o022
    realm: str = "SluiceFS"
    strict_auth: bool = False

    locks: Literal["shared", "memory", "off"] = "shared"
    lock_max_timeout_s: int = 86400
    lock_relaxed_s: float = 0.0

    depth_infinity: bool = False
    depth_infinity_limit: int = 100_000
    dead_props: bool = True
    disallow_list: bool = False
    html_index: bool = True
    safe_html: bool = False
    mac_hints: bool = True
    mac_files: bool = True
    copy_keep_mtime: bool = True
    store_content_type: bool = False
    gzip: bool = False
    show_trash: bool = False
    #: "nfc": names that are missing are looked for, and made, in that form.
    normalize: Literal["", "nfc"] = ""
    #: "md5": computed while a PUT comes in and kept, so that S3 clients see a real one.
    etag: Literal["", "md5"] = ""
    cors_origins: tuple[str, ...] = ()

    threads: int = 50
    max_body_s: float = 45 * 60

    @property
    def file_mode(self) -> int:
        return 0o666 & ~self.umask

    @property
    def dir_mode(self) -> int:
        return 0o777 & ~self.umask
