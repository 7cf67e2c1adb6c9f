# SPDX-License-Identifier: Apache-2.0
"""A davfs2 mount of a WebDAV server: `with DavfsMount(url, user, password) as mount: mount.path / "file"`.

Needs root and /dev/fuse. Each mount has a cache of its own, so that what a second mount reads came from the server.
Source: manual pages davfs2.conf(5), mount.davfs(8) of davfs2 1.6.
"""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.process import missing, require, wait_for

_CONF = """
ask_auth 1
cache_dir {cache}
cache_size 2000
table_size 8192
# Uploads happen before close returns, and the server is asked each time: tests don't wait.
delay_upload 0
dir_refresh 0
file_refresh 0
# New kernels (seen with 6.18) read directories in larger pieces than its default of 16 KiB, which it refuses.
buf_size 1024
lock_owner {owner}
"""


class DavfsMount:
    def __init__(self, url: str, user: str, password: str, *, owner: str = "tests", settings: str = "") -> None:
        program = require("mount.davfs", "apt-get install davfs2")
        if os.geteuid() != 0:
            missing("root", "davfs2 mounts for others only what /etc/fstab names; run these tests as root")
        if not os.path.exists("/dev/fuse"):
            missing("/dev/fuse", "load the kernel module fuse, or give the container this device")
        self._command = [program, url]
        self._login = (user, password)
        self._settings = (owner, settings)
        self._pid = 0

    def __enter__(self) -> DavfsMount:
        # Not below pytest's folder: the daemon runs as user davfs2, who may not enter there.
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-davfs-"))
        self._folder.chmod(0o755)
        cache, self.path, conf = self._folder / "cache", self._folder / "mount", self._folder / "conf"
        cache.mkdir()
        self.path.mkdir()
        os.chown(cache, 0, grp.getgrnam("davfs2").gr_gid)
        cache.chmod(0o775)
        owner, more = self._settings
        conf.write_text(_CONF.format(cache=cache, owner=owner) + more)
        conf.chmod(0o600)
        user, password = self._login
        options = f"conf={conf},username={user},uid=0,gid=0,rw"
        try:
            done = subprocess.run(
                [*self._command, str(self.path), "-o", options], input=f"{password}\n", capture_output=True, text=True,
                timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, f"mount.davfs ended with {done.returncode}: {done.stderr}"
            pid_file = Path("/run/mount.davfs") / (str(self.path).strip("/").replace("/", "-") + ".pid")
            # The file is there before the number in it.
            wait_for(lambda: pid_file.exists() and pid_file.read_text().strip() != "", what=f"mount.davfs, {pid_file}")
            self._pid = int(pid_file.read_text())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if os.path.ismount(self.path):
            # Without the helper of davfs2, which looks for the daemon's end every three seconds only.
            subprocess.run(["umount", "-i", str(self.path)], check=True, capture_output=True, timeout=30)
        if self._pid:
            # What wasn't uploaded yet is uploaded now.
            wait_for(lambda: not os.path.exists(f"/proc/{self._pid}"), 120, "mount.davfs to end")
        shutil.rmtree(self._folder, ignore_errors=True)
