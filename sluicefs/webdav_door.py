# SPDX-License-Identifier: Apache-2.0
"""Opening the WebDAV door over a volume: the options of `webdav` and of `serve --webdav`, and what runs in a worker.

How a door and its workers come to run is `doors.py`. Source: spec webdav §16, §21; cli §5.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import click
import msgspec

from core.config import Address
from core.errors import ConfigError
from core.volume import Volume
from gateways.http.messages import Application
from gateways.http.server import Limits
from gateways.http.workers import Listener, Options, Worker
from gateways.webdav.auth.proxies import Proxies
from gateways.webdav.config import WebDavConfig
from gateways.webdav.locks.records import LockRecords
from gateways.webdav.locks.service import LockService
from gateways.webdav.names import normal_authority, parse_prefix
from sluicefs.doors import ended
from sluicefs.options import DURATION, chain, option, volume_options
from sluicefs.webdav_users import callers, doorkeeper, exports, name_to_try, users_of, warn_of_open_doors

log = logging.getLogger("sluice.webdav")

webdav_options = chain(
    option("--prefix", default="", metavar="PATH", help="Serve below this path, such as /dav."),
    option("--external-url", "external_urls", multiple=True, metavar="URL", help="Other addresses of this server."),
    option("--trusted-proxy", "trusted_proxies", multiple=True, metavar="ADDRESS",
           help="Address or network of a reverse proxy whose X-Forwarded-* is believed."),
    option("--auth", type=click.Choice(["auto", "none", "basic", "digest", "iam", "header"]), default="auto",
           help="How users log in. auto: Basic and, where it can be, Digest, if there are users. "
                "iam: the keys of the S3 gateway. header: a trusted proxy names the user."),
    option("--htpasswd", type=click.Path(), metavar="FILE",
           help="Users and hashed passwords (htpasswd -B); read again when it changes."),
    option("--htdigest", type=click.Path(), metavar="FILE", help="Users of Digest; read again when it changes."),
    option("--auth-header", default="X-Remote-User", metavar="NAME", help="For --auth header."),
    option("--realm", default="SluiceFS", metavar="TEXT", help="Shown by clients; keychains remember it."),
    option("--strict-auth", is_flag=True, help="OPTIONS needs a login too."),
    option("--user-root", default="", metavar="PATH", help="What a user sees; %u is the name: /home/%u."),
    option("--read-only-user", "read_only_users", multiple=True, metavar="NAME", help="This user changes nothing."),
    option("--identity", type=click.Choice(["service", "map"]), default="service",
           help="As whom files are used: the server itself, or each user's own account."),
    option("--user-map", type=click.Path(), metavar="FILE",
           help="Accounts for --identity map, NAME:UID:GID[,GID...] per line (default: this machine's)."),
    option("--umask", default="022", metavar="OCTAL", help="For new files and folders."),
    option("--locks", type=click.Choice(["shared", "memory", "off"]), default="shared", help="Where locks live."),
    option("--lock-max-timeout", type=DURATION, default="24h", help="Longest time of a lock."),
    option("--lock-consistency", type=click.Choice(["strict", "relaxed"]), default="strict",
           help="relaxed: look for other servers' locks at most ten times per second."),
    option("--depth-infinity", is_flag=True, help="Allow listings of whole trees."),
    option("--depth-infinity-limit", type=click.IntRange(1), default=100_000, help="Entries of such a listing."),
    option("--no-dead-props", is_flag=True, help="Refuse to store properties."),
    option("--enable-proppatch", is_flag=True, hidden=True, help="Always on."),
    option("--mac-hints/--no-mac-hints", default=True, help="Keep Finder from indexing and making thumbnails."),
    option("--no-mac-files", is_flag=True, help="Refuse ._* and .DS_Store."),
    option("--disallowList", "disallow_list", is_flag=True, envvar="SLUICE_DISALLOW_LIST", help="No GET of folders."),
    option("--html-index/--no-html-index", default=True, help="Folders as pages for browsers."),
    option("--safe-html", is_flag=True, help="Stored pages run no scripts."),
    option("--show-trash", is_flag=True, help="Show .trash: to read, and to move things back."),
    option("--normalize", type=click.Choice(["nfc"]), help="Names that differ in Unicode form only are one."),
    option("--etag", type=click.Choice(["md5"]), help="Keep the MD5 of what is uploaded as its ETag, as S3 does."),
    option("--store-content-type", is_flag=True, help="Keep the Content-Type of uploads."),
    option("--gzip", is_flag=True, help="Compress listings, never files."),
    option("--copy-keep-mtime/--no-copy-keep-mtime", default=True, help="COPY keeps the date."),
    option("--cors-allow-origin", "cors_origins", multiple=True, metavar="ORIGIN", help="Allow pages of this site."),
    option("--threads", "-p", type=click.IntRange(1, 255), default=50, help="For slow methods, of each process."),
)  # fmt: skip

webdav_server_options = chain(
    option("--workers", type=click.IntRange(1), help="Processes (default: one per core)."),
    option("--max-connections", type=click.IntRange(1), default=10_000, help="Of each process."),
    option("--cert-file", type=click.Path(), metavar="PEM", help="Serve HTTPS; read again when the file changes."),
    option("--key-file", type=click.Path(), metavar="PEM", help="The certificate's key."),
    option("--access-log", type=click.Path(), metavar="FILE", help="One line per request."),
    option("--grace", type=DURATION, default="30s", help="Time for running requests when it stops."),
    option("--mountpoint", default="webdav", metavar="LABEL", help="Name of this client in `status`."),
)  # fmt: skip

_PLAIN = (
    "realm", "strict_auth", "locks", "depth_infinity", "depth_infinity_limit", "mac_hints", "disallow_list",
    "html_index", "safe_html", "show_trash", "store_content_type", "gzip", "copy_keep_mtime", "cors_origins", "threads",
)  # fmt: skip
_OTHER = (
    "prefix", "external_urls", "trusted_proxies", "auth", "htpasswd", "htdigest", "auth_header", "user_root",
    "read_only_users", "identity", "user_map", "umask", "lock_max_timeout", "lock_consistency", "no_dead_props",
    "enable_proppatch", "no_mac_files", "normalize", "etag",
)  # fmt: skip
_SERVER = ("workers", "max_connections", "cert_file", "key_file", "access_log", "grace", "mountpoint")


def split_webdav(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Options of a command: (of the WebDAV rules, of the server, of the volume)."""
    rules = {name: options.pop(name) for name in (*_PLAIN, *_OTHER)}
    server = {name: options.pop(name) for name in _SERVER}
    return rules, server, volume_options(options, door=True)


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
        trusted_proxies=Proxies(rules["trusted_proxies"]), normalize=rules["normalize"] or "",
        etag=rules["etag"] or "", lock_max_timeout_s=int(rules["lock_max_timeout"]),
        lock_relaxed_s=0.1 if rules["lock_consistency"] == "relaxed" else 0.0, dead_props=not rules["no_dead_props"],
        mac_files=not rules["no_mac_files"], read_only=read_only,
    )  # fmt: skip


class WebDavDoor:
    """WebDAV at one address. server: needs max_connections, cert_file, key_file, access_log, grace."""

    def __init__(
        self, address: Address, rules: dict[str, Any], server: Mapping[str, Any], *, workers: int | None,
        read_only: bool,
    ) -> None:  # fmt: skip
        if bool(server["cert_file"]) != bool(server["key_file"]):
            raise ConfigError("--cert-file and --key-file belong together; give both")
        self._rules = rules
        self._users = users_of(rules, os.environ)
        self._config = webdav_config(rules, read_only=read_only)
        if self._config.locks == "memory" and (workers or len(os.sched_getaffinity(0))) > 1:
            raise ConfigError("--locks memory is for one process; add --workers 1, or leave it at shared")
        #: Signs what a client may bring to another process than it was given by.
        self._key = secrets.token_bytes(32)
        doorkeeper(self._config, self._users, rules, self._key)  # fail before forking
        callers(rules)
        warn_of_open_doors(self._config, rules, self._users, address, tls=bool(server["cert_file"]))
        options = Options(
            limits=Limits(max_connections=server["max_connections"]), tls_certificate=server["cert_file"],
            tls_key=server["key_file"], access_log=server["access_log"], grace_s=server["grace"], door="webdav",
        )  # fmt: skip
        self.listener = Listener(address.host, address.port, options)
        self._where = address
        self._scheme = "https" if server["cert_file"] else "http"

    def url(self, port: int) -> str:
        place = self._rules["prefix"].strip("/")
        return f"{self._scheme}://{self._where._replace(port=port).authority}/{place + '/' if place else ''}"

    def name_to_try(self) -> str:
        return name_to_try(self._rules, os.environ)

    @asynccontextmanager
    async def application(self, volume: Volume, worker: Worker) -> AsyncIterator[Application]:
        from gateways.webdav.app import WebDavApplication

        own = msgspec.structs.replace(self._config, volume_name=volume.format.name)
        locks = None
        if own.locks != "off" and not own.read_only:
            records = LockRecords(volume.fs) if own.locks == "shared" else None
            locks = LockService(records, max_timeout_s=own.lock_max_timeout_s, relaxed_s=own.lock_relaxed_s)
        app = WebDavApplication(
            volume.fs, own, doorkeeper=doorkeeper(own, self._users, self._rules, self._key), locks=locks,
            export_of=exports(volume.fs, own, self._rules),
        )  # fmt: skip
        sweeping = asyncio.create_task(locks.run()) if locks is not None else None
        try:
            yield app
        finally:
            if sweeping is not None:
                await ended(sweeping)
            app.close()
