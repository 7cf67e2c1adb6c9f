# SPDX-License-Identifier: Apache-2.0
"""Volume suite: the change log; every operation leaves its line in the same commit.

Source: format §9, semantics §15.5.
"""

from __future__ import annotations

import re

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.acl import XATTR_ACCESS, Rule, encode, to_xattr
from core.meta.caller import Caller
from core.meta.meta import Meta
from core.meta.publish import Content, ImplicitDirs
from core.meta.records import Slice
from tests.conformance.volume.base import VolumeBase

LINE = re.compile(rb"\d+\.\d{9}\|(.*)\|\((\d+),(\d+)\)", re.DOTALL)


def with_log(meta: Meta, **changes: int) -> None:
    if not meta.store.caps.change_log:
        pytest.skip(f"{meta.store.name} has no place for a change log (format §9)")
    meta.use_format(meta.format.changed(change_log=True, **changes))


async def lines(meta: Meta) -> list[str]:
    """What was done, without times; checks the form and the numbering."""
    found, numbers = [], []
    async for _, line in meta.store.scan(k.CHANGELOG):
        match = LINE.fullmatch(line)
        assert match, line
        assert int(match[2]) == meta.sid
        numbers.append(int(match[3]))
        found.append(match[1].decode())
    assert len(numbers) == len(set(numbers))
    return found


class ChangeLog(VolumeBase):
    async def test_names_in_the_change_log(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        with_log(meta)
        user = Caller(7, (8,))
        d, _ = await meta.mkdir(1, b"d", 0o777, 0o22)
        await meta.setattr(d, {"mode": 0o777})
        f, _ = await meta.create(d, b'a,b%(c)\xff\\"', 0o640, 0o27, user)
        s, _ = await meta.symlink(1, b"s", b"to/\n")
        await meta.link(f, 1, b"l")
        await meta.rename(1, b"l", d, b"m", 1)
        await meta.unlink(d, b"m")
        await meta.unlink(1, b"s")
        await meta.rename(d, b'a,b%(c)\xff\\"', 1, b"f")
        await meta.rmdir(1, b"d")
        found = await lines(meta)
        setattr_line = found.pop(1)
        assert setattr_line.startswith(f"SETATTR({d},1,0,0,0,511,0,")
        assert found == [
            f"CREATE(1,d,0,0,2,511,18,,linux,true):{d}",
            f"CREATE({d},a%2Cb%25%28c%29%FF%5C%22,7,8,1,416,23,,linux,true):{f}",
            f"CREATE(1,s,0,0,3,511,0,to/%0A,linux,true):{s}",
            f"LINK({f},1,l,true):2",
            f"MOVE(1,l,{d},m,1,0,0):{f}",
            f"UNLINK({d},m,0,false,true):{f}",
            f"UNLINK(1,s,0,false,true):{s}",
            f"MOVE({d},a%2Cb%25%28c%29%FF%5C%22,1,f,0,0,0):{f}",
            f"RMDIR(1,d,0):{d}",
        ]

    async def test_attributes_in_the_change_log(self, meta: Meta) -> None:
        with_log(meta)
        f, _ = await meta.create(1, b"f")
        await meta.setxattr(f, b"user.a", b"1,2")
        await meta.removexattr(f, b"user.a")
        rule = Rule(6, 4, 6, 0, ((1001, 6),))
        await meta.setxattr(f, XATTR_ACCESS, to_xattr(rule))
        await meta.setattr(f, {"mtime_ns": 5_000_000_007, "atime_ns": "now"})
        found = await lines(meta)
        encoded = "".join(chr(b) if 32 <= b < 127 and chr(b) not in ',%()"\\' else f"%{b:02X}" for b in encode(rule))
        assert found[1:4] == [f"SETXATTR({f},user.a,1%2C2,0)", f"REMOVEXATTR({f},user.a)", f"SETFACL({f},1,{encoded})"]
        mask, mtime, mtime_ns = 0x20 | 0x80, 5, 7
        parts = found[4].removeprefix("SETATTR(").removesuffix(")").split(",")
        assert [int(parts[at]) for at in (0, 1, 2, 8, 10)] == [f, mask, 0, mtime, mtime_ns]

    async def test_content_in_the_change_log(self, meta: Meta) -> None:
        with_log(meta)
        f, _ = await meta.create(1, b"f")
        g, _ = await meta.create(1, b"g")
        piece = await meta.slice_ids.take()
        await meta.write_slices(f, 1, [Slice(8, piece, 4096, 0, 4096)], 3_000_000_004)
        await meta.truncate(f, 100)
        await meta.fallocate(f, 0, 0, 200)
        await meta.copy_file_range(f, 0, g, 50, 100)
        found = (await lines(meta))[2:]
        assert found[0] == f"WRITE({f},1,8,{piece},4096,3,4):1"
        old = (1 << 26) + 8 + 4096
        assert found[1].startswith(f"TRUNCATE({f},{old},100,")
        assert found[2] == f"DELCHUNK({f},1)"
        assert found[3] == f"FALLOCATE({f},0,200,0)"
        assert found[4] == f"COPYFILERANGE({f},0,{g},50,100):150"

    async def test_a_publish_is_several_lines_of_one_commit(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        with_log(meta)
        old, _ = await meta.create(1, b"f")
        piece = await meta.slice_ids.take()
        content = Content(10, {0: [Slice(0, piece, 10, 0, 10)]}, fresh=((piece, 10, 1),))
        made = await meta.publish(1, [b"f"], content, xattrs={b"user.e": b"1"}, mtime_ns=9_000_000_001)
        found = (await lines(meta))[1:]
        assert [line.partition("(")[0] for line in found] == ["UNLINK", "CREATE", "SETXATTR", "WRITE", "SETATTR"]
        assert found[1].endswith(f":{made.ino}") and found[0].endswith(f":{old}")
        await meta.publish(1, [b"x", b"y", b"z"], None, parents=ImplicitDirs())
        assert [line.partition("(")[0] for line in (await lines(meta))[6:]] == ["CREATE"] * 3

    async def test_a_refused_operation_leaves_no_line(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        with_log(meta)
        await meta.create(1, b"f")
        before = await lines(meta)
        with pytest.raises(FsError):
            await meta.create(1, b"f", exclusive=True)
        with pytest.raises(FsError):
            await meta.rmdir(1, b"f")
        assert await lines(meta) == before

    async def test_sessions_and_locks_in_the_change_log(self, meta: Meta) -> None:
        with_log(meta)
        f, _ = await meta.create(1, b"f")
        await meta.flock(f, 5, "W")
        await meta.flock(f, 5, "U")
        await meta.setlk(f, 6, "R", 0, 9, 77)
        found = (await lines(meta))[1:]
        assert found == [f"FLOCK({f},5,W)", f"FLOCK({f},5,U)", f"SETLK({f},6,R,0,9,77)"]

    async def test_the_log_is_trimmed_by_lines_and_by_age(self, meta: Meta) -> None:
        with_log(meta, change_log_max_lines=3, change_log_max_age=0)
        for at in range(8):
            await meta.mkdir(1, b"%d" % at)
        assert await meta.trim_change_log() == 5
        assert [line.split(",")[1] for line in await lines(meta)] == ["5", "6", "7"]
        assert await meta.trim_change_log() == 0  # the gate: not again so soon
        meta.use_format(meta.format.changed(change_log=True, change_log_max_lines=0, change_log_max_age=3600))
        clock = meta.clock_ns
        meta.clock_ns = lambda: clock() + 7200 * 10**9
        await meta.mkdir(1, b"later")
        assert await meta.trim_change_log() == 3
        assert [line.split(",")[1] for line in await lines(meta)] == ["later"]
        meta.clock_ns = clock
