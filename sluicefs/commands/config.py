# SPDX-License-Identifier: Apache-2.0
"""`sluice config META-URL`: show the settings of a volume, or change those that are named (cli §2.2)."""

from __future__ import annotations

from typing import Any

import click

from core.config import format_size
from core.errors import ConfigError
from core.meta.format import Format, Tier
from core.meta.meta import Meta
from core.meta.version import parse_version
from sluicefs.cli import command
from sluicefs.options import meta_argument, read_credentials
from sluicefs.output import settings, show
from sluicefs.setting_access import metadata, save_setting
from sluicefs.settings_options import (
    absolute_bucket,
    changes,
    describe_changes,
    later_options,
    mutable_options,
    was_given,
)  # fmt: skip
from sluicefs.volume import run


@command("config")
@meta_argument
@mutable_options
@later_options
@click.option("-y", "--yes", is_flag=True, help="Answer every question with yes.")
@click.option("--force", is_flag=True, help="Don't prove a new object store before saving it.")
@click.option("--encrypt-secret", is_flag=True, help="Store credentials encrypted (they are, in new volumes).")
def config_command(meta_url: str, yes: bool, force: bool, encrypt_secret: bool, **options: Any) -> None:
    """Without options: print the settings as JSON, secrets removed. With options: change those settings.

    Clients adopt changes within 12 seconds.
    """
    credentials = read_credentials(options.pop("access_key"))
    for given in ("secret_key", "session_token"):
        credentials[given] = options.pop(given) or credentials[given]
    old, meta_facts = run(_read(meta_url))
    wanted = changes(options, credentials)
    absolute_bucket(wanted, old.storage)
    tier = options["tier"]
    if tier is not None:
        before = old.tier(tier)
        wanted["tiers"] = {**(old.tiers or {"0": old.tier(0)}), str(tier): _tier(before, tier, options)}
    elif was_given("storage_class") or was_given("tag"):
        raise ConfigError("--storage-class and --tag belong to a tier; add --tier 0 for the default one")
    if not wanted and not encrypt_secret:
        show(old.redacted().to_dict())
        return
    new = old.changed(**wanted) if wanted else old.with_encrypted_secrets()
    for question in _questions(old, new, meta_facts):
        if not yes:
            click.secho(f"WARNING: {question}", fg="yellow", err=True)
            click.confirm("Proceed anyway?", default=False, abort=True, err=True)
    lines = describe_changes(old, new)
    run(save_setting(meta_url, old, new, proven=force))
    before_doc, after_doc = old.redacted().to_dict(), new.redacted().to_dict()
    changed = {n: [before_doc.get(n), v] for n, v in after_doc.items() if before_doc.get(n) != v}
    show({"changed": changed, "setting": after_doc} if settings.json else {}, "\n".join(lines) or "Nothing changed.")


def _tier(before: Tier, number: int, options: dict[str, Any]) -> Tier:
    def pick(name: str, old: str) -> str:
        return old if options[name] is None else options[name]

    return Tier(number, pick("storage_class", before.storage_class), pick("tag", before.tag), before.unknown)


class _Facts:
    """What the questions need to know."""

    def __init__(self, used: int, inodes: int, sessions: list[dict[str, Any]]) -> None:
        self.used = used
        self.inodes = inodes
        self.sessions = sessions


async def _read(meta_url: str) -> tuple[Format, _Facts]:
    async with metadata(meta_url) as meta:
        return meta.format, await _facts(meta)


async def _facts(meta: Meta) -> _Facts:
    stat = await meta.statfs()
    return _Facts(stat.used, stat.used_inodes, await meta.sessions())


def _questions(old: Format, new: Format, facts: _Facts) -> list[str]:
    """What a careful administrator would be asked (cli §2.2)."""
    asked: list[str] = []
    if new.capacity != old.capacity and 0 < new.capacity < facts.used:
        asked.append(f"{format_size(facts.used)} are in use, more than the new limit of {format_size(new.capacity)}.")
    if new.inodes != old.inodes and 0 < new.inodes < facts.inodes:
        asked.append(f"{facts.inodes} inodes are in use, more than the new limit of {new.inodes}.")
    if old.trash_days and not new.trash_days:
        asked.append("without a trash, removed files are gone at once.")
    bounds = (new.min_client_version, new.max_client_version)
    if bounds != (old.min_client_version, old.max_client_version):
        out = [s for s in facts.sessions if not _admits(bounds, str(s.get("Version", "")))]
        if out:
            names = ", ".join(
                f"{s['Sid']} ({s.get('HostName')}:{s.get('MountPoint')}, {s.get('Version')})" for s in out
            )
            asked.append(f"these connected clients would be shut out: {names}.")
    redefined = [n for n, tier in (old.tiers or {}).items() if (new.tiers or {}).get(n) != tier]
    if redefined:
        asked.append(f"tier {', '.join(redefined)} is redefined; objects that exist keep their storage class.")
    return asked


def _admits(bounds: tuple[str, str], version: str) -> bool:
    theirs = parse_version(version)
    low, high = (parse_version(bound) if bound else None for bound in bounds)
    return theirs is None or ((low is None or theirs >= low) and (high is None or theirs <= high))
