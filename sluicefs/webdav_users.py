# SPDX-License-Identifier: Apache-2.0
"""Who may use the WebDAV door, and what each sees: from options and environment to a doorkeeper and exports.

The keys of the S3 gateway are users here, too: both doors' modules meet in this package only. Source: spec webdav §16.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from core.config import Address
from core.errors import ConfigError
from core.log import hide
from core.vfs.api import ROOT_CALLER
from core.vfs.filesystem import FileSystem
from gateways.s3.auth.credentials import PAIRS as S3_PAIRS, StaticCredentials, root_credential
from gateways.webdav.auth import identity
from gateways.webdav.auth.digest import Digest
from gateways.webdav.auth.door import Doorkeeper
from gateways.webdav.auth.htdigest import HtdigestUsers
from gateways.webdav.auth.htpasswd import HtpasswdUsers
from gateways.webdav.auth.identity import CallerOf
from gateways.webdav.auth.proxies import Proxies
from gateways.webdav.auth.users import PAIRS, KeyUsers, Several, User, UserBase, users_from
from gateways.webdav.config import WebDavConfig
from gateways.webdav.errors import DavError
from gateways.webdav.export import Export
from gateways.webdav.names import parse_names, quote_name

log = logging.getLogger("sluice.webdav")

#: Any of these set: the S3 door's root key is there to be used.
_S3_KEYS = tuple(name + suffix for pair in S3_PAIRS for name in pair for suffix in ("", "_FILE"))


def users_of(rules: Mapping[str, Any], environ: Mapping[str, str]) -> UserBase | None:
    """Where users come from: files, the environment, the S3 door's keys; None if there are none. Hides passwords."""
    auth, realm = rules["auth"], rules["realm"]
    found: list[UserBase] = []
    if auth == "none" or auth == "header":
        return None
    if rules["htpasswd"]:
        found.append(HtpasswdUsers(rules["htpasswd"]))
    if rules["htdigest"]:
        found.append(HtdigestUsers(rules["htdigest"], realm))
    own = users_from(environ)
    if len(own) and auth != "iam":
        hide(*own.passwords())
        found.append(own)
    if auth == "iam" or (not found and any(environ.get(name) for name in _S3_KEYS)):
        credential = root_credential(environ)
        hide(credential.secret_key)
        found.append(KeyUsers(StaticCredentials([credential]).find))
    if not found:
        return None
    return found[0] if len(found) == 1 else Several(found)


def name_to_try(rules: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """A user's name for lines to paste: the one that the environment names, else a place for one."""
    if rules["auth"] in ("none", "header"):
        return ""
    for names in (*PAIRS, *S3_PAIRS):
        if environ.get(names[0]) and not (rules["auth"] == "iam" and names in PAIRS):
            return environ[names[0]]
    return "" if users_of(rules, environ) is None else "NAME"


def doorkeeper(config: WebDavConfig, users: UserBase | None, rules: Mapping[str, Any], key: bytes) -> Doorkeeper:
    """Raises ConfigError for what could let nobody, or everybody, in by mistake."""
    auth, read_only = rules["auth"], frozenset(rules["read_only_users"])
    proxies = config.trusted_proxies
    assert isinstance(proxies, Proxies)
    if auth == "header":
        if not proxies:
            raise ConfigError("--auth header believes a proxy's word; name its address with --trusted-proxy")
        return Doorkeeper(None, proxies=proxies, header=rules["auth_header"], read_only=read_only)
    if auth == "none" or (auth == "auto" and users is None):
        return Doorkeeper(None)
    if users is None:
        raise ConfigError(
            f"--auth {auth} needs users: set WEBDAV_USER and WEBDAV_PASSWORD, or give --htpasswd or --htdigest"
        )
    digest = None
    if auth != "basic" and users.algorithms(config.realm):
        digest = Digest(config.realm, users, key)
    elif auth == "digest":
        raise ConfigError(
            "--auth digest can't check the hashes of --htpasswd; use --htdigest, or --auth basic over TLS"
        )
    return Doorkeeper(
        users, realm=config.realm, allow_basic=auth != "digest", digest=digest, proxies=proxies, read_only=read_only
    )


def exports(fs: FileSystem, config: WebDavConfig, rules: Mapping[str, Any]) -> Callable[[User], Export]:
    """What a user sees, and as whom."""
    root, caller_of = rules["user_root"], callers(rules)

    def export_of(user: User) -> Export:
        place = parse_names(root.replace("%u", _segment(user.name))) if root else ()
        return Export(fs, place, caller=caller_of(user.name), read_only=user.read_only, show_trash=config.show_trash)

    return export_of


def callers(rules: Mapping[str, Any]) -> CallerOf:
    if rules["identity"] == "service":
        if rules["user_map"]:
            raise ConfigError("--user-map is for --identity map; give both")
        return lambda name: ROOT_CALLER
    return identity.mapped(rules["user_map"]) if rules["user_map"] else identity.system


def _segment(name: str) -> str:
    """A user's name as one name of a path; nobody gets another's root by how they are called."""
    if not name or "/" in name or name in (".", ".."):
        raise DavError(403, "This user has no folder here.")
    return quote_name(name.encode("utf-8", "surrogateescape"))


def warn_of_open_doors(
    config: WebDavConfig, rules: Mapping[str, Any], users: UserBase | None, address: Address, *, tls: bool
) -> None:
    """Doors that are open wider than somebody may think say so."""
    local = address.host in ("localhost", "::1") or address.host.startswith("127.")
    if local or rules["auth"] == "header":
        return
    if users is None:
        what = "read" if config.read_only else "read and change"
        log.warning(
            "everybody who reaches %s can %s every file: set WEBDAV_USER and WEBDAV_PASSWORD, or give --htpasswd",
            address.authority, what,
        )  # fmt: skip
    elif not tls and rules["auth"] != "digest":
        log.warning(
            "passwords come unencrypted from clients that use Basic: give --cert-file and --key-file, put a proxy "
            "with TLS in front, or allow only --auth digest"
        )
