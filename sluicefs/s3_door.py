# SPDX-License-Identifier: Apache-2.0
"""Opening the S3 door over a volume: the options of `gateway` and of `serve`, and what runs in each worker.

How a door and its workers come to run is `doors.py`. Source: spec s3 §18, §21; cli §5.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import click
import msgspec

from core.config import Address
from core.errors import ConfigError
from core.log import hide
from core.volume import Volume
from gateways.http.messages import Application
from gateways.http.server import Limits
from gateways.http.workers import Listener, Options, Worker
from gateways.s3.app import Access, S3Application
from gateways.s3.auth.credentials import Credential, StaticCredentials
from gateways.s3.config import S3Config
from sluicefs.doors import run_doors
from sluicefs.options import DURATION, chain, option, size, volume_options
from sluicefs.setting_access import metadata

#: `keep-etag`, `object-tag` and `object-meta` are opt-in in JuiceFS and on here.
s3_options = chain(
    option("--multi-buckets", is_flag=True, help="Each top-level folder is a bucket; else one bucket is the root."),
    option("--bucket-name", default="", metavar="NAME", help="The one bucket's name (default: the volume's)."),
    option("--keep-etag/--no-keep-etag", default=True, help="Keep ETags with the files."),
    option("--object-tag/--no-object-tag", default=True, help="Keep tags."),
    option("--object-meta/--no-object-meta", default=True, help="Keep user metadata."),
    option("--head-dir", is_flag=True, help="HEAD of a folder succeeds."),
    option("--hide-dir-object", is_flag=True, help="Leave folder markers out of listings."),
    option("--empty-dirs", type=click.Choice(["auto", "keep", "prune"]), default="auto",
           help="Folders that become empty."),
    option("--umask", default="022", metavar="OCTAL", help="For new files and folders."),
    option("--domain", "domains", multiple=True, envvar=["SLUICE_DOMAIN", "MINIO_DOMAIN"], metavar="NAME",
           help="Serve NAME's sub-domains as buckets, too."),
    option("--region", default="", metavar="NAME", help="Accept only this region (default: any)."),
    option("--etag", type=click.Choice(["md5", "crc64"]), default="md5", help="How ETags are made."),
    option("--strict", is_flag=True, help="Demand integrity headers where AWS does."),
    option("--sigv2/--no-sigv2", default=True, help="Accept signature version 2."),
    option("--anonymous", type=click.Choice(["download", "upload", "public"]), help="What unsigned requests may do."),
    option("--min-part-size", type=size(1 << 20), default="5M", help="Smallest part of an upload but the last."),
    option("--apply-mtime", is_flag=True, help="Take times from clients that send them."),
)  # fmt: skip

server_options = chain(
    option("--workers", type=click.IntRange(1), help="Processes (default: one per core)."),
    option("--max-connections", type=click.IntRange(1), default=10_000, help="Of each process."),
    option("--tls-cert", type=click.Path(), metavar="PEM", help="Serve HTTPS; read again when the file changes."),
    option("--tls-key", type=click.Path(), metavar="PEM", help="The certificate's key."),
    option("--http", type=click.Choice(["own", "aiohttp"]), default="own", hidden=True),
    option("--access-log", type=click.Path(), metavar="FILE", help="One line per request."),
    option("--grace", type=DURATION, default="30s", help="Time for running requests when it stops."),
    option("--mountpoint", default="s3gateway", metavar="LABEL", help="Name of this client in `status`."),
)  # fmt: skip

_CONFIG = (
    "multi_buckets", "bucket_name", "keep_etag", "object_tag", "object_meta", "head_dir", "hide_dir_object",
    "empty_dirs", "region", "etag", "strict", "sigv2", "apply_mtime",
)  # fmt: skip
_SERVER = ("workers", "max_connections", "tls_cert", "tls_key", "http", "access_log", "grace", "mountpoint")
_OTHER = ("umask", "domains", "anonymous", "min_part_size")


def split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Options of a command: (of the S3 rules, of the server, of the volume)."""
    rules = {name: options.pop(name) for name in (*_CONFIG, *_OTHER)}
    server = {name: options.pop(name) for name in _SERVER}
    return rules, server, volume_options(options, door=True)


class S3Door:
    """The S3 protocol at one address."""

    def __init__(
        self, address: Address, credential: Credential, rules: dict[str, Any], server: dict[str, Any],
        client: dict[str, Any],
    ) -> None:  # fmt: skip
        hide(credential.secret_key)
        if bool(server["tls_cert"]) != bool(server["tls_key"]):
            raise ConfigError("--tls-cert and --tls-key belong together; give both")
        self._config = _config(rules, client)
        self._credentials = StaticCredentials([credential])
        options = Options(
            http=server["http"], limits=Limits(max_connections=server["max_connections"]),
            tls_certificate=server["tls_cert"], tls_key=server["tls_key"], access_log=server["access_log"],
            grace_s=server["grace"],
        )  # fmt: skip
        self.listener = Listener(address.host, address.port, options)

    @asynccontextmanager
    async def application(self, volume: Volume, worker: Worker) -> AsyncIterator[Application]:
        name, encrypted = volume.format.name, volume.format.encrypted
        own = msgspec.structs.replace(self._config, volume_name=name, encrypted_volume=encrypted)

        async def probe() -> bool:
            await volume.fs.lookup(b"/")
            return True

        async def metrics() -> bytes:
            return worker.all_metrics.render()

        count = worker.metrics

        def observe(access: Access) -> None:
            received = access.body_length or 0
            count.operation(access.operation or "Other").observe(access.status, access.seconds, received)

        yield S3Application(volume.fs, own, self._credentials, probe=probe, metrics=metrics, observe=observe)


def run_s3(
    meta_url: str, address: Address, credential: Credential, rules: dict[str, Any], server: dict[str, Any],
    client: dict[str, Any], on_ready: Callable[[int], None],
) -> int:  # fmt: skip
    """The S3 door alone, until SIGTERM or Ctrl-C; the exit status."""
    door = S3Door(address, credential, rules, server, client)
    return run_doors(
        meta_url, [door], workers=server["workers"], label=server["mountpoint"], client=client,
        on_ready=lambda ports: on_ready(ports[0]),
    )  # fmt: skip


def _config(rules: dict[str, Any], client: dict[str, Any]) -> S3Config:
    try:
        umask = int(rules["umask"], 8)
    except ValueError:
        raise ConfigError(f"--umask: {rules['umask']!r} is no octal number, such as 022") from None
    if not 0 <= umask <= 0o777:
        raise ConfigError(f"--umask: {rules['umask']} is outside 000 … 777")
    domains = tuple(name for text in rules["domains"] for name in text.split(",") if name)
    return S3Config(
        **{name: rules[name] for name in _CONFIG}, umask=umask, domains=domains, anonymous=rules["anonymous"] or "",
        min_part_bytes=rules["min_part_size"], read_only=bool(client.get("read_only")),
    )  # fmt: skip


def require_volume(meta_url: str) -> str:
    """The volume's name; fails with a clear error before any process is forked or port opened."""

    async def look() -> str:
        async with metadata(meta_url) as meta:
            return meta.format.name

    return asyncio.run(look())
