# SPDX-License-Identifier: Apache-2.0
"""`sluice webdav META-URL ADDRESS`: the WebDAV door of one volume (spec webdav §21)."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from core.config import Address
from sluicefs.cli import command
from sluicefs.doors import run_doors
from sluicefs.options import ADDRESS, client_options, meta_argument
from sluicefs.output import settings, show
from sluicefs.s3_door import require_volume
from sluicefs.webdav_door import WebDavDoor, split_webdav, webdav_options, webdav_server_options
from sluicefs.webdav_lines import ways_in


@command("webdav")
@meta_argument
@click.argument("address", type=ADDRESS, metavar="ADDRESS")
@webdav_options
@webdav_server_options
@client_options
def webdav_command(meta_url: str, address: Address, **options: Any) -> int:
    """Serve a volume through WebDAV on ADDRESS, HOST:PORT or :PORT, to desktops (Finder, Explorer, GNOME, KDE), davfs2,
    rclone and browsers.

    \b
      export WEBDAV_USER=ann WEBDAV_PASSWORD=...       one user, or
      --htpasswd FILE, --htdigest FILE                 many, or
      SLUICE_ACCESS_KEY and SLUICE_SECRET_KEY          the S3 gateway's key
      sluice webdav sqlite3:///var/lib/sluice/meta.db 127.0.0.1:9007

    With _FILE behind the name a value is read from a file. Without any user everybody who reaches ADDRESS may come in.
    Clients on other machines want TLS: --cert-file and --key-file.

    All servers of a volume share locks and properties, so any number of them may run.
    """
    rules, server, client = split_webdav(options)
    door = WebDavDoor(address, rules, server, workers=server["workers"], read_only=bool(client.get("read_only")))
    name = require_volume(meta_url)

    def ready(ports: list[int]) -> None:
        if settings.quiet and not settings.json:
            return
        url = door.url(ports[0])
        document = {"volume": name, "url": url, "pid": os.getpid()}
        show(document, f"volume {name} is served at {url}\n{ways_in(url, door.name_to_try())}")
        sys.stdout.flush()

    return run_doors(
        meta_url, [door], workers=server["workers"], label=server["mountpoint"], client=client, on_ready=ready
    )
