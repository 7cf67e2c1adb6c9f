# SPDX-License-Identifier: Apache-2.0
"""Opening the WebDAV door over a volume: the options of `webdav` and of `serve --webdav`, and what runs in a worker.

Workers are forked before any loop or thread exists, so whatever is opened is opened inside `build_app`.
Source: spec webdav §16, §21; cli §5.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import click
import msgspec

from core.config import Address
from core.errors import ConfigError, VolumeError
from core.log import hide
from core.vfs.temporary import Cleaner
from core.volume import DEFAULT_BUFFER
from gateways.webdav.auth.digest import Digest
from gateways.webdav.auth.door import Doorkeeper
from gateways.webdav.auth.users import StaticUsers, User, users_from
from gateways.webdav.config import WebDavConfig
from gateways.webdav.export import Export
from gateways.webdav.locks.records import LockRecords
from gateways.webdav.locks.service import LockService
from gateways.webdav.names import normal_authority, parse_names, parse_prefix, quote_name
from gateways.webdav.server import Application, Limits
from gateways.webdav.workers import Options, serve
from sluicefs.options import DURATION, chain, option, volume_options
from sluicefs.volume import opened

webdav_options = chain(
    option("--prefix", default="", metavar="PATH", help="Serve below this path, such as /dav."),
    option("--external-url", "external_urls", multiple=True, metavar="URL", help="Other addresses of this server."),
    option("--trusted-proxy", "trusted_proxies", multiple=True, metavar="ADDRESS", help="Believe its X-Forwarded-*."),
    option("--auth", type=click.Choice(["auto", "none", "basic", "digest"]), default="auto",
           help="How users log in; auto: Basic and Digest if users are set."),
    option("--realm", default="SluiceFS", metavar="TEXT", help="Shown by clients; keychains remember it."),
    option("--strict-auth", is_flag=True, help="OPTIONS needs a login too."),
    option("--user-root", default="", metavar="PATH", help="What a user sees, such as /home/%u."),
    option("--umask", default="022", metavar="OCTAL", help="For new files and folders."),
    option("--locks", type=click.Choice(["shared", "memory", "off"]), default="shared", help="Where locks live."),
    option("--lock-max-timeout", type=DURATION, default="24h", help="Longest time of a lock."),
    option("--lock-consistency", type=click.Choice(["strict", "relaxed"]), default="strict",
           help="relaxed: look for other servers' locks at most ten times per second."),
    option("--depth-infinity", is_flag=True, help="Allow listings of whole trees."),
    option("--no-dead-props", is_flag=True, help="Refuse to store properties."),
    option("--enable-proppatch", is_flag=True, hidden=True, help="Always on."),
    option("--mac-hints/--no-mac-hints", default=True, help="Keep Finder from indexing and making thumbnails."),
    option("--no-mac-files", is_flag=True, help="Refuse ._* and .DS_Store."),
    option("--disallowList", "disallow_list", is_flag=True, envvar="SLUICE_DISALLOW_LIST", help="No GET of folders."),
    option("--html-index/--no-html-index", default=True, help="Folders as pages for browsers."),
    option("--safe-html", is_flag=True, help="Stored pages run no scripts."),
    option("--copy-keep-mtime/--no-copy-keep-mtime", default=True, help="COPY keeps the date."),
    option("--cors-allow-origin", "cors_origins", multiple=True, metavar="ORIGIN", help="Allow pages of this site."),
    option("--threads", "-p", type=click.IntRange(1, 255), default=50, help="For slow methods, of each process."),
)  # fmt: skip

webdav_server_options = chain(
    option("--workers", type=click.IntRange(1), help="Processes (default: one per core)."),
    option("--max-connections", type=click.IntRange(1), default=10_000, help="Of each process."),
    option("--cert-file", type=click.Path(), metavar="PEM", help="Serve HTTPS; read again when the file changes."),
    option("--key-file", type=click.Path(), metavar="PEM", help="The certificate's key."),
    option("--grace", type=DURATION, default="30s", help="Time for running requests when it stops."),
    option("--mountpoint", default="webdav", metavar="LABEL", help="Name of this client in `status`."),
)  # fmt: skip

_PLAIN = (
    "realm", "strict_auth", "locks", "depth_infinity", "mac_hints", "disallow_list", "html_index", "safe_html",
    "copy_keep_mtime", "cors_origins", "threads",
)  # fmt: skip
_OTHER = (
    "prefix", "external_urls", "trusted_proxies", "auth", "user_root", "umask", "lock_max_timeout",
    "lock_consistency", "no_dead_props", "enable_proppatch", "no_mac_files",
)  # fmt: skip
_SERVER = ("workers", "max_connections", "cert_file", "key_file", "grace", "mountpoint")
_LEAST_BUFFER = 64 << 20


def split_webdav(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Options of a command: (of the WebDAV rules, of the server, of the volume)."""
    rules = {name: options.pop(name) for name in (*_PLAIN, *_OTHER)}
    server = {name: options.pop(name) for name in _SERVER}
    return rules, server, volume_options(options)


def webdav_config(rules: Mapping[str, Any], *, read_only: bool) -> WebDavConfig:
    try:
        umask = int(rules["umask"], 8)
    except ValueError:
        raise ConfigError(f"--umask: {rules['umask']!r} is no octal number, such as 022") from None
    if not 0 <= umask <= 0o777:
        raise ConfigError(f"--umask: {rules['umask']} is outside 000 … 777")
    return WebDavConfig(
        **{name: rules[name] for name in _PLAIN}, prefix=parse_prefix(rules["prefix"]), umask=umask,
        external_authorities=tuple(
            normal_authority(url.partition("://")[2].partition("/")[0] or url) for url in rules["external_urls"]
        ),
        trusted_proxies=tuple(rules["trusted_proxies"]), lock_max_timeout_s=int(rules["lock_max_timeout"]),
        lock_relaxed_s=0.1 if rules["lock_consistency"] == "relaxed" else 0.0, dead_props=not rules["no_dead_props"],
        mac_files=not rules["no_mac_files"], read_only=read_only,
    )  # fmt: skip


def doorkeeper(config: WebDavConfig, users: StaticUsers, auth: str, key: bytes) -> Doorkeeper:
    if auth == "none" or (auth == "auto" and not len(users)):
        return Doorkeeper(None)
    if not len(users):
        raise ConfigError(f"--auth {auth} needs a user; set WEBDAV_USER and WEBDAV_PASSWORD")
    digest = Digest(config.realm, users, key) if auth in ("auto", "digest") else None
    return Doorkeeper(users, realm=config.realm, allow_basic=auth in ("auto", "basic"), digest=digest)


def run_webdav(
    meta_url: str, address: Address, rules: dict[str, Any], server: dict[str, Any], client: dict[str, Any],
    on_ready: Callable[[int], None],
) -> int:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C; the exit status. Call it before anything has started a loop or a thread."""
    if bool(server["cert_file"]) != bool(server["key_file"]):
        raise ConfigError("--cert-file and --key-file belong together; give both")
    users = users_from(os.environ)
    hide(*users.passwords())
    config = webdav_config(rules, read_only=bool(client.get("read_only")))
    workers = server["workers"] or len(os.sched_getaffinity(0))
    if config.locks == "memory" and workers > 1:
        raise ConfigError("--locks memory is for one process; add --workers 1, or leave it at shared")
    client["buffer_size"] = max(_LEAST_BUFFER, (client.get("buffer_size") or DEFAULT_BUFFER) // workers)
    key = secrets.token_bytes(32)
    doorkeeper(config, users, rules["auth"], key)  # fail before forking
    user_root = rules["user_root"]

    @asynccontextmanager
    async def build_app(number: int) -> AsyncIterator[Application]:
        from gateways.webdav.app import WebDavApplication

        async with opened(meta_url, mount_point=server["mountpoint"], **client) as volume:
            own = msgspec.structs.replace(config, volume_name=volume.format.name)
            locks = None
            if own.locks != "off" and not own.read_only:
                records = LockRecords(volume.fs) if own.locks == "shared" else None
                locks = LockService(records, max_timeout_s=own.lock_max_timeout_s, relaxed_s=own.lock_relaxed_s)

            def export_of(user: User) -> Export:
                root = parse_names(user_root.replace("%u", quote_name(user.name.encode()))) if user_root else ()
                return Export(volume.fs, root, read_only=user.read_only)

            app = WebDavApplication(
                volume.fs, own, doorkeeper=doorkeeper(own, users, rules["auth"], key), locks=locks,
                export_of=export_of,
            )  # fmt: skip
            volume.meta.on_fatal = _end_process
            cleaning = None
            if number == 0 and not own.read_only:
                cleaning = asyncio.create_task(Cleaner(volume.fs).run())
            try:
                yield app
            finally:
                if cleaning is not None:
                    cleaning.cancel()
                    await asyncio.gather(cleaning, return_exceptions=True)
                app.close()

    options = Options(
        limits=Limits(max_connections=server["max_connections"]), certificate=server["cert_file"],
        key=server["key_file"], grace_s=server["grace"],
    )  # fmt: skip
    return serve(build_app, address.host, address.port, workers, options, on_ready=on_ready)


def _end_process(error: VolumeError) -> None:
    """The volume vanished or was replaced: serving on would mix two volumes. 11: don't restart."""
    os._exit(11)
