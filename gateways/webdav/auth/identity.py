# SPDX-License-Identifier: Apache-2.0
"""As whom a user's requests are carried out: the server itself, or an account with uid and groups.

With accounts the core tests permissions, ACLs and quotas, and new files belong to the user. They come from a file,
`NAME:UID:GID[,GID…]` per line, or are those of this machine. Source: spec webdav §16.2.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Mapping
from functools import lru_cache

from core.errors import ConfigError
from core.vfs.api import Caller
from gateways.webdav.auth.files import UserFile, lines_of
from gateways.webdav.errors import DavError

#: The name of somebody who logged in ("" for anonymous visitors) to the caller; 403 if there is none.
CallerOf = Callable[[str], Caller]

#: Visitors without a name (spec s3 §7.3 says the same for that door).
NOBODY = 65534


def mapped(path: str) -> CallerOf:
    """By the file `path`, read again when it changes."""
    file = UserFile(path, _parse, option="--user-map")

    def caller_of(name: str) -> Caller:
        return _require(file.current().get(name), name)

    return caller_of


def system(name: str) -> Caller:
    """By the accounts of this machine."""
    return _require(_account(name), name)


def _require(found: Caller | None, name: str) -> Caller:
    if found is not None:
        return found
    if not name:
        return Caller(NOBODY, (NOBODY,))
    raise DavError(403, "No account belongs to this user name; the administrator can add one.")


@lru_cache(1024)
def _account(name: str) -> Caller | None:
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        return None
    return Caller(entry.pw_uid, tuple(os.getgrouplist(name, entry.pw_gid)))


def _parse(text: str) -> Mapping[str, Caller]:
    found: dict[str, Caller] = {}
    for number, line in lines_of(text):
        parts = line.split(":")
        try:
            name, uid, gids = parts
            groups = tuple(_gid(gid) for gid in gids.split(","))
            found[name] = Caller(int(uid), groups)
            if not 0 <= int(uid) < 1 << 32:
                raise ValueError
        except (ValueError, KeyError):
            raise ConfigError(
                f"--user-map, line {number}: NAME:UID:GID[,GID...] is needed, such as alice:1000:1000"
            ) from None
    return found


def _gid(text: str) -> int:
    text = text.strip()
    number = int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid
    if not 0 <= number < 1 << 32:
        raise ValueError
    return number
