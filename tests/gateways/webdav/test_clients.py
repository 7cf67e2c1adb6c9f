# SPDX-License-Identifier: Apache-2.0
"""Programs that people use: rclone syncs both ways and checks, cadaver walks, curl uploads with Expect."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.gateways.webdav.door import PASSWORD, USER, Door
from tests.servers.process import require


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(command[:3])}:\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def tool(name: str) -> str:
    return require(name, f"tests/tools/install-needs.sh brings {name}")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_rclone_syncs_both_ways(door: Door, tmp_path: Path) -> None:
    rclone = tool("rclone")
    source, back = tmp_path / "source", tmp_path / "back"
    for number in range(40):
        path = source / f"dir {number % 4}" / f"file+{number} ä.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number * 1000)
    hidden = run([rclone, "obscure", PASSWORD]).strip()
    remote = f":webdav,url='{door.url}',vendor=other,user={USER},pass={hidden}:rclone"
    common = ["--config", "/dev/null", "--retries", "1"]
    run([rclone, "sync", str(source), remote, *common])
    run([rclone, "check", str(source), remote, "--download", *common])
    (source / "dir 0" / "file+0 ä.txt").unlink()
    run([rclone, "sync", str(source), remote, *common])
    run([rclone, "sync", remote, str(back), *common])
    assert tree(back) == tree(source)
    run([rclone, "about", remote, *common])
    run([rclone, "moveto", f"{remote}/dir 1", f"{remote}/renamed", *common])
    run([rclone, "purge", remote, *common])


def test_cadaver_walks_locks_and_sets_properties(door: Door, tmp_path: Path) -> None:
    cadaver = tool("cadaver")
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    (tmp_path / ".netrc").chmod(0o600)
    (tmp_path / "up.txt").write_text("cadaver was here")
    script = (
        "mkcol cad\ncd cad\nput up.txt\nlock up.txt\npropset up.txt colour red\npropget up.txt colour\n"
        "unlock up.txt\ncopy up.txt two.txt\nmove two.txt three.txt\nget three.txt down.txt\nls\nquit\n"
    )
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    done = subprocess.run(
        [cadaver, door.url + "/"], input=script, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=60
    )
    assert (tmp_path / "down.txt").read_text() == "cadaver was here", done.stdout
    assert "failed" not in done.stdout.lower() and "red" in done.stdout, done.stdout


def test_curl_uploads_and_resumes(door: Door, tmp_path: Path) -> None:
    curl = tool("curl")
    data = bytes(range(256)) * 8192
    (tmp_path / "big").write_bytes(data)
    login = ["-sS", "--fail", "-u", f"{USER}:{PASSWORD}"]
    run([curl, *login, "-H", "Expect: 100-continue", "-T", str(tmp_path / "big"), door.url + "/curl.bin"])
    run([curl, *login, "--digest", "-o", str(tmp_path / "down"), "-r", "0-999999", door.url + "/curl.bin"])
    run([curl, *login, "-C", "-", "-o", str(tmp_path / "down"), door.url + "/curl.bin"])
    assert (tmp_path / "down").read_bytes() == data
