# SPDX-License-Identifier: Apache-2.0
"""A program run by an ordinary user on a machine as most are: the device of FUSE and the interpreter are for everybody.

    done = run_as_user(folder, "tests.gateways.fuse.process.user_mount", "ARGUMENT")

Where this machine is more closed, root opens it in a mount namespace that ends with the program: another node of the
device lies over /dev/fuse, and a closed folder on the way to the interpreter shows nothing but that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.gateways.fuse.mounts import ROOT
from tests.servers.process import require

USER = 65534

_NODE = """
mknod -m 666 "$stage/fuse" c 10 229
mount --bind "$stage/fuse" /dev/fuse
"""
_INTERPRETER = """
mkdir "$stage/python"
mount --bind "$base" "$stage/python"
mount -t tmpfs -o mode=755 none "$closed"
mkdir -p "$base"
mount --bind "$stage/python" "$base"
"""


def run_as_user(stage: Path, module: str, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """stage: an empty folder. The program gets a namespace of its own: its mounts are seen by nobody else."""
    unshare = require("unshare", "apt-get install util-linux")
    setpriv = require("setpriv", "apt-get install util-linux")
    base = os.path.realpath(sys.base_prefix)
    closed = next((str(p) for p in reversed(Path(base).parents) if not p.stat().st_mode & 0o001), "")
    # What the temporary folder lies on may forbid devices.
    script = 'set -e; mount -t tmpfs none "$stage"\n'
    script += "" if os.stat("/dev/fuse").st_mode & 0o006 == 0o006 else _NODE
    if closed:
        script += _INTERPRETER
    script += f'exec {setpriv} --reuid {USER} --regid {USER} --clear-groups -- "$@"'
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SLUICE_", "JFS_"))}
    return subprocess.run(
        [unshare, "--mount", "--propagation", "private", "sh", "-c", script, "sh", sys.executable, "-m", module,
         *arguments],
        cwd=ROOT, text=True, capture_output=True, timeout=timeout_s,
        env={**env, "stage": str(stage), "base": base, "closed": closed, "HOME": "/nonexistent",
             "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
