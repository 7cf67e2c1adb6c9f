# SPDX-License-Identifier: Apache-2.0
"""`sluice serve META-URL --s3 ADDRESS --mount PATH`, and `sluice serve --demo FOLDER`: doors over one volume.

Mounts are served by one process, all of them; beside other doors it is a child of this one. The demo is what
`make serve` starts: a volume that is made on the spot, keys that are made once, and lines to paste.
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
from sluicefs.mounts_door import can_mount, mounts_beside, serve_mounts
from sluicefs.options import ADDRESS, client_options
from sluicefs.output import note, settings, show
from sluicefs.s3_door import require_volume, run_s3, s3_options, server_options, split

_FIRST_PORT = 9000
_PORTS = 100


@command("serve")
@click.argument("meta_url", metavar="[META-URL]", required=False, envvar="SLUICE_META")
@click.option("--s3", "s3_address", type=ADDRESS, metavar="ADDRESS", envvar="SLUICE_S3", help="Open the S3 door here.")
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
    meta_url: str | None, s3_address: Address | None, mounts: tuple[str, ...], demo: str | None, **options: Any
) -> int:  # fmt: skip
    """Open doors over one volume: S3, and folders of this machine.

    With --demo a volume in SQLite and a local folder is made, with keys of its own, on port 9000 or the next free one.
    """
    rules, server, client = split(options)
    if demo is not None:
        if meta_url is not None:
            raise ConfigError("--demo brings its own volume; leave META-URL out")
        return _demo(Path(demo), s3_address, mounts, rules, server, client)
    if meta_url is None:
        raise ConfigError("which volume? Give META-URL, or --demo FOLDER to try without one")
    if s3_address is None and mounts:
        return serve_mounts(meta_url, mounts, _given(options))
    if s3_address is None:
        raise ConfigError("no door to open; give --s3 ADDRESS, such as --s3 127.0.0.1:9000, or --mount PATH")
    credential = root_credential(os.environ)
    name = require_volume(meta_url)
    address = s3_address

    def ready(port: int) -> None:
        endpoint = _endpoint(address, port, server)
        show({"volume": name, "s3": endpoint, "pid": os.getpid()}, f"volume {name}: S3 at {endpoint}")
        sys.stdout.flush()

    with mounts_beside(meta_url, mounts):
        return run_s3(meta_url, address, credential, rules, server, client, ready)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that `mount` has too, and that somebody set."""
    ctx = click.get_current_context()
    wanted = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in options.items() if ctx.get_parameter_source(name) is not wanted}


def _demo(
    folder: Path, address: Address | None, mounts: tuple[str, ...], rules: dict[str, Any], server: dict[str, Any],
    client: dict[str, Any],
) -> int:  # fmt: skip
    demo = asyncio.run(require_demo(folder))
    where = address or _free_address()
    if address is None and where.port != _FIRST_PORT:
        note(f"port {_FIRST_PORT} is taken, {where.port} is free")
    rules["multi_buckets"] = True
    credential = root_credential({"SLUICE_ACCESS_KEY": demo.access_key, "SLUICE_SECRET_KEY": demo.secret_key})
    if settings.level == "info":
        # A newcomer's terminal: what the volume does each second is for the log file.
        import logging

        logging.getLogger("sluice").setLevel(logging.WARNING)

    def ready(port: int) -> None:
        endpoint = _endpoint(where, port, server)
        document = {
            "endpoint": endpoint,
            "access_key": demo.access_key,
            "credentials": str(demo.folder / "credentials"),
            "folder": str(demo.folder),
            "pid": os.getpid(),
        }
        show(document, _welcome(demo, endpoint))
        sys.stdout.flush()

    with mounts_beside(demo.meta_url, mounts):
        code = run_s3(demo.meta_url, where, credential, rules, server, client, ready)
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


def _welcome(demo: Demo, endpoint: str) -> str:
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
{_mount_lines(demo)}
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
