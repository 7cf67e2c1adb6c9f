# SPDX-License-Identifier: Apache-2.0
"""Apache with mod_dav over a temporary folder: the WebDAV server most others are compared with. Asks for a password.

Debian: apache2-bin (no service is set up). Source: Apache's documentation of mod_dav, mod_dav_fs, mod_auth_basic.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import Server, missing, require

USER = "sluice-test"
PASSWORD = "pass:w%rd&+ ä"
# SHA-1 in base64 is the one form of htpasswd that the standard library can make.
HINT = "apt-get install apache2-bin"
MODULES = Path("/usr/lib/apache2/modules")
NEEDED = ("mpm_event", "authn_core", "authz_core", "authn_file", "authz_user", "auth_basic", "dav", "dav_fs")


def apache(*, certificate: tuple[str, str] | None = None) -> Server:
    """A server to start; `endpoint(server)` is the address of its folder.

    certificate: paths of a certificate and its key; then it speaks TLS and asks clients for the same certificate.
    """
    # Outside the search path of ordinary users.
    program = "/usr/sbin/apache2" if Path("/usr/sbin/apache2").exists() else require("apache2", HINT)
    modules = (*NEEDED, "ssl") if certificate else NEEDED
    lost = [name for name in modules if not (MODULES / f"mod_{name}.so").exists()]
    if lost:
        missing(f"Apache's {', '.join(lost)}", HINT)

    def command(port: int, folder: Path) -> list[str]:
        (folder / "data").mkdir(exist_ok=True)
        (folder / "locks").mkdir(exist_ok=True)
        (folder / "users").write_text(f"{USER}:{_hashed(PASSWORD)}\n")
        (folder / "httpd.conf").write_text(_settings(port, folder, modules, certificate))
        if os.geteuid() == 0:  # its children run as nobody
            os.chmod(folder, 0o755)
            for name in ("data", "locks"):
                os.chown(folder / name, 65534, 65534)
        return [program, "-d", str(folder), "-f", str(folder / "httpd.conf"), "-DFOREGROUND"]

    return Server(command, name="apache2")


def endpoint(server: Server, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.port}"


def _hashed(password: str) -> str:
    return "{SHA}" + base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()


def _settings(port: int, folder: Path, modules: Sequence[str], certificate: tuple[str, str] | None) -> str:
    loads = "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in modules)
    tls = ""
    if certificate:
        tls = f"""SSLEngine on
SSLCertificateFile {certificate[0]}
SSLCertificateKeyFile {certificate[1]}
SSLCACertificateFile {certificate[0]}
SSLVerifyClient require"""
    return f"""ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
ErrorLog {folder}/error.log
{loads}
{tls}
User #65534
Group #65534
KeepAlive On
MaxKeepAliveRequests 0
AllowEncodedSlashes NoDecode
DavLockDB {folder}/locks/db
DocumentRoot {folder}/data
<Directory {folder}/data>
  Dav On
  AuthType Basic
  AuthName test
  AuthUserFile {folder}/users
  Require valid-user
</Directory>
"""
