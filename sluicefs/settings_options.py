# SPDX-License-Identifier: Apache-2.0
"""The options of `format` and `config` that say what a volume is: one table from option to setting.

Only options that were really given (flag, environment, file) change an existing volume.
Source: cli §2.1, §2.2; metadata-format §7.1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from core.config import GIB
from core.errors import ConfigError
from core.meta.format import COMPRESSIONS, ENCRYPT_ALGOS, Format
from core.object.open import normalise_bucket
from sluicefs.options import BANDWIDTH, DURATION, chain, option, size

#: Parameter of the command -> field of the setting.
_FIELDS: Final = {
    "storage": "storage",
    "bucket": "bucket",
    "capacity": "capacity",
    "inodes": "inodes",
    "trash_days": "trash_days",
    "enable_acl": "enable_acl",
    "compress": "compression",
    "encrypt_algo": "encrypt_algo",
    "hash_prefix": "hash_prefix",
    "shards": "shards",
    "storage_class": "storage_class",
    "ranger_rest_url": "ranger_rest_url",
    "ranger_service": "ranger_service",
    "upload_limit": "upload_limit",
    "download_limit": "download_limit",
    "min_client_version": "min_client_version",
    "max_client_version": "max_client_version",
    "dir_stats": "dir_stats",
    "user_group_quota": "user_group_quota",
    "changelog": "change_log",
    "changelog_max_age": "change_log_max_age",
    "changelog_max_lines": "change_log_max_lines",
}

_secret: Callable[..., Any] = click.option  # never from SLUICE_…: ACCESS_KEY and the like are the variables

#: Settings that can be given at creation and changed later.
mutable_options = chain(
    option("--storage", metavar="TYPE", help="Object store type: file, s3 …"),
    option("--bucket", metavar="URL", help="Bucket URL or folder; %d in it is the shard's number."),
    _secret("--access-key", metavar="KEY", help="Of the object store; or ACCESS_KEY."),
    _secret("--secret-key", metavar="KEY", help="Of the object store; better SECRET_KEY in the environment."),
    _secret("--session-token", metavar="TOKEN", help="Of the object store; better SESSION_TOKEN."),
    option("--capacity", type=size(GIB), help="Limit of the volume (GiB without a suffix); 0 is none."),
    option("--inodes", type=click.IntRange(0), help="Limit of files and folders; 0 is none."),
    option("--trash-days", type=click.IntRange(0), help="Days that removed files are kept; 0 turns the trash off."),
    option("--enable-acl/--no-enable-acl", default=None, help="POSIX ACLs; once on, they stay on."),
    option("--ranger-rest-url", metavar="URL", help="Of Apache Ranger, for Hadoop clients."),
    option("--ranger-service", metavar="NAME", help="Of Apache Ranger, for Hadoop clients."),
)  # fmt: skip

#: Settings that are fixed at creation.
creation_options = chain(
    option("--block-size", type=size(1 << 10), default="4M", help="Largest object (KiB without a suffix), 64K to 16M."),
    option("--compress", type=click.Choice(COMPRESSIONS), default="none", help="Compression of blocks."),
    option("--encrypt-rsa-key", type=click.Path(), help="PEM file of a private key; passphrase in JFS_RSA_PASSPHRASE."),
    option("--encrypt-algo", type=click.Choice(ENCRYPT_ALGOS), default=ENCRYPT_ALGOS[0], help="Cipher of blocks."),
    option("--hash-prefix", is_flag=True, help="Spread object names by a prefix."),
    option("--shards", type=click.IntRange(0), default=0, help="Spread objects over so many buckets (%d in --bucket)."),
    option("--storage-class", default="", metavar="NAME", help="Storage class of each object."),
    option("--tag", default="", metavar="KEY=VALUE", help="Tag of each object."),
)  # fmt: skip

#: Settings that a running volume can be given.
later_options = chain(
    option("--upload-limit", type=BANDWIDTH, help="Mbps of each client; 0 is none."),
    option("--download-limit", type=BANDWIDTH, help="Mbps of each client; 0 is none."),
    option("--min-client-version", metavar="VERSION", help="Oldest client to admit; can only rise."),
    option("--max-client-version", metavar="VERSION", help="Newest client to admit."),
    option("--dir-stats/--no-dir-stats", default=None, help="Keep usage per folder."),
    option("--user-group-quota/--no-user-group-quota", default=None, help="Account usage per user and group."),
    option("--changelog/--no-changelog", default=None, help="Keep a log of metadata changes."),
    option("--changelog-max-age", type=DURATION, help="How long that log reaches back."),
    option("--changelog-max-lines", type=click.IntRange(0), help="How many lines it keeps; 0 is no limit."),
    option("--tier", type=click.IntRange(0, 3), help="Define a tier, by --storage-class and --tag."),
    option("--storage-class", metavar="NAME", help="Storage class of the tier."),
    option("--tag", metavar="KEY=VALUE", help="Tag of the tier's objects."),
)  # fmt: skip


def was_given(name: str) -> bool:
    """By the user, not by a default."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, ParameterSource.DEFAULT)


def changes(options: dict[str, Any], credentials: dict[str, str]) -> dict[str, Any]:
    """Fields of the setting that the user asked for."""
    found: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        if options.get(name) is not None and was_given(name):
            found[field] = options[name]
    if "change_log_max_age" in found:
        found["change_log_max_age"] = int(found["change_log_max_age"])
    if was_given("tag") or was_given("storage_class"):
        found.pop("storage_class", None)  # superseded by the definition of tiers (format §7.1)
    found.update({name: value for name, value in credentials.items() if value})
    return found


def absolute_bucket(fields: dict[str, Any], storage: str) -> None:
    """Store a folder in the form in which every client, whatever its working directory, finds it again."""
    if "bucket" in fields:
        fields["bucket"] = normalise_bucket(fields.get("storage", storage), fields["bucket"])


def default_bucket() -> str:
    """Where JuiceFS puts data when nothing is said (cli §2.1)."""
    return "/var/jfs" if os.geteuid() == 0 else "~/.juicefs/local"


def read_key(path: str | None) -> str:
    """The PEM text of an encryption key, proven to open with the passphrase in the environment."""
    if not path:
        return ""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = Path(path).read_text(encoding="ascii", errors="replace")
    passphrase = os.environ.get("JFS_RSA_PASSPHRASE", "")
    try:
        load_pem_private_key(text.encode(), passphrase.encode() or None)
    except TypeError:
        way = "set JFS_RSA_PASSPHRASE" if not passphrase else "unset JFS_RSA_PASSPHRASE, the key has no passphrase"
        raise ConfigError(f"--encrypt-rsa-key: {path} can't be opened; {way}") from None
    except Exception as error:
        raise ConfigError(f"--encrypt-rsa-key: {path} can't be read as a private key: {error}") from None
    return text


def describe_changes(old: Format, new: Format) -> list[str]:
    """`  name: old -> new` for each setting that differs; secrets are never shown."""
    before, after = old.redacted().to_dict(), new.redacted().to_dict()
    lines = [
        f"{name:>10}: {before.get(name, '')} -> {after.get(name, '')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
    for label, was, now in (
        ("SecretKey", old.secret_key, new.secret_key), ("SessionToken", old.session_token, new.session_token)
    ):  # fmt: skip
        if was != now and was and now:
            lines.append(f"{label:>10}: changed")
    return lines
