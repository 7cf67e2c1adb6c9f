# SPDX-License-Identifier: Apache-2.0
"""Where an SFTP bucket lies and who we are there: `host[:port]:path/`.

Pure: text and an environment in, an `Address` out. Nothing is read here but the environment.
Source: spec data-path §4.2 (forms, SSH_PRIVATE_KEY_PATH, SSH_KNOWN_HOSTS, SSH_AUTH_SOCK), §15 (12).
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from core.errors import ConfigError

FORM: Final = "HOST:/path/ or HOST:PORT:/path/, with the user as access key"
DEFAULT_PORT: Final = 22


@dataclass(frozen=True, slots=True)
class Address:
    """path: put before every key as it stands, so it ends in `/`; relative paths begin at the user's home."""

    host: str
    port: int
    path: str
    user: str
    password: str = field(default="", repr=False)
    key_file: str = ""
    known_hosts: str = ""  # "": host keys are not checked

    @property
    def where(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sftp://{host}:{self.port}/{self.path}"


def parse(
    bucket: str, access_key: str = "", secret_key: str = "", environ: Mapping[str, str] = os.environ
) -> Address:  # fmt: skip
    """ConfigError shows the form; texts never contain the password."""
    text = bucket.strip().removeprefix("sftp://")
    found = re.fullmatch(r"(\[[^\]]*\]|[^:/]*):(?:(\d+):)?(.*)", text, re.DOTALL)
    if found is None:
        raise ConfigError(f"sftp: the bucket {text.rpartition('@')[2]!r} has no path; it looks like {FORM}")
    host, port, path = found[1].strip("[]"), found[2], found[3]
    if "@" in host or re.match(r"[^/]*@[^/]*:", path):
        raise ConfigError(f"sftp: user and password don't belong into the bucket; it looks like {FORM}")
    if not host:
        raise ConfigError(f"sftp: the bucket names no host; it looks like {FORM}")
    if port and not 0 < int(port) < 65536:
        raise ConfigError(f"sftp: {port} is no port; the bucket looks like {FORM}")
    return Address(
        host=host,
        port=int(port or DEFAULT_PORT),
        path=path,
        user=access_key or _current_user(),
        password=unquote(secret_key),
        key_file=os.path.expanduser(environ.get("SSH_PRIVATE_KEY_PATH", "")),
        known_hosts=os.path.expanduser(environ.get("SSH_KNOWN_HOSTS", "")),
    )


def normalise(bucket: str) -> str:
    """As it is stored: with the trailing slash without which a volume's name would be glued to the path."""
    text = bucket.strip()
    parse(text, "user", "", {})
    return text if text.endswith(("/", ":")) else text + "/"


def _current_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "root" if os.geteuid() == 0 else str(os.geteuid())
