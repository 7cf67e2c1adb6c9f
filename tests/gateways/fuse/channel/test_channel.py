# SPDX-License-Identifier: Apache-2.0
"""Real requests of the kernel through the channel: everyday work, waiting, interrupts, errors, the end."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateways.fuse import mount as mounting
from gateways.fuse.api import Answer, Call, Reply
from gateways.fuse.server import FuseServer
from gateways.fuse.wire.constants import UNIQUE_RESEND
from tests.gateways.fuse.channel.conftest import Mounted, Mounter, in_thread, shell
from tests.gateways.fuse.channel.memory_fs import MemoryFs


async def test_everyday_work(mounted: Mounted) -> None:
    out = await shell(
        "echo hello > a && cat a && mkdir d && mv a d/b && ln -s d/b l && cat l && ln d/b h && stat -c %h h && rm l h"
        " && ls d && chmod 600 d/b && chown 5:6 d/b && stat -c '%a %u %g' d/b && truncate -s 3 d/b && cat d/b && echo"
        " && touch -d '1960-01-01 00:00:00.5 UTC' d/b && stat -c %Y d/b && mkfifo p && stat -c %F p && rm -r d p && ls",
        mounted.point,
    )
    assert out.split("\n") == ["hello", "hello", "2", "b", "600 5 6", "hel", "-315619200", "fifo", ""]


async def test_large_files_come_back_as_they_were(mounted: Mounted, tmp_path: Path) -> None:
    content = os.urandom((5 << 20) + 123)
    (tmp_path / "source").write_bytes(content)
    out = await shell("cp ../source big && cmp ../source big && dd if=big of=direct bs=1M status=none && "
                      "cmp big direct && dd if=direct bs=256k iflag=direct status=none | cmp - big && echo same",
                      mounted.point)  # fmt: skip
    assert out == "same\n"
    assert bytes(mounted.fs.nodes[2].data) == content


async def test_requests_are_as_large_as_agreed(mounter: Mounter) -> None:
    sizes: set[int] = set()

    class Sizes(MemoryFs):
        async def write(self, call: Call, fh: int, offset: int, data: memoryview, *rest: int) -> Reply:
            sizes.add(len(data))
            return await super().write(call, fh, offset, data, *rest)

    mounted = await mounter(fs=Sizes())
    await shell("dd if=/dev/zero of=direct bs=2M count=2 oflag=direct", mounted.point)
    assert max(sizes) == mounted.server.negotiated.max_write == 1 << 20


async def test_many_writers_at_once_keep_their_data_apart(mounted: Mounted) -> None:
    """Buffers are used again as soon as their request is answered, and not before."""
    script = "import os,sys; n=int(sys.argv[1]); f=open(f'direct{n}','wb',0)\n" \
             "for i in range(20): f.write(bytes([n, i]) * (100_000 + n * 1000))"  # fmt: skip
    processes = [
        await asyncio.create_subprocess_shell(f'cd "{mounted.point}" && exec {sys.executable} -c "$CODE" {n}',
                                              env={"CODE": script}) for n in range(1, 9)
    ]  # fmt: skip
    for process in processes:
        assert await asyncio.wait_for(process.wait(), 60) == 0
    for n in range(1, 9):
        ino = mounted.fs.nodes[1].names[f"direct{n}".encode()]
        assert mounted.fs.nodes[ino].data == b"".join(bytes([n, i]) * (100_000 + n * 1000) for i in range(20))


async def test_listings_longer_than_one_request(mounter: Mounter) -> None:
    for how in ("auto", "always", "never"):
        mounted = await mounter(readdirplus=how)
        names = [f"{n:0200}" for n in range(700)]
        for name in names:
            mounted.fs._make(Call(0, 1, 0, 0, 0), name.encode(), 0o100644)
        assert (await shell("ls -U | wc -l; ls -l | wc -l", mounted.point)).split() == ["700", "701"]
        assert sorted(await in_thread(os.listdir, mounted.point)) == names


async def test_errors_reach_the_caller(mounted: Mounted) -> None:
    def calls() -> list[int | None]:
        found: list[int | None] = []
        for call in (
            lambda: os.stat(mounted.point / "none"),
            lambda: os.mkdir(mounted.point / "d") or os.mkdir(mounted.point / "d"),
            lambda: os.getxattr(mounted.point, b"user.none"),
            lambda: fcntl.ioctl(os.open(mounted.point / "d", os.O_RDONLY), 0x1234, 0),
        ):
            try:
                call()
                found.append(None)
            except OSError as e:
                found.append(e.errno)
        return found

    assert await in_thread(calls) == [errno.ENOENT, errno.EEXIST, errno.ENODATA, errno.ENOTTY]


async def test_a_bug_is_eio_and_logged_without_what_it_says(
    mounted: Mounted, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    mounted.fs._make(Call(0, 1, 0, 0, 0), b"broken", 0o100644).data += b"x"
    with caplog.at_level(logging.ERROR):
        assert "Input/output error" in await shell("cat broken", mounted.point)
    assert "read of inode 2 failed with RuntimeError" in caplog.text
    assert "memory_fs.py" in caplog.text
    assert mounted.fs.secret not in caplog.text


async def test_methods_that_are_not_there_are_enosys(mounted: Mounted) -> None:
    # There is no fsyncdir: the kernel takes ENOSYS as "no need to ask".
    assert await shell("sync . && sync . && echo fine", mounted.point) == "fine\n"
    assert mounted.server.channel.errors == 1


async def test_an_answer_that_the_kernel_refuses_becomes_eio(mounter: Mounter, caplog: Any) -> None:
    class Wrong(MemoryFs):
        def statfs(self, call: Call) -> Answer:
            return b"too short"

    mounted = await mounter(fs=Wrong())
    out = await shell("stat -f .", mounted.point)
    assert "Input/output error" in out
    assert "refused the answer" in caplog.text


async def test_other_work_of_the_loop_goes_on_under_load(mounted: Mounted) -> None:
    process = await asyncio.create_subprocess_shell(
        f"for i in 1 2 3; do {sys.executable} -c 'import os\nwhile True: os.stat(\"{mounted.point}\")' & done; wait",
        start_new_session=True,
    )
    try:
        while mounted.server.channel.requests < 1000:
            await asyncio.sleep(0.01)
        began, turns = time.monotonic(), 0
        while time.monotonic() - began < 0.5:
            await asyncio.sleep(0)
            turns += 1
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert turns > 100


# -- waiting and interrupts --------------------------------------------------------------------------------------


async def test_requests_that_wait_do_not_hold_up_others(mounted: Mounted) -> None:
    mounted.fs.gate.clear()
    slow = asyncio.create_task(shell("echo x > slow && cat slow", mounted.point))
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    assert mounted.server.channel.running == 1
    assert await shell("stat -c %F .", mounted.point) == "directory\n"
    mounted.fs.gate.set()
    assert await slow == "x\n"
    assert mounted.server.channel.running == 0


async def test_more_waiting_requests_than_prepared_tasks(mounted: Mounted) -> None:
    mounted.fs.gate.clear()
    made = [asyncio.create_task(shell(f"mkdir slow{n} && echo {n}", mounted.point)) for n in range(12)]
    for n in range(4):  # each folder's own lock: one create at a time in a folder, so give them folders
        mounted.fs._make(Call(0, 1, 0, 0, 0), f"d{n}".encode(), 0o40755)
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    mounted.fs.gate.set()
    assert sorted([int(await each) for each in made]) == list(range(12))


_HOLD = """
import fcntl, os, signal, sys
f = open("file", "r+")
fcntl.lockf(f, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""
_WAIT = """
import fcntl, signal, sys
class Alarm(Exception): pass
def alarm(*_): raise Alarm
signal.signal(signal.SIGALRM, alarm)
f = open("file", "r+")
print("waits", flush=True)
try:
    fcntl.lockf(f, fcntl.LOCK_EX)
    print("got it")
except Alarm:
    print("interrupted")
"""


async def _python(code: str, cwd: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_shell(
        f'cd "{cwd}" && exec {sys.executable} -c "$CODE"',
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"CODE": code},
    )  # fmt: skip


async def _waiting_for_a_lock(mounted: Mounted) -> tuple[asyncio.subprocess.Process, asyncio.subprocess.Process]:
    mounted.fs._make(Call(0, 1, 0, 0, 0), b"file", 0o100644)
    holder = await _python(_HOLD, mounted.point)
    assert holder.stdout
    assert await holder.stdout.readline() == b"locked\n"
    mounted.fs.reached.clear()
    waiter = await _python(_WAIT, mounted.point)
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    return holder, waiter


async def test_a_signal_ends_the_wait_for_a_lock(mounted: Mounted) -> None:
    holder, waiter = await _waiting_for_a_lock(mounted)
    waiter.send_signal(signal.SIGALRM)
    out, _ = await asyncio.wait_for(waiter.communicate(b""), 10)
    assert out == b"waits\ninterrupted\n"
    assert mounted.server.channel.interrupts >= 1
    await holder.communicate(b"")
    # The task that was cancelled serves others as before.
    assert "again" in await shell("flock file echo again", mounted.point)


async def test_a_lock_is_got_when_its_holder_lets_go(mounted: Mounted) -> None:
    holder, waiter = await _waiting_for_a_lock(mounted)
    await holder.communicate(b"")
    out, _ = await asyncio.wait_for(waiter.communicate(b""), 10)
    assert out == b"waits\ngot it\n"


async def test_a_killed_process_need_not_wait_for_its_read(mounted: Mounted) -> None:
    mounted.fs._make(Call(0, 1, 0, 0, 0), b"slow", 0o100644).data += b"x"
    mounted.fs.gate.clear()
    reader = await asyncio.create_subprocess_shell(f'exec cat "{mounted.point}/slow"')
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    reader.kill()
    assert await asyncio.wait_for(reader.wait(), 10) == -signal.SIGKILL


async def test_ctrl_c_ends_a_read(mounted: Mounted) -> None:
    mounted.fs._make(Call(0, 1, 0, 0, 0), b"slow", 0o100644).data += b"x"
    mounted.fs.gate.clear()
    reader = await asyncio.create_subprocess_exec(
        "cat", f"{mounted.point}/slow",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in the background of a shell
    )  # fmt: skip
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    reader.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(reader.wait(), 10) == -signal.SIGINT


async def test_a_harmless_signal_does_not_break_a_short_read(mounted: Mounted) -> None:
    mounted.fs._make(Call(0, 1, 0, 0, 0), b"slow", 0o100644).data += b"content"
    mounted.fs.gate.clear()
    # pause(2)-like programs in C see EINTR; Python would hide it, so the number is asked of the C library.
    code = ("import ctypes, os, signal\n"
            "signal.signal(signal.SIGUSR1, lambda *_: None); signal.siginterrupt(signal.SIGUSR1, True)\n"
            "c = ctypes.CDLL(None, use_errno=True); b = ctypes.create_string_buffer(20)\n"
            "f = os.open('slow', os.O_RDONLY); n = c.read(f, b, 20); print(n, ctypes.get_errno())")  # fmt: skip
    reader = await _python(code, mounted.point)
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    reader.send_signal(signal.SIGUSR1)
    while not mounted.server.channel.interrupts:
        await asyncio.sleep(0.01)
    mounted.fs.gate.set()
    out, _ = await asyncio.wait_for(reader.communicate(), 10)
    assert out == b"7 0\n"


async def test_a_read_that_hangs_can_be_interrupted(mounted: Mounted) -> None:
    mounted.fs._make(Call(0, 1, 0, 0, 0), b"slow", 0o100644).data += b"content"
    mounted.fs.gate.clear()
    code = ("import os, signal\n"
            "def stop(*_): raise SystemExit(7)\n"
            "signal.signal(signal.SIGUSR1, stop)\n"
            "f = os.open('slow', os.O_RDONLY); os.read(f, 20)")  # fmt: skip
    reader = await _python(code, mounted.point)
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    reader.send_signal(signal.SIGUSR1)
    assert await asyncio.wait_for(reader.wait(), 10) == 7


async def test_what_changes_something_is_not_cut_short(mounted: Mounted) -> None:
    mounted.fs.gate.clear()
    maker = await asyncio.create_subprocess_shell(f'exec mkdir "{mounted.point}/slow"')
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    maker.kill()
    while not mounted.server.channel.interrupts:
        await asyncio.sleep(0.01)
    assert mounted.server.channel.running == 1
    mounted.fs.gate.set()
    await asyncio.wait_for(maker.wait(), 10)
    assert b"slow" in mounted.fs.nodes[1].names


# -- life --------------------------------------------------------------------------------------------------------


async def test_two_mounts_in_one_process(mounter: Mounter) -> None:
    one, two = await mounter(), await mounter()
    assert await shell(f'echo 1 > a && cp a "{two.point}/b" && cat "{two.point}/b"', one.point) == "1\n"
    assert list(one.fs.nodes[1].names) == [b"a"]
    assert list(two.fs.nodes[1].names) == [b"b"]


async def test_unmounting_ends_the_server(mounted: Mounted) -> None:
    await in_thread(mounting.unmount, str(mounted.point))
    await asyncio.wait_for(mounted.server.wait(), 10)
    assert mounted.fs.destroyed == 1
    assert await mounted.server.stop() == 0


async def test_a_busy_mount_is_not_unmounted(mounted: Mounted) -> None:
    user = await asyncio.create_subprocess_shell(f'cd "{mounted.point}" && echo in && exec cat',
                                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert user.stdout
    await user.stdout.readline()
    with pytest.raises(OSError, match="fuser -vm") as raised:
        await in_thread(mounting.unmount, str(mounted.point))
    assert raised.value.errno == errno.EBUSY
    await in_thread(mounting.unmount, str(mounted.point), lazy=True)
    assert mounting.find_mount(str(mounted.point)) is None
    assert not mounted.server.channel.closed.done()  # who is in it still works
    await user.communicate(b"")
    await asyncio.wait_for(mounted.server.wait(), 10)


async def test_force_fails_what_waits(mounted: Mounted) -> None:
    mounted.fs.gate.clear()
    maker = asyncio.create_task(shell("mkdir slow", mounted.point))
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    await in_thread(mounting.unmount, str(mounted.point), force=True)
    assert "mkdir" in await maker  # some error
    await asyncio.wait_for(mounted.server.wait(), 10)
    mounted.fs.gate.set()  # its answer finds nobody, which is fine
    assert await mounted.server.stop() == 0


async def test_a_server_that_gives_up_fails_the_mount(mounted: Mounted) -> None:
    mounted.server.give_up()
    await asyncio.wait_for(mounted.server.wait(), 10)
    await mounted.server.stop()
    with pytest.raises(OSError) as raised:
        await in_thread(os.stat, mounted.point)
    assert raised.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


async def test_stop_waits_for_running_requests(mounted: Mounted) -> None:
    mounted.fs.gate.clear()
    maker = asyncio.create_task(shell("mkdir slow && echo made", mounted.point))
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    stop = asyncio.create_task(mounted.server.stop(keep_fd=True))
    await asyncio.sleep(0)
    assert not stop.done()
    mounted.fs.gate.set()
    assert await asyncio.wait_for(stop, 10) == 0
    assert await maker == "made\n"


async def test_another_server_goes_on_with_what_the_first_left(mounted: Mounted) -> None:
    """A request for a lock that waits, and one that outlasts the time, are handed out again, marked."""
    if not mounted.server.negotiated.flags >> 39 & 1:
        pytest.skip("this kernel can't hand out requests again (Linux 6.9)")
    holder, waiter = await _waiting_for_a_lock(mounted)
    first = mounted.server
    mounted.fs.gate.clear()
    maker = asyncio.create_task(shell("mkdir slow && echo made", mounted.point))
    while first.channel.running < 2:
        await asyncio.sleep(0.01)
    fd = os.dup(first.fd)
    assert await first.stop(timeout_s=0.1) == 2
    assert b"slow" not in mounted.fs.nodes[1].names

    seen: list[tuple[str, bool, int]] = []
    mounted.server = FuseServer(mounted.fs, mounted.options)
    mounted.fs.gate.set()
    await mounted.server.start(fd, first.negotiated.to_dict())
    mounted.server.channel.on_request = lambda call, name, args: seen.append((name, call.resent, call.unique))
    assert mounted.server.notify.resend()
    assert await maker == "made\n"
    await holder.communicate(b"")
    out, _ = await asyncio.wait_for(waiter.communicate(b""), 10)
    assert out == b"waits\ngot it\n"
    assert {name for name, resent, _ in seen if resent} == {"mkdir", "setlk"}
    assert all(unique < UNIQUE_RESEND for _, _, unique in seen)


async def test_a_second_server_without_what_was_negotiated_says_so(mounted: Mounted) -> None:
    fd = os.dup(mounted.server.fd)
    await mounted.server.stop()
    asking = asyncio.create_task(shell("stat .", mounted.point))
    other = FuseServer(mounted.fs, mounted.options)
    with pytest.raises(Exception, match="take over with what was negotiated"):
        await other.start(fd)
    await asking


async def test_hooks_hear_of_every_answer(mounted: Mounted) -> None:
    answers: list[tuple[str, int, float, int]] = []
    requests: list[str] = []
    mounted.server.channel.on_request = lambda call, name, args: requests.append(name)
    mounted.server.channel.on_answer = lambda call, name, args, error, seconds, size: answers.append(
        (name, error, seconds, size)
    )
    await shell("stat none; echo x > file; cat file", mounted.point)
    assert ("lookup", errno.ENOENT) in [(name, error) for name, error, _, _ in answers]
    assert {"create", "write", "read", "release"} <= {name for name, *_ in answers} <= set(requests)
    assert all(0 < seconds < 10 for _, _, seconds, _ in answers)
    assert [size for name, error, _, size in answers if name == "create"] == [144]


async def test_statx_tells_the_birth_time(mounted: Mounted) -> None:
    assert await shell("stat -c %w .", mounted.point) != "-\n"


async def test_unnamed_files_and_copies_inside(mounted: Mounted) -> None:
    def work() -> bytes:
        one = os.open(mounted.point, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(one, b"0123456789")
        two = os.open(mounted.point / "two", os.O_CREAT | os.O_RDWR)
        assert os.copy_file_range(one, two, 5, 2, 0) == 5
        assert os.lseek(two, 0, os.SEEK_HOLE) == 5
        os.posix_fallocate(two, 0, 8)
        assert fcntl.ioctl(two, 0x80086601, bytes(8)) == struct.pack("=Q", 0x10)
        return os.pread(two, 20, 0)

    assert await in_thread(work) == b"23456\0\0\0"


async def test_forgotten_inodes_are_told(mounted: Mounted) -> None:
    await shell("for i in 1 2 3 4 5; do echo x > f$i; done; ls -l > /dev/null", mounted.point)
    await in_thread(mounting.unmount, str(mounted.point))
    await asyncio.wait_for(mounted.server.wait(), 10)
    # Those of an unmount aren't sent any more; what is told must be sound.
    assert all(ino in mounted.fs.nodes and n > 0 for ino, n in mounted.fs.forgotten)


# -- notices -----------------------------------------------------------------------------------------------------


async def test_the_kernel_forgets_what_it_is_told_to(mounter: Mounter) -> None:
    mounted = await mounter(fs=MemoryFs(attr_ttl=1000))
    fs, notify = mounted.fs, mounted.server.notify
    await shell("echo old > kept; stat kept", mounted.point)
    node = fs.nodes[fs.nodes[1].names[b"kept"]]
    held = await in_thread(os.open, mounted.point / "kept", os.O_RDONLY)
    assert await in_thread(os.pread, held, 10, 0) == b"old\n"
    node.data[:] = b"new\n"
    assert await in_thread(os.pread, held, 10, 0) == b"old\n"
    notify.inval_inode(node.ino)
    await notify.settled()
    assert await in_thread(os.pread, held, 10, 0) == b"new\n"
    await in_thread(os.close, held)
    assert await shell("stat -c %s kept", mounted.point) == "4\n"
    node.data[:] = b"newer\n"
    assert await shell("stat -c %s kept", mounted.point) == "4\n"
    notify.inval_inode(node.ino, -1)
    await notify.settled()
    assert await shell("stat -c %s kept", mounted.point) == "6\n"
    del fs.nodes[1].names[b"kept"]
    assert await shell("stat -c %s kept", mounted.point) == "6\n"
    notify.inval_entry(1, b"kept")
    await notify.settled()
    assert "No such file" in await shell("stat -c %s kept", mounted.point)
    notify.inval_entry(1, b"never seen")
    notify.inval_inode(4711)
    await notify.settled()
    assert notify.failed == 0


async def test_names_can_expire_all_at_once(mounter: Mounter) -> None:
    mounted = await mounter(fs=MemoryFs(attr_ttl=1000))
    await shell("echo x > file; cat file", mounted.point)
    del mounted.fs.nodes[1].names[b"file"]
    if not mounted.server.notify.inc_epoch():
        pytest.skip("this kernel has no epochs (7.44)")
    await mounted.server.notify.settled()
    assert "No such file" in await shell("stat file", mounted.point)


async def test_pages_can_be_stored(mounted: Mounted) -> None:
    await shell("echo old > file", mounted.point)
    held = await in_thread(os.open, mounted.point / "file", os.O_RDONLY)
    ino = mounted.fs.nodes[1].names[b"file"]
    mounted.server.notify.store(ino, 0, b"new\n")  # up to the end: the kernel keeps whole pages only
    await mounted.server.notify.settled()
    assert await in_thread(os.pread, held, 10, 0) == b"new\n"
    await in_thread(os.close, held)


async def test_a_notice_that_waits_for_a_request_does_not_stop_the_loop(mounted: Mounted) -> None:
    """A create holds the folder's lock, which the notice needs: only the loop can end that."""
    mounted.fs.gate.clear()
    maker = asyncio.create_task(shell("echo x > slow && echo made", mounted.point))
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    mounted.server.notify.inval_entry(1, b"slow")
    assert await shell("stat -c %F .", mounted.point) == "directory\n"
    mounted.fs.gate.set()
    assert await maker == "made\n"
    await asyncio.wait_for(mounted.server.notify.settled(), 10)


async def test_equal_notices_that_wait_are_sent_once(mounted: Mounted) -> None:
    mounted.fs.gate.clear()
    maker = asyncio.create_task(shell("echo x > slow && echo made", mounted.point))
    await asyncio.wait_for(mounted.fs.reached.wait(), 10)
    for _ in range(1000):
        mounted.server.notify.inval_entry(1, b"slow")
        mounted.server.notify.inval_entry(1, b"other")
    assert mounted.server.notify._queue.qsize() <= 4
    mounted.fs.gate.set()
    assert await maker == "made\n"
