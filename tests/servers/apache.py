# SPDX-License-Identifier: Apache-2.0
"""Apache with mod_dav over a temporary folder: the WebDAV server most others are compared with. Asks for a password.

Debian: apache2-bin (no service is set up). Source: Apache's documentation of mod_dav, mod_dav_fs, mod_auth_basic.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers.process import Server, missing, require

USER = "sluice-test"
PASSWORD = "pass:w%rd&+ ä"
# SHA-1 in base64 is the one form of htpasswd that the standard library can make.
MODULES = Path("/usr/lib/apache2/modules")
NEEDED = ("mpm_event", "authn_core", "authz_core", "authn_file", "authz_user", "auth_basic", "dav", "dav_fs")


def apache(*, password: bool = True) -> Server:
    """A server to start; `endpoint(server)` is the address of its folder."""
    program = require("apache2", "apt-get install apache2-bin")
    lost = [name for name in NEEDED if not (MODULES / f"mod_{name}.so").exists()]
    if lost:
        missing(f"Apache's {', '.join(lost)}", "apt-get install apache2-bin")

    def command(port: int, folder: Path) -> list[str]:
        (folder / "data").mkdir(exist_ok=True)
        (folder / "locks").mkdir(exist_ok=True)
        (folder / "users").write_text(f"{USER}:{_hashed(PASSWORD)}\n")
        (folder / "httpd.conf").write_text(_settings(port, folder, password))
        if os.geteuid() == 0:  # its children run as nobody
            os.chmod(folder, 0o755)
            for name in ("data", "locks"):
                os.chown(folder / name, 65534, 65534)
        return [program, "-d", str(folder), "-f", str(folder / "httpd.conf"), "-DFOREGROUND"]

    return Server(command, name="apache2")


def endpoint(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def _hashed(password: str) -> str:
    import base64
    import hashlib

    return "{SHA}" + base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()


def _settings(port: int, folder: Path, password: bool) -> str:
    loads = "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in NEEDED)
    who = f"""AuthType Basic
  AuthName test
  AuthUserFile {folder}/users
  Require valid-user"""
    return f"""ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
ErrorLog {folder}/error.log
{loads}
User #65534
Group #65534
KeepAlive On
MaxKeepAliveRequests 0
AllowEncodedSlashes NoDecode
DavLockDB {folder}/locks/db
DocumentRoot {folder}/data
<Directory {folder}/data>
  Dav On
  DirectoryIndex disabled
  {who if password else "Require all granted"}
</Directory>
""".replace("  DirectoryIndex disabled\n", "")
