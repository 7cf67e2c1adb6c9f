# SPDX-License-Identifier: Apache-2.0
"""The demo volume of `make serve`: SQLite and a folder below one directory, keys that are made once.

Layout: DIR/meta.db, DIR/objects/, DIR/credentials (mode 0600: two lines that a shell can source).
"""

from __future__ import annotations

import os
import secrets
import string
from pathlib import Path
from typing import NamedTuple

from core.errors import ConfigError
from core.meta.format import new_format

NAME = "demo"
_LETTERS = string.ascii_letters + string.digits


class Demo(NamedTuple):
    folder: Path
    meta_url: str
    access_key: str
    secret_key: str
    created: bool


def _write_private(path: Path, text: str) -> None:
    """A file that nobody else can read at any moment, and that is complete or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _keys(path: Path) -> tuple[str, str]:
    """The keys of an earlier run, or new ones."""
    if not path.exists():
        # Letters and digits only: they are pasted into shells, and no client mistakes them for an option.
        access = "DEMO" + "".join(secrets.choice(_LETTERS.upper()) for _ in range(16))
        secret = "".join(secrets.choice(_LETTERS) for _ in range(40))
        _write_private(path, f"AWS_ACCESS_KEY_ID={access}\nAWS_SECRET_ACCESS_KEY={secret}\n")
    values = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    try:
        return values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]
    except KeyError as error:
        raise ConfigError(f"{path} has no {error.args[0]}; delete the file to have new keys made") from None


async def require_demo(folder: Path) -> Demo:
    """The demo volume in `folder`, made if it isn't there yet."""
    from core.volume import format_volume

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    database = folder / "meta.db"
    created = not database.exists()  # only for the greeting: a run may have been killed half-way
    meta_url = f"sqlite3://{database}"
    fresh = new_format(NAME, bucket=f"{folder}/objects/")
    await format_volume(meta_url, fresh, no_update=True)
    return Demo(folder, meta_url, *_keys(folder / "credentials"), created)
