# SPDX-License-Identifier: Apache-2.0
"""Mounting and unmounting as root and as nobody in particular, and what is said when it fails."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.fuse import mount as mounting
from gateways.fuse.mount import Mount, find_mount, mount, parse_mountinfo, unmount
from tests.gateways.fuse.channel.conftest import Mounter, in_thread, mounter as mounter
from tests.gateways.fuse.mounts import ROOT, require_fuse
from tests.servers.process import missing


def test_mountinfo_is_understood() -> None:
    line = (
        r"36 35 0:41 /sub /mnt/with\040blank\134x rw,nosuid shared:1 master:2 - fuse.sluicefs SluiceFS:a\040b "
        "rw,user_id=0,allow_other"
    )
    assert parse_mountinfo(line) == Mount(
        36, "0:41", "/mnt/with blank\\x", "rw,nosuid", "fuse.sluicefs", "SluiceFS:a b", "rw,user_id=0,allow_other"
    )
    assert parse_mountinfo("24 30 0:22 / /sys rw - sysfs sysfs rw").type == "sysfs"


def test_what_is_mounted_here_is_found() -> None:
    assert find_mount("/proc") is not None
    assert find_mount("/proc/self") is None
    assert find_mount("/") is not None


def test_types_of_fuse() -> None:
    assert [mounting.is_fuse(type) for type in ("fuse", "fuse.x", "fuseblk", "fuseblk.ntfs", "fusectl", "ext4")] == [
        True, True, True, True, False, False
    ]  # fmt: skip


async def test_it_looks_as_it_should(mounter: Mounter) -> None:
    mounted = await mounter()
    found = find_mount(str(mounted.point))
    assert found is not None
    assert (found.type, found.source) == ("fuse.sluicefs", "SluiceFS:memory")
    line = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(mounted.point) in line)
    assert line.split()[3] == "rw,relatime,user_id=0,group_id=0,default_permissions,allow_other"


async def test_another_name_and_flags_of_the_system(tmp_path: Path) -> None:
    require_fuse()
    point = tmp_path / "with, comma and blank"
    point.mkdir()
    fd = mount(
        str(point), "JuiceFS:my vol", "juicefs", ["ro", "nosuid", "nodev", "noexec", "noatime", "max_read=65536"]
    )
    try:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        found = find_mount(str(point))
        assert found is not None
        assert (found.type, found.source) == ("fuse.juicefs", "JuiceFS:my vol")
        assert set(found.options.split(",")) == {"ro", "nosuid", "nodev", "noexec", "noatime"}
        assert "max_read=65536" in found.super_options
    finally:
        os.close(fd)
        unmount(str(point), lazy=True)
    assert find_mount(str(point)) is None


async def test_a_symbolic_link_is_followed(mounter: Mounter, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mnt").mkdir()
    (tmp_path / "link").symlink_to("real")
    fd = mount(str(tmp_path / "link" / "mnt"), "x")
    try:
        assert find_mount(str(tmp_path / "link" / "mnt")) == find_mount(str(tmp_path / "real" / "mnt")) is not None
    finally:
        os.close(fd)
        unmount(str(tmp_path / "link" / "mnt"), lazy=True)


async def test_read_ahead_can_be_raised(mounter: Mounter) -> None:
    mounted = await mounter()
    assert await in_thread(mounting.set_read_ahead, str(mounted.point), 1 << 20)
    found = find_mount(str(mounted.point))
    assert found is not None
    assert Path(f"/sys/class/bdi/{found.device}/read_ahead_kb").read_text() == "1024\n"
    # Not everywhere is the control file system (fusectl) mounted.
    assert mounting.waiting_requests(str(mounted.point)) in (0, None)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"mkdir -p") as raised:
        mount(str(tmp_path / "none"), "x")
    assert raised.value.errno == errno.ENOENT
    with pytest.raises(OSError, match="nothing is mounted there") as raised:
        unmount(str(tmp_path))
    assert raised.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="no such folder"):
        unmount(str(tmp_path / "none"))


def test_a_refused_option_is_named(tmp_path: Path) -> None:
    require_fuse()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no_such_option") as raised:
        mount(str(tmp_path), "x", options=["no_such_option"])
    assert raised.value.errno == errno.EINVAL
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_dead_mount_is_recognised(tmp_path: Path) -> None:
    require_fuse()
    os.close(mount(str(tmp_path), "x"))  # nobody serves it any more
    try:
        with pytest.raises(OSError, match=r"server is gone.*umount -l"):
            mount(str(tmp_path), "x")
    finally:
        unmount(str(tmp_path), lazy=True)


# -- without root ------------------------------------------------------------------------------------------------

USER = 65534
_SERVE = """
import asyncio, concurrent.futures.thread, os, sys
sys.path.insert(0, sys.argv[2])
from gateways.fuse import mount as m
from gateways.fuse.server import FuseServer
from gateways.fuse.session import Options
from tests.gateways.fuse.channel.memory_fs import MemoryFs

# Only now: the interpreter and the tree may lie where this user must not read.
os.setgroups([])
os.setgid(65534)
os.setuid(65534)

async def main():
    point = sys.argv[1]
    if sys.argv[3:] == ["root_only"]:
        try:
            m.mount(point, "x", options=["allow_other"])
        except OSError as e:
            print(e.strerror)
        return
    fd = m.mount(point, "SluiceFS:vol,with comma", options=Options().mount_options())
    fs = MemoryFs()
    fs.nodes[1].uid = os.getuid()
    server = FuseServer(fs, Options())
    await server.start(fd)
    found = m.find_mount(point)
    print(found.type, found.source, os.get_blocking(fd), os.get_inheritable(fd), flush=True)
    shell = await asyncio.create_subprocess_shell(f"cd {point} && echo hello > a && cat a")
    await shell.wait()
    await asyncio.to_thread(m.unmount, point)
    await server.wait()
    print(m.find_mount(point))
    try:
        m.unmount(point)
    except OSError as e:
        print(e.errno)
    await server.stop()

asyncio.run(main())
"""


@pytest.fixture
def user_folder() -> Iterator[Path]:
    """A folder of the user; the temporary folders of tests are root's."""
    require_fuse()
    if shutil.which("fusermount3") is None:
        missing("fusermount3", "apt install fuse3")
    folder = Path(tempfile.mkdtemp(prefix="sluice-user-"))
    (folder / "mnt").mkdir()
    folder.chmod(0o755)
    os.chown(folder / "mnt", USER, USER)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def _as_user(folder: Path, *args: str) -> list[str]:
    # Where only root may open the device, the user gets one of its own, in a mount namespace that ends with it.
    node = folder / "device"
    own = f'mknod -m 666 {node} c 10 229 && mount --bind {node} /dev/fuse && exec "$@"'
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "sh", "-c", own, "sh", sys.executable, "-c", _SERVE, str(folder / "mnt"), str(ROOT),
        *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return out.decode().splitlines()


async def test_mounting_without_root(user_folder: Path) -> None:
    lines = await _as_user(user_folder)
    assert lines == ["fuse.sluicefs SluiceFS:vol,with comma False False", "hello", "None", str(errno.EINVAL)]


async def test_allow_other_without_root_says_what_to_change(user_folder: Path) -> None:
    if any(line.strip() == "user_allow_other" for line in Path("/etc/fuse.conf").read_text().splitlines()):
        pytest.skip("/etc/fuse.conf allows it here")
    lines = await _as_user(user_folder, "root_only")
    assert "user_allow_other" in lines[-1]
    assert "/etc/fuse.conf" in lines[-1]
