# SPDX-License-Identifier: Apache-2.0
"""What an ordinary user does with a mount of their own: `META-URL FOLDER`. Run by test_user.py in its own namespace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from gateways.fuse import mount as mounting
from gateways.fuse.holder import messages, runtime
from tests.servers.process import wait_for


def sluice(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sluicefs", *map(str, args)], capture_output=True, text=True)


def status(device: str) -> messages.Message:
    sock = runtime.connect(device)
    assert sock is not None, "the holder's socket"
    with sock:
        messages.send(sock, {"do": "status"})
        return messages.receive(sock) or {}


def main(url: str, folder: Path) -> None:
    assert os.geteuid() != 0
    point, log = folder / "mnt", folder / "sluice.log"
    command = ["mount", "-d", "--no-syslog", "--metrics", "off", "--log", log, url, point]
    done = sluice(*command)
    assert done.returncode == 0, done.stderr
    try:
        found = mounting.find_mount(str(point))
        assert found is not None
        assert found.type == "fuse.sluicefs"
        assert {"nosuid", "nodev"} <= set(found.options.split(",")), found.options
        assert f"user_id={os.geteuid()}" in found.super_options and "allow_other" not in found.super_options
        path = point / "f"
        with open(path, "w+b", buffering=0) as file:
            file.write(b"mine")
            first = status(found.device)["worker"]
            os.kill(first, signal.SIGKILL)
            file.write(b", still")
            wait_for(lambda: status(found.device)["state"] == "serving", 60, "the next worker")
            done = sluice(*command)  # an upgrade
            assert done.returncode == 0, done.stderr
            file.write(b", again")
        assert path.read_bytes() == b"mine, still, again"
        assert path.stat().st_uid == os.geteuid()
    finally:
        ended = sluice("umount", point)
    assert ended.returncode == 0, ended.stderr
    assert mounting.find_mount(str(point)) is None
    refused = sluice("mount", "-d", "--metrics", "off", "--log", log, "-o", "allow_other", url, point)
    print("allow_other:", refused.returncode, refused.stderr.strip())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
