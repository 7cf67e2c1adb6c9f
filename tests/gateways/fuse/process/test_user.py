# SPDX-License-Identifier: Apache-2.0
"""`sluice mount` of an ordinary user, through the setuid helper of FUSE."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.gateways.fuse.mounts import fast_folder, make_volume, require_fuse
from tests.gateways.fuse.process.as_user import USER, run_as_user
from tests.servers.process import require


def test_a_user_mounts_by_the_helper_of_fuse() -> None:
    require_fuse()
    require("fusermount3", "apt-get install fuse3")
    folder = fast_folder("sluice-user-")
    try:
        url = f"sqlite3://{folder}/meta.db"
        make_volume(url, folder)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(folder)], check=True)
        stage = folder / "stage"
        stage.mkdir()
        done = run_as_user(stage, "tests.gateways.fuse.process.user_mount", url, str(folder))
        log = folder / "sluice.log"
        assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
        allowed = "user_allow_other" in Path("/etc/fuse.conf").read_text().split()
        assert allowed or ("allow_other: 1" in done.stdout and "/etc/fuse.conf" in done.stdout), done.stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)
