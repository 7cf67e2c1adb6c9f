# SPDX-License-Identifier: Apache-2.0
"""`sluice format META-URL NAME`: create a volume, or change the settings of an existing one (cli §2.1)."""

from __future__ import annotations

from typing import Any

import click

from core.meta.format import Format, Tier, check_name, new_format, round_block_size
from core.volume import format_volume
from sluicefs.cli import command
from sluicefs.options import meta_argument, option, read_credentials
from sluicefs.output import note, settings, show
from sluicefs.setting_access import load_setting
from sluicefs.settings_options import (
    absolute_bucket,
    changes,
    creation_options,
    default_bucket,
    describe_changes,
    mutable_options,
    read_key,
    was_given,
)  # fmt: skip
from sluicefs.volume import run


@command("format")
@meta_argument
@click.argument("name", metavar="NAME")
@mutable_options
@creation_options
@option("--no-update", is_flag=True, help="Leave an existing volume as it is.")
@option("--force", is_flag=True, help="Write a new definition over an existing one; its files may become unreadable.")
def format_command(meta_url: str, name: str, no_update: bool, force: bool, **options: Any) -> None:
    """Create volume NAME: 3 to 63 lower-case letters, digits and dashes.

    On an existing volume, settings that are given and can change are changed; nothing else is touched.
    """
    check_name(name)
    credentials = read_credentials(options.pop("access_key"))
    for given in ("secret_key", "session_token"):  # of a caller inside this process; `privacy` moved them otherwise
        credentials[given] = options.pop(given) or credentials[given]
    key = read_key(options["encrypt_rsa_key"])
    old, new = run(_format(meta_url, name, no_update, force, options, credentials, key))
    if old is None or force:
        note(f"volume {new.name} is created")
    elif no_update:
        note(f"volume {new.name} exists already and stays as it is")
    else:
        note("\n".join(describe_changes(old, new)) or "Nothing changed.")
    if settings.json or not settings.quiet:
        show(new.redacted().to_dict())


async def _format(
    meta_url: str, name: str, no_update: bool, force: bool, options: dict[str, Any], credentials: dict[str, str],
    key: str,
) -> tuple[Format | None, Format]:  # fmt: skip
    old = await load_setting(meta_url)
    if old is not None and no_update:
        return old, old
    if old is None or force:
        return old, await format_volume(meta_url, _new(name, options, credentials, key), force=force)
    wanted = {"name": name, **changes(options, credentials)}
    absolute_bucket(wanted, old.storage)
    if was_given("block_size"):
        wanted["block_size_kib"] = round_block_size(options["block_size"]) >> 10
    if key:
        wanted["encrypt_key"] = key
    if was_given("storage_class") or was_given("tag"):
        wanted["tiers"] = {**(old.tiers or {}), "0": Tier(0, options["storage_class"], options["tag"])}
    return old, await format_volume(meta_url, old.changed(**wanted))


def _new(name: str, options: dict[str, Any], credentials: dict[str, str], key: str) -> Format:
    fields: dict[str, Any] = {
        "storage": options["storage"] or "file",
        "bucket": options["bucket"] or default_bucket(),
        "block_size": options["block_size"],
        "compression": options["compress"],
        "encrypt_algo": options["encrypt_algo"],
        "storage_class": options["storage_class"],
        "tag": options["tag"],
        "hash_prefix": options["hash_prefix"],
        "shards": options["shards"],
        "trash_days": 1 if options["trash_days"] is None else options["trash_days"],
        "capacity": options["capacity"] or 0,
        "inodes": options["inodes"] or 0,
        "enable_acl": bool(options["enable_acl"]),
        "ranger_rest_url": options["ranger_rest_url"] or "",
        "ranger_service": options["ranger_service"] or "",
        "encrypt_key": key,
        **credentials,
    }
    absolute_bucket(fields, fields["storage"])
    return new_format(name, **fields)
