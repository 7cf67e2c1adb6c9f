# SPDX-License-Identifier: Apache-2.0
"""The setting document ("format"): what a volume is, where its objects lie, which rules its clients follow.

One frozen record, the text form that the database holds, creation defaults, and the rules of changing it.
Re-encoding a document that JuiceFS 1.4 wrote gives the same bytes; fields that we don't know travel along.
Pure values; no IO. Source: metadata-format §7.1 (fields, order), §7.2 (secrets), §7.3 (versions); data-path §0, §1.2.
"""

from __future__ import annotations

import json
import re
import uuid as _uuid
from typing import Any, Final, NamedTuple

import msgspec

from core.errors import ConfigError, VolumeError
from core.meta.version import (
    CLIENT_VERSION,
    MIN_ACL,
    MIN_KERBEROS,
    MIN_PLAIN,
    MIN_RANGER,
    MIN_TIERS,
    highest,
    parse_version,
)  # fmt: skip
from core.object.secrets import REMOVED, decrypt_secret, encrypt_secret

META_VERSION: Final = 1
COMPRESSIONS: Final = ("none", "lz4", "zstd")
ENCRYPT_ALGOS: Final = ("aes256gcm-rsa", "chacha20-rsa", "sm4gcm")
MIN_BLOCK: Final = 64 << 10
MAX_BLOCK: Final = 16 << 20
MAX_SHARDS: Final = 256
MAX_TIER: Final = 3
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)


class Tier(msgspec.Struct, frozen=True):
    """Storage class and tag of the objects of one tier; tag is "" or "key=value"."""

    id: int = 0
    storage_class: str = ""
    tag: str = ""
    unknown: dict[str, Any] = {}


class Secrets(NamedTuple):
    """The secrets of a volume in plain text. Never log, never print."""

    secret_key: str
    session_token: str
    encrypt_key: str


class Format(msgspec.Struct, frozen=True):
    """The settings of one volume. Secrets are as stored (encrypted if `key_encrypted`); see `secrets`."""

    name: str
    uuid: str
    storage: str = "file"
    storage_class: str = ""
    tiers: dict[str, Tier] | None = None
    bucket: str = ""
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    block_size_kib: int = 4096
    compression: str = ""
    shards: int = 0
    hash_prefix: bool = False
    capacity: int = 0  # bytes, 0 = unlimited
    inodes: int = 0  # 0 = unlimited
    encrypt_key: str = ""
    encrypt_algo: str = ""
    key_encrypted: bool = False
    upload_limit: int = 0  # Mbps
    download_limit: int = 0  # Mbps
    trash_days: int = 0
    meta_version: int = 0
    min_client_version: str = ""
    max_client_version: str = ""
    dir_stats: bool = False
    user_group_quota: bool = False
    enable_acl: bool = False
    ranger_rest_url: str = ""
    ranger_service: str = ""
    change_log: bool = False
    change_log_max_age: int = 0  # seconds
    change_log_max_lines: int = 0
    kerb_conf: str = ""
    unknown: dict[str, Any] = {}

    # -- what the other layers ask ---------------------------------------------------------------------------------

    @property
    def block_size(self) -> int:
        """Bytes."""
        return self.block_size_kib << 10

    @property
    def encrypted(self) -> bool:
        """Data blocks are encrypted."""
        return bool(self.encrypt_key)

    def tier(self, number: int) -> Tier:
        """Definition of a tier; an undefined one behaves like tier 0 (§7.1: absent Tiers = the old storage class)."""
        tiers = self.tiers or {}
        return tiers.get(str(number)) or tiers.get("0") or Tier(0, self.storage_class)

    # -- text form -------------------------------------------------------------------------------------------------

    @staticmethod
    def parse(raw: bytes | str) -> Format:
        """Read a stored document: any layout, any field order, unknown fields kept."""
        try:
            document = json.loads(raw)
        except ValueError as error:
            # The text may hold secrets: say where it breaks, not what it says.
            position = getattr(error, "pos", None)
            where = f" (at byte {position})" if position is not None else ""
            raise VolumeError(f"the volume's setting is no JSON document{where}; restore it from a backup") from None
        if not isinstance(document, dict):
            raise VolumeError("the volume's setting is no JSON object; restore it from a backup")
        values: dict[str, Any] = {}
        unknown: dict[str, Any] = {}
        for key, value in document.items():
            field = _BY_JSON_NAME.get(key)
            if field is None:
                unknown[key] = value
            elif value is not None:  # null leaves the field at its zero value
                values[field.attribute] = _checked(field, value)
        for required in ("name", "uuid"):
            if not values.get(required):
                raise VolumeError(
                    f"the volume's setting has no {required}; is this database a volume? If so, restore a backup"
                )
        return Format(**values, unknown=unknown)

    def to_dict(self) -> dict[str, Any]:
        """The document as it is written: order of §7.1, empty optional fields left out, unknown fields last."""
        document: dict[str, Any] = {}
        for field in _FIELDS:
            value = getattr(self, field.attribute)
            if field.json_name == "Tiers":
                document["Tiers"] = _tiers_out(value)
            elif value or not field.omit:
                document[field.json_name] = value
        document.update(self.unknown)
        return document

    def to_json(self) -> bytes:
        """The text to store: one field per line, no indentation, `<`, `>`, `&` escaped."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=0, separators=(",", ": "))
        for char, escape in _ESCAPES:
            text = text.replace(char, escape)
        return text.encode("utf-8", "replace")

    # -- secrets ---------------------------------------------------------------------------------------------------

    def secrets(self) -> Secrets:
        """Plain secrets. VolumeError if one was stripped or can't be decrypted."""
        plain = [self._plain(name) for name in SECRET_FIELDS]
        return Secrets(*plain)

    def _plain(self, attribute: str) -> str:
        stored: str = getattr(self, attribute)
        label = _BY_ATTRIBUTE[attribute].json_name
        if stored == REMOVED:
            raise VolumeError(
                f"{label} of volume {self.name} was removed (a restored backup?); set it again with `sluice config`"
            )
        if not stored or not self.key_encrypted:
            return stored
        return decrypt_secret(stored, self.uuid, self.encrypt_algo, field=f"{label} of volume {self.name}")

    def with_plain_secrets(self) -> Format:
        return msgspec.structs.replace(self, **self.secrets()._asdict(), key_encrypted=False)

    def with_encrypted_secrets(self) -> Format:
        """As stored. Unchanged if there is no secret, or if they are encrypted already (§7.2)."""
        values = {name: getattr(self, name) for name in SECRET_FIELDS}
        if self.key_encrypted or not any(values.values()):
            return self
        changed = {n: encrypt_secret(v, self.uuid, self.encrypt_algo) if v else "" for n, v in values.items()}
        return msgspec.structs.replace(self, **changed, key_encrypted=True)

    def redacted(self) -> Format:
        """For printing: each secret that is there reads `removed`."""
        return msgspec.structs.replace(self, **{n: REMOVED for n in SECRET_FIELDS if getattr(self, n)})

    def __repr__(self) -> str:
        # A record that holds secrets must not spell them in a traceback or a log line.
        return f"Format({self.name}, {self.uuid}, {self.storage}, {self.block_size_kib} KiB blocks)"

    # -- rules -----------------------------------------------------------------------------------------------------

    def validate(self) -> Format:
        """Everything that must hold before a document is written. ConfigError names option and way out."""
        check_name(self.name)
        _check_choice("--compress", self.compression, ("", *COMPRESSIONS))
        _check_choice("--encrypt-algo", self.encrypt_algo, ("", *ENCRYPT_ALGOS))
        block = self.block_size
        if not MIN_BLOCK <= block <= MAX_BLOCK or block & (block - 1):
            raise ConfigError(f"--block-size: {self.block_size_kib} KiB; it must be a power of two from 64K to 16M")
        if not 0 <= self.shards <= MAX_SHARDS:
            raise ConfigError(f"--shards: {self.shards} is outside 0 … {MAX_SHARDS}")
        if self.shards > 1 and "%d" not in self.bucket:
            raise ConfigError(
                f"--shards {self.shards} needs a bucket with %d in it, which becomes 0 … {self.shards - 1}"
            )
        for option, value in (
            ("--trash-days", self.trash_days), ("--capacity", self.capacity), ("--inodes", self.inodes),
            ("--upload-limit", self.upload_limit), ("--download-limit", self.download_limit),
            ("--changelog-max-age", self.change_log_max_age), ("--changelog-max-lines", self.change_log_max_lines),
        ):  # fmt: skip
            if value < 0:
                raise ConfigError(f"{option}: {value} is negative; 0 means none")
        for number, tier in (self.tiers or {}).items():
            if number not in ("0", "1", "2", "3") or tier.id != int(number):
                raise ConfigError(f"--tier: {number} is outside 0 … {MAX_TIER}")
            if tier.tag and not re.fullmatch(r"[^=]+=[^=]*", tier.tag):
                raise ConfigError(f"--tag: {tier.tag!r} is not KEY=VALUE")
        for option, bound in (
            ("--min-client-version", self.min_client_version), ("--max-client-version", self.max_client_version)
        ):  # fmt: skip
            if bound and parse_version(bound) is None:
                raise ConfigError(f"{option}: {bound!r} is no version; write something like 1.2.0")
        return self

    def check_client(self, version: str = CLIENT_VERSION) -> None:
        """Refuse a volume that is newer than we are, or that doesn't admit our version (§7.3)."""
        if self.meta_version > META_VERSION:
            raise VolumeError(
                f"volume {self.name} has metadata version {self.meta_version}, newer than this client's "
                f"{META_VERSION}; upgrade the client"
            )
        ours = parse_version(version)
        if ours is None:
            raise VolumeError(f"client version {version!r} can't be read")
        for bound, is_minimum in ((self.min_client_version, True), (self.max_client_version, False)):
            if not bound:
                continue
            limit = parse_version(bound)
            word = "Min" if is_minimum else "Max"
            if limit is None:
                raise VolumeError(
                    f"volume {self.name}: {word}ClientVersion {bound!r} can't be read; correct it with `sluice config`"
                )
            if ours < limit if is_minimum else ours > limit:
                way = "at least" if is_minimum else "at most"
                raise VolumeError(f"volume {self.name} admits clients of {way} {bound}; this one counts as {version}")

    def check_replaces(self, old: Format) -> None:
        """Refuse a change of what can't change. Names field, old and new value (cli §2.1)."""
        for attribute in IMMUTABLE_FIELDS:
            before, after = getattr(old, attribute), getattr(self, attribute)
            if _canonical(attribute, before) != _canonical(attribute, after):
                label = _BY_ATTRIBUTE[attribute].json_name
                raise ConfigError(
                    f"{label} of volume {old.name} can't change from {before!r} to {after!r}; "
                    "leave it as it is, or create another volume"
                )
        if old.enable_acl and not self.enable_acl:
            raise ConfigError(f"ACLs of volume {old.name} can't be switched off: files may depend on them")
        # An encryption key that appears, vanishes or changes leaves old blocks unreadable. One that was stripped
        # from a backup may be set again.
        if old.encrypt_key != REMOVED and self.encrypt_key != old.encrypt_key:
            ours = self._plain("encrypt_key")
            if ours != old._plain("encrypt_key"):
                raise ConfigError(f"the encryption key of volume {old.name} can't change; create another volume")
        if old.encrypted and self.encrypt_algo != old.encrypt_algo:
            raise ConfigError(
                f"EncryptAlgo of volume {old.name} can't change from {old.encrypt_algo!r} to {self.encrypt_algo!r}"
            )

    def replacing(self, old: Format) -> Format:
        """This document as the successor of `old`: UUID, unknown fields and bounds kept, versions raised as its
        features demand, secrets encrypted with the volume's own UUID."""
        new = self.with_plain_secrets() if self.key_encrypted and self.uuid != old.uuid else self
        new = msgspec.structs.replace(
            new, uuid=old.uuid, unknown={**old.unknown, **self.unknown},
            min_client_version=highest(old.min_client_version, new.min_client_version, _minimum(new, old)),
        )  # fmt: skip
        new.check_replaces(old)
        if new.change_log and not old.change_log and not new.change_log_max_age:
            new = msgspec.structs.replace(new, change_log_max_age=7200)
        return new.validate().with_encrypted_secrets()

    def changed(self, **changes: Any) -> Format:
        """A copy with some settings changed, ready to store. Secrets among the changes are plain text."""
        bound, wanted = parse_version(self.min_client_version), changes.get("min_client_version")
        if bound is not None and wanted is not None:
            version = parse_version(wanted)
            if version is None or version < bound:
                raise ConfigError(
                    f"--min-client-version: it can only rise, and is {self.min_client_version} for volume {self.name}"
                )
        base = self
        if any(name in SECRET_FIELDS for name in changes):
            # All secrets share one "encrypted" mark, so take the others out of their wrapping as well; but one that was
            # stripped and is being set again right now must not stand in the way.
            kept = {n: changes[n] if n in changes else self._plain(n) for n in SECRET_FIELDS}
            base = msgspec.structs.replace(self, **kept, key_encrypted=False)
        return msgspec.structs.replace(base, **changes).replacing(self)


def new_format(
    name: str,
    *,
    uuid: str | None = None,
    storage: str = "file",
    bucket: str,
    block_size: int = 4 << 20,
    compression: str = "none",
    trash_days: int = 1,
    encrypt_algo: str = "aes256gcm-rsa",
    storage_class: str = "",
    tag: str = "",
    **options: Any,
) -> Format:
    """A new volume's document with the defaults of §7.1. Secrets are plain text here and encrypted in the result.

    block_size: bytes; rounded down to a power of two within 64K … 16M, as JuiceFS does.
    """
    made = Format(
        name=name, uuid=uuid or str(_uuid.uuid4()), storage=storage, bucket=bucket,
        block_size_kib=round_block_size(block_size) >> 10, compression=compression, trash_days=trash_days,
        encrypt_algo=encrypt_algo, meta_version=META_VERSION, dir_stats=options.pop("dir_stats", True),
        tiers={"0": Tier(0, storage_class, tag)}, **options,
    )  # fmt: skip
    made = msgspec.structs.replace(made, min_client_version=highest(made.min_client_version, _minimum(made, None)))
    return made.validate().with_encrypted_secrets()


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no volume name; use 3 to 63 lower-case letters, digits and dashes, no dash at either end"
        )


def round_block_size(size: int) -> int:
    """Rounded down to a power of two, then clamped to 64 KiB … 16 MiB (data-path §0)."""
    return min(max(1 << max(size.bit_length() - 1, 0), MIN_BLOCK), MAX_BLOCK)


def _minimum(new: Format, old: Format | None) -> str:
    """The bound that the features ask for; on a change only features that are being switched on count."""
    bounds = [MIN_PLAIN] if old is None else []
    if new.enable_acl and not (old and old.enable_acl):
        bounds.append(MIN_ACL)
    if new.ranger_rest_url and (old is None or new.ranger_rest_url != old.ranger_rest_url):
        bounds.append(MIN_RANGER)
    if new.kerb_conf and (old is None or new.kerb_conf != old.kerb_conf):
        bounds.append(MIN_KERBEROS)
    if old is not None and new.tiers != old.tiers:
        bounds.append(MIN_TIERS)
    return highest(*bounds)


def _canonical(attribute: str, value: Any) -> Any:
    """Stored spellings that mean the same: no compression, no shards."""
    if attribute == "compression":
        return value or "none"
    if attribute == "shards":
        return value if value > 1 else 0
    if attribute == "meta_version":
        return value or META_VERSION
    return value


def _check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{option}: {value!r} is unknown; choose {', '.join(a for a in allowed if a)}")


class _Field(NamedTuple):
    json_name: str
    attribute: str
    omit: bool  # not written when zero, empty or false
    kind: type


# §7.1, in the order written.
_FIELDS: Final = tuple(
    _Field(*row)
    for row in (
        ("Name", "name", False, str),
        ("UUID", "uuid", False, str),
        ("Storage", "storage", False, str),
        ("StorageClass", "storage_class", True, str),
        ("Tiers", "tiers", False, dict),
        ("Bucket", "bucket", False, str),
        ("AccessKey", "access_key", True, str),
        ("SecretKey", "secret_key", True, str),
        ("SessionToken", "session_token", True, str),
        ("BlockSize", "block_size_kib", False, int),
        ("Compression", "compression", True, str),
        ("Shards", "shards", True, int),
        ("HashPrefix", "hash_prefix", True, bool),
        ("Capacity", "capacity", True, int),
        ("Inodes", "inodes", True, int),
        ("EncryptKey", "encrypt_key", True, str),
        ("EncryptAlgo", "encrypt_algo", True, str),
        ("KeyEncrypted", "key_encrypted", True, bool),
        ("UploadLimit", "upload_limit", True, int),
        ("DownloadLimit", "download_limit", True, int),
        ("TrashDays", "trash_days", False, int),
        ("MetaVersion", "meta_version", True, int),
        ("MinClientVersion", "min_client_version", True, str),
        ("MaxClientVersion", "max_client_version", True, str),
        ("DirStats", "dir_stats", True, bool),
        ("UserGroupQuota", "user_group_quota", True, bool),
        ("EnableACL", "enable_acl", False, bool),
        ("RangerRestUrl", "ranger_rest_url", True, str),
        ("RangerService", "ranger_service", True, str),
        ("ChangeLog", "change_log", True, bool),
        ("ChangeLogMaxAge", "change_log_max_age", True, int),
        ("ChangeLogMaxLines", "change_log_max_lines", True, int),
        ("KerbConf", "kerb_conf", True, str),
    )
)
_BY_JSON_NAME: Final = {field.json_name: field for field in _FIELDS}
_BY_ATTRIBUTE: Final = {field.attribute: field for field in _FIELDS}
SECRET_FIELDS: Final = ("secret_key", "session_token", "encrypt_key")
IMMUTABLE_FIELDS: Final = ("name", "block_size_kib", "compression", "shards", "hash_prefix", "meta_version")

# What Go's JSON writer escapes beyond the standard; our stored bytes must match it.
_ESCAPES: Final = (
    ("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"),
)  # fmt: skip


def _checked(field: _Field, value: Any) -> Any:
    if field.json_name == "Tiers" and isinstance(value, dict):
        return {number: _tier_in(number, tier) for number, tier in value.items()}
    # bool is an int in Python, but a volume with "BlockSize": true is damaged.
    if not isinstance(value, field.kind) or (field.kind is int and isinstance(value, bool)):
        shown = "" if field.attribute in SECRET_FIELDS else f" ({value!r})"
        raise VolumeError(
            f"the volume's setting is damaged: {field.json_name}{shown} should be a {_KIND_WORDS[field.kind]}"
        )
    return value


_KIND_WORDS: Final = {str: "text", int: "whole number", bool: "true or false", dict: "an object"}


def _tier_in(number: str, value: Any) -> Tier:
    if not isinstance(value, dict):
        raise VolumeError(f"the volume's setting is damaged: tier {number} is no object")
    rest = dict(value)
    return Tier(rest.pop("ID", 0), rest.pop("StorageClass", "") or "", rest.pop("Tag", "") or "", rest)


def _tiers_out(tiers: dict[str, Tier] | None) -> dict[str, Any] | None:
    if tiers is None:
        return None
    return {
        number: {"ID": tier.id, "StorageClass": tier.storage_class, "Tag": tier.tag, **tier.unknown}
        for number, tier in sorted(tiers.items())
    }
