# SPDX-License-Identifier: Apache-2.0
"""`sluice status META-URL`: settings without secrets, connected clients, usage, as one JSON document (cli §3)."""

from __future__ import annotations

from typing import Any

import click

from core.errors import ConfigError
from core.meta import keys as k
from core.meta.meta import Meta
from sluicefs.cli import command
from sluicefs.options import meta_argument
from sluicefs.output import show
from sluicefs.setting_access import metadata
from sluicefs.volume import run


@command("status")
@meta_argument
@click.option("-s", "--session", "sid", type=int, metavar="SID", help="Show one client and what it holds.")
def status_command(meta_url: str, sid: int | None) -> None:
    """Settings, connected clients and usage of a volume. Always JSON; secrets read `removed`."""
    show(run(_status(meta_url, sid)))


async def _status(meta_url: str, sid: int | None) -> dict[str, Any]:
    async with metadata(meta_url) as meta:
        if sid is not None:
            return await _one_session(meta, sid)
        stat = await meta.statfs()
        return {
            "Setting": meta.format.redacted().to_dict(),
            "Sessions": await meta.sessions(),
            "Stat": {
                "UsedSpace": stat.used,
                "AvailableSpace": stat.available,
                "UsedInodes": stat.used_inodes,
                "AvailableInodes": stat.available_inodes,
            },
        }


async def _one_session(meta: Meta, sid: int) -> dict[str, Any]:
    for session in await meta.sessions():
        if session["Sid"] == sid:
            break
    else:
        raise ConfigError(f"there is no client {sid}; `sluice status META-URL` lists them")
    store = meta.store
    sustained = [key[2] async for key, _ in store.scan(k.SUSTAINED, sid)]
    flocks = [
        {"Inode": key[1], "Owner": owner, "Ltype": kind}
        async for key, holders in store.scan(k.FLOCKS)
        for (holder, owner), kind in holders.items()
        if holder == sid
    ]
    plocks = [
        {"Inode": key[1], "Owner": owner}
        async for key, holders in store.scan(k.PLOCKS)
        for (holder, owner) in holders
        if holder == sid
    ]
    return {**session, "Sustained": sustained, "Flocks": flocks, "Plocks": plocks}
