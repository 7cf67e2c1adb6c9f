# SPDX-License-Identifier: Apache-2.0
"""A real OpenSSH server for tests: key log-in only, its own host key, files anywhere this user may write.

Debian: openssh-server. Keys are made on the spot.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.servers.process import Server, missing, require

HINT = "apt-get install openssh-server"


def _sshd() -> str:
    found = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or shutil.which("sshd")
    if not found:
        missing("sshd", HINT)
    assert found
    return found


class SSHServer(Server):
    """`key`: a private key that may log in; `other_key`: one that may not; `known_hosts`; `bucket(name)`."""

    def __init__(self, *options: str) -> None:
        program, keygen = _sshd(), require("ssh-keygen", "apt-get install openssh-client")
        if Path("/run").is_dir():  # privilege separation of a server that root starts
            Path("/run/sshd").mkdir(exist_ok=True)

        def command(port: int, folder: Path) -> list[str]:
            if not (folder / "host").exists():
                for name in ("host", "user", "other"):
                    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
                (folder / "allowed").write_bytes((folder / "user.pub").read_bytes())
                host = (folder / "host.pub").read_text().split()[:2]
                (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host)}\n")
                (folder / "conf").write_text(
                    "\n".join(
                        [
                            f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host",
                            f"PidFile {folder}/pid", f"AuthorizedKeysFile {folder}/allowed", "UsePAM no",
                            "StrictModes no", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
                            "PermitRootLogin yes", "Subsystem sftp internal-sftp", "MaxStartups 100", *options, "",
                        ]
                    )
                )  # fmt: skip
            return [program, "-D", "-e", "-f", str(folder / "conf")]

        super().__init__(command, name="sshd")

    @property
    def key(self) -> str:
        return str(self.folder / "user")

    @property
    def other_key(self) -> str:
        return str(self.folder / "other")

    @property
    def known_hosts(self) -> str:
        return str(self.folder / "known_hosts")

    def bucket(self, name: str) -> str:
        return f"127.0.0.1:{self.port}:{self.folder}/data/{name}/"

    def kill(self) -> None:
        """The listener and every session: all processes of the group have it as an ancestor."""
        if self.process:
            children = _descendants(self.process.pid)
            super().kill()
            for child in children:
                subprocess.run(["kill", "-9", str(child)], check=False, capture_output=True)


def _descendants(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    children = [int(line) for line in found.stdout.split()]
    return [*children, *(below for child in children for below in _descendants(child))]
