# SPDX-License-Identifier: Apache-2.0
"""Lines of the access log, made of requests and of the bytes of their replies (cli §10.2)."""

from __future__ import annotations

import errno
import os
import re
import time
from typing import Any

import pytest

from core.vfs.internal.accesslog import AccessLog
from core.vfs.internal.inodes import ACCESS_LOG
from core.vfs.internal.metrics import Metrics
from gateways.fuse.access_log import Observer
from gateways.fuse.api import Call, SetAttr
from gateways.fuse.operations import Operations
from gateways.fuse.wire import replies
from gateways.fuse.wire.constants import LK_FLOCK as FUSE_LK_FLOCK
from sluicefs.commands.profile import parse

NOW = time.mktime((2026, 11, 21, 10, 0, 0, 0, 0, -1)) + 0.123456
CALL = Call(9, 1, 1000, 100, 4711)
ATTR = replies.pack_attr(2, 11, 8, 1_000_000_000, 2_000_000_000, 3_000_000_000, 0o100644, 1, 5, 6, 0)
ENTRY = "(2,[-rw-r--r--:0100644,1,5,6,1,2,3,11])"


@pytest.fixture
def observer() -> Observer:
    return Observer(AccessLog(), Metrics(), clock=lambda: NOW)


def test_a_line_as_users_know_it(observer: Observer) -> None:
    line = observer.line(CALL, "lookup", (b"name",), 0, 0.000123, replies.entry(2, ATTR, 1.0, 1.0))
    assert line == (f"2026.11.21 10:00:00.123456 [uid:1000,gid:100,pid:4711] lookup (1,name): {ENTRY} - OK <0.000123>")
    failed = observer.line(CALL, "lookup", (b"no\nne",), errno.ENOENT, 0.5)
    assert failed.endswith("lookup (1,no\\x0ane) - no such file or directory <0.500000>")
    for text in (line, failed):
        entry = parse(text + "\n")
        assert entry is not None and (entry.uid, entry.pid, entry.operation) == (1000, 4711, "lookup")


CHANGE = SetAttr(0x49, 7, 100, 0, 0, 0, 0, 0o100600, 0, 0)


@pytest.mark.parametrize(
    "name, args, reply, shown",
    [
        ("getattr", (None,), replies.attr(ATTR, 1.0), f"getattr (1): {ENTRY}"),
        ("setattr", (CHANGE,), replies.attr(ATTR, 1), f"setattr (1,7,0x49,[mode=-rw-------:00600;size=100;]): {ENTRY}"),
        ("mkdir", (b"d", 0o40755, 0o22), replies.entry(2, ATTR, 1, 1), f"mkdir (1,d,drwxr-xr-x:00755): {ENTRY}"),
        (
            "create", (b"f", os.O_RDWR, 0o100644, 0o22, 0),
            replies.created(replies.entry(2, ATTR, 1, 1), replies.opened(3, 0)),
            f"create (1,f,-rw-r--r--:0100644): {ENTRY} [fh:3]",
        ),
        ("open", (0x8002, 0), replies.opened(4, 0), "open (1,0x8002) [fh:4]"),
        ("read", (3, 4096, 512, 0, 0, 0), b"x" * 512, "read (1,512,4096,3): (512)"),
        ("write", (3, 0, memoryview(b"abc"), 0, 0, 0), replies.written(3), "write (1,3,0,3)"),
        ("rename", (b"a", 5, b"b", 1), b"", "rename (1,a,5,b,1)"),
        ("link", (7, b"b"), replies.entry(2, ATTR, 1, 1), f"link (7,1,b): {ENTRY}"),
        ("readlink", (), b"target", "readlink (1): (target)"),
        ("symlink", (b"l", b"t"), replies.entry(2, ATTR, 1, 1), f"symlink (1,l,t): {ENTRY}"),
        ("setlk", (3, 0xAB, 0, 9, 1, 77, 0, True), b"", "setlk (1,3,00000000000000AB,0,9,W,true,77)"),
        ("setlk", (3, 0xAB, 0, 9, 1, 77, FUSE_LK_FLOCK, False), b"", "flock (1,3,00000000000000AB,LOCKEX,false)"),
        ("copy_file_range", (3, 0, 5, 4, 9, 10, 0), replies.written(10), "copy_file_range (1,0,5,9,10,0): (10)"),
        ("setxattr", (b"user.a", b"v", 0, 0), b"", "setxattr (1,user.a,1,0)"),
        ("statfs", (), replies.statfs(100, 60, 60, 50, 40, 4096, 255, 4096), "statfs (1): (163840,245760,10,40)"),
    ],
)  # fmt: skip
def test_arguments_and_results(observer: Observer, name: str, args: tuple[Any, ...], reply: Any, shown: str) -> None:
    size = len(reply) if isinstance(reply, bytes) else 0
    line = observer.line(CALL, name, args, 0, 0.1, reply, size)
    assert line.partition("] ")[2] == f"{shown} - OK <0.100000>"


def test_a_listing_tells_its_number(observer: Observer) -> None:
    for plus in (False, True):
        buffer = replies.DirBuffer(4096)
        for number in range(5):
            name = b"name%d" % number
            if plus:
                assert buffer.add_plus(replies.entry(2, ATTR, 1, 1), 2, number + 1, 8, name)
            else:
                assert buffer.add(2, number + 1, 8, name)
        operation = "readdirplus" if plus else "readdir"
        line = observer.line(CALL, operation, (3, 0, 4096), 0, 0.1, buffer.bytes())
        assert f"readdir (1,4096,0,{str(plus).lower()}): (5)" in line


def test_every_operation_has_a_line_whatever_its_arguments(observer: Observer) -> None:
    for name in vars(Operations):
        for args in ((), (b"x",), (None,) * 9):
            assert re.search(r"\(1.*\) - OK <", observer.line(CALL, name, args, 0, 0.0, b"\xff" * 3))


async def test_reading_the_log_makes_no_lines() -> None:
    log = AccessLog()
    observer = Observer(log, Metrics())
    observer.on_answer(CALL, "getattr", (None,), 0, 0.1, 104)
    reader = log.open()
    observer.on_answer(CALL._replace(nodeid=ACCESS_LOG), "read", (3, 0, 10, 0, 0, 0), 0, 0.1, 10)
    observer.on_answer(CALL, "getattr", (None,), 0, 0.1, 104)
    assert (await reader.read(0, 4096)).count(b"\n") == 1
    metrics = observer._metrics
    metrics.add_up()
    assert metrics.fuse_ops.count == 3 and metrics.fuse_read.sum == 0


def test_slow_operations_are_warned_about() -> None:
    warnings: list[str] = []
    observer = Observer(AccessLog(), Metrics(), warn=warnings.append)
    observer.on_answer(CALL, "write", (3, 0, memoryview(b"x"), 0, 0, 0), 0, 10.5, 8)
    observer.on_answer(CALL, "setlk", (3, 1, 0, 9, 1, 77, 0, True), 0, 100.0, 0)
    assert len(warnings) == 1 and "write (1,1,0,3) - OK <10.500000>" in warnings[0]
