# SPDX-License-Identifier: Apache-2.0
"""`sluice gateway META-URL ADDRESS`: the S3 door of one volume (cli §5.1, spec s3 §21)."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from core.config import Address
from gateways.s3.auth.credentials import root_credential
from sluicefs.cli import command
from sluicefs.options import ADDRESS, client_options, meta_argument
from sluicefs.output import settings, show
from sluicefs.s3_door import require_volume, run_s3, s3_options, server_options, split


@command("gateway")
@meta_argument
@click.argument("address", type=ADDRESS, metavar="ADDRESS")
@s3_options
@server_options
@client_options
@click.option("--no-banner", is_flag=True, help="Print nothing when it is ready.")
def gateway_command(meta_url: str, address: Address, no_banner: bool, **options: Any) -> int:
    """Serve a volume through the S3 protocol on ADDRESS, HOST:PORT or :PORT.

    The keys come from SLUICE_ACCESS_KEY and SLUICE_SECRET_KEY, or MINIO_ROOT_USER and MINIO_ROOT_PASSWORD; with _FILE
    behind the name they are read from a file. Without keys it does not start.
    """
    credential = root_credential(os.environ)
    rules, server, client = split(options)
    name = require_volume(meta_url)

    def ready(port: int) -> None:
        if no_banner or (settings.quiet and not settings.json):
            return
        scheme = "https" if server["tls_cert"] else "http"
        endpoint = f"{scheme}://{address._replace(port=port).authority}"
        document = {"volume": name, "endpoint": endpoint, "access_key": credential.access_key, "pid": os.getpid()}
        text = f"volume {name} is served at {endpoint}\n  aws --endpoint-url {endpoint} s3 ls"
        show(document, text)
        # Whoever started this and reads a pipe wants to know now.
        sys.stdout.flush()

    return run_s3(meta_url, address, credential, rules, server, client, ready)
