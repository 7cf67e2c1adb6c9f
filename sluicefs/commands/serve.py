# SPDX-License-Identifier: Apache-2.0
"""`sluice serve META-URL --s3 ADDRESS --webdav ADDRESS --mount PATH`, and `sluice serve --demo FOLDER`: doors over one
volume.

S3 and WebDAV share processes, session and cache. Mounts are served by one process, all of them; beside other doors it
is a child of this one. The demo is what `make serve` starts: a volume that is made on the spot, keys that are made
once, and lines to paste.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import click

from core.config import Address
from core.errors import ConfigError
from gateways.s3.auth.credentials import root_credential
from sluicefs.cli import command
from sluicefs.demo import Demo, require_demo
from sluicefs.doors import Door, run_doors
from sluicefs.mounts_door import can_mount, mounts_beside, serve_mounts
from sluicefs.options import ADDRESS, client_options
from sluicefs.output import note, settings, show
from sluicefs.s3_door import S3Door, require_volume, s3_options, server_options, split
from sluicefs.webdav_beside import webdav_beside
from sluicefs.webdav_lines import ways_in

_FIRST_PORT = 9000
_WEBDAV = "127.0.0.1:9007"
_PORTS = 100


@command("serve")
@click.argument("meta_url", metavar="[META-URL]", required=False, envvar="SLUICE_META")
@click.option("--s3", "s3_address", type=ADDRESS, metavar="ADDRESS", envvar="SLUICE_S3", help="Open the S3 door here.")
@click.option(
    "--webdav",
    metavar="ADDRESS[,OPTIONS]",
    is_flag=False,
    flag_value=_WEBDAV,
    envvar="SLUICE_WEBDAV",
    help=f"Open the WebDAV door here (alone: {_WEBDAV}); options of `sluice webdav` as in an fstab line.",
)
@click.option(
    "--mount",
    "mounts",
    multiple=True,
    metavar="PATH[,OPTIONS]",
    envvar="SLUICE_MOUNT",
    help="Show the volume as this folder; options as in an fstab line. May be repeated.",
)
@click.option(
    "--demo",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Make a volume and keys in FOLDER, or use those that are there.",
)
@s3_options
@server_options
@client_options
def serve_command(
    meta_url: str | None, s3_address: Address | None, webdav: str | None, mounts: tuple[str, ...], demo: str | None,
    **options: Any,
) -> int:  # fmt: skip
    """Open doors over one volume: S3, WebDAV, and folders of this machine.

    \b
      sluice serve META-URL --s3 127.0.0.1:9000 --webdav 127.0.0.1:9007
      sluice serve META-URL --webdav :9007,prefix=/dav,htpasswd=/etc/sluicefs/users
      sluice serve META-URL --mount /mnt/volume

    WebDAV's user is that of WEBDAV_USER and WEBDAV_PASSWORD, else the S3 key and its secret.
    With --demo a volume in SQLite and a local folder is made, with keys of its own, on port 9000 or the next free one.
    """
    rules, server, client = split(options)
    if demo is not None:
        if meta_url is not None:
            raise ConfigError("--demo brings its own volume; leave META-URL out")
        return _demo(Path(demo), s3_address, webdav, mounts, rules, server, client)
    if meta_url is None:
        raise ConfigError("which volume? Give META-URL, or --demo FOLDER to try without one")
    if s3_address is None and webdav is None and mounts:
        return serve_mounts(meta_url, mounts, _given(options))
    if s3_address is None and webdav is None:
        raise ConfigError(
            "no door to open; give --s3 ADDRESS, such as --s3 127.0.0.1:9000, --webdav ADDRESS, or --mount PATH"
        )
    s3 = None
    if s3_address is not None:
        s3 = S3Door(s3_address, root_credential(os.environ), rules, server, client)
    dav = webdav_beside(webdav, server, client) if webdav is not None else None
    doors: list[Door] = [door for door in (s3, dav) if door is not None]
    name = require_volume(meta_url)

    def ready(ports: list[int]) -> None:
        found = dict(zip(doors, ports, strict=True))
        document: dict[str, Any] = {"volume": name, "pid": os.getpid()}
        lines = []
        if s3 is not None and s3_address is not None:
            document["s3"] = _endpoint(s3_address, found[s3], server)
            lines.append(f"volume {name}: S3 at {document['s3']}")
        if dav is not None:
            document["webdav"] = url = dav.url(found[dav])
            lines += [f"volume {name}: WebDAV at {url}", ways_in(url, dav.name_to_try())]
        show(document, "\n".join(lines))
        sys.stdout.flush()

    with mounts_beside(meta_url, mounts):
        return run_doors(
            meta_url, doors, workers=server["workers"], label=server["mountpoint"], client=client, on_ready=ready
        )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that `mount` has too, and that somebody set."""
    ctx = click.get_current_context()
    wanted = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in options.items() if ctx.get_parameter_source(name) is not wanted}


def _demo(
    folder: Path, address: Address | None, webdav: str | None, mounts: tuple[str, ...], rules: dict[str, Any],
    server: dict[str, Any], client: dict[str, Any],
) -> int:  # fmt: skip
    demo = asyncio.run(require_demo(folder))
    where = address or _free_address()
    if address is None and where.port != _FIRST_PORT:
        note(f"port {_FIRST_PORT} is taken, {where.port} is free")
    rules["multi_buckets"] = True
    # WebDAV reads them, too, unless it is given users of its own.
    os.environ.update(SLUICE_ACCESS_KEY=demo.access_key, SLUICE_SECRET_KEY=demo.secret_key)
    if settings.level == "info":
        # A newcomer's terminal: what the volume does each second is for the log file.
        import logging

        logging.getLogger("sluice").setLevel(logging.WARNING)
    s3 = S3Door(where, root_credential(os.environ), rules, server, client)
    dav = webdav_beside(webdav, server, client) if webdav is not None else None

    def ready(ports: list[int]) -> None:
        endpoint = _endpoint(where, ports[0], server)
        document = {
            "endpoint": endpoint,
            "access_key": demo.access_key,
            "credentials": str(demo.folder / "credentials"),
            "folder": str(demo.folder),
            "pid": os.getpid(),
        }
        more = ""
        if dav is not None:
            document["webdav"] = url = dav.url(ports[1])
            more = f"\nThe same files through WebDAV, below {url}\n\n{ways_in(url, dav.name_to_try())}\n"
        show(document, _welcome(demo, endpoint, more))
        sys.stdout.flush()

    doors: list[Door] = [s3] if dav is None else [s3, dav]
    with mounts_beside(demo.meta_url, mounts):
        code = run_doors(
            demo.meta_url, doors, workers=server["workers"], label=server["mountpoint"], client=client, on_ready=ready
        )
    note("stopped; the data stays in " + str(demo.folder))
    return code


def _free_address() -> Address:
    """Port 9000 of this machine, or the next that nobody listens on."""
    for port in range(_FIRST_PORT, _FIRST_PORT + _PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return Address("127.0.0.1", port)
    raise ConfigError(f"ports {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1} are all taken; choose one with --s3 or PORT=")


def _endpoint(address: Address, port: int, server: dict[str, Any]) -> str:
    return f"{'https' if server['tls_cert'] else 'http'}://{address._replace(port=port).authority}"


def _welcome(demo: Demo, endpoint: str, more: str) -> str:
    state = "new" if demo.created else "found again"
    return f"""\
SluiceFS serves the demo volume ({state}) in {demo.folder}

  endpoint    {endpoint}
  access key  {demo.access_key}
  secret key  {demo.secret_key}

Paste this into another terminal:

  export AWS_ACCESS_KEY_ID={demo.access_key} AWS_SECRET_ACCESS_KEY={demo.secret_key} AWS_DEFAULT_REGION=us-east-1
  aws --endpoint-url {endpoint} s3 mb s3://pictures
  aws --endpoint-url {endpoint} s3 cp README.md s3://pictures/
  aws --endpoint-url {endpoint} s3 ls s3://pictures

  mc alias set demo {endpoint} {demo.access_key} {demo.secret_key}
  mc cp README.md demo/pictures/

  rclone copy --s3-provider Other --s3-env-auth --s3-endpoint {endpoint} README.md :s3:pictures
{more}{_mount_lines(demo)}
Ctrl-C stops it."""


def _mount_lines(demo: Demo) -> str:
    """How to see the same files as a folder, where that is possible."""
    if not can_mount():
        return ""
    point = demo.folder / "mnt"
    return f"""
  sluice mount -d {shlex.quote(demo.meta_url)} {shlex.quote(str(point))}
  ls {shlex.quote(str(point))}
  sluice umount {shlex.quote(str(point))}
"""
