# SPDX-License-Identifier: Apache-2.0
"""`sluice check META-URL`: prove that a volume is as it should be; nothing is changed (metadata-semantics §14.2).

The proof is `core/check`. Exit status 0: nothing is wrong; 1: something is.
"""

from __future__ import annotations

from typing import Any

import click

from core.check import check
from sluicefs.cli import command
from sluicefs.commands.fsck import report, ticking
from sluicefs.options import meta_argument, store_override, volume_options
from sluicefs.volume import opened, run


@command("check")
@meta_argument
@click.option("--objects", is_flag=True, help="Also prove that the objects of all files exist (lists the bucket).")
@store_override
def check_command(meta_url: str, objects: bool, **client: Any) -> int:
    """Recount usage, statistics, quotas, links, parents and references, and compare. Nothing is changed.

    Others may go on working: what differs is looked at twice. `sluice fsck --repair` sets right what is wrong.
    """
    return run(_check(meta_url, objects, volume_options(client)))


async def _check(meta_url: str, with_objects: bool, client: dict[str, Any]) -> int:
    async with opened(meta_url, session=False, read_only=True, **client) as volume:
        with await ticking(volume) as tick:
            found = await check(volume.meta, objects=volume.objects if with_objects else None, progress=tick)
    return report(found, [])
