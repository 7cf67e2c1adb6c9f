# SPDX-License-Identifier: Apache-2.0
"""`sluice webdav META-URL ADDRESS`: the WebDAV door of one volume (spec webdav §21)."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from core.config import Address
from sluicefs.cli import Command
from sluicefs.options import ADDRESS, client_options, meta_argument
from sluicefs.output import settings, show
from sluicefs.s3_door import require_volume
from sluicefs.webdav_door import run_webdav, split_webdav, webdav_options, webdav_server_options


@click.command("webdav", cls=Command, short_help="Serve a volume through WebDAV.")
@meta_argument
@click.argument("address", type=ADDRESS, metavar="ADDRESS")
@webdav_options
@webdav_server_options
@client_options
def webdav_command(meta_url: str, address: Address, **options: Any) -> int:
    """Serve a volume through WebDAV on ADDRESS, HOST:PORT or :PORT.

    The user comes from WEBDAV_USER and WEBDAV_PASSWORD, else from the S3 gateway's SLUICE_ACCESS_KEY and
    SLUICE_SECRET_KEY; with _FILE behind the name it is read from a file. Without a user everybody may come in.
    """
    rules, server, client = split_webdav(options)
    name = require_volume(meta_url)

    def ready(port: int) -> None:
        if settings.quiet and not settings.json:
            return
        scheme = "https" if server["cert_file"] else "http"
        url = f"{scheme}://{address._replace(port=port).authority}{rules['prefix'].rstrip('/')}/"
        show({"volume": name, "url": url, "pid": os.getpid()}, f"volume {name} is served at {url}")
        sys.stdout.flush()

    return run_webdav(meta_url, address, rules, server, client, ready)
