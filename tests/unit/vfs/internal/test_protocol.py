# SPDX-License-Identifier: Apache-2.0
"""Messages of the control file, byte for byte (metadata-semantics §12.2, data-path §11.1), and what is no message."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, strategies as st

from core.errors import FsError
from core.vfs.internal import protocol as p

_U64 = st.integers(0, 2**64 - 1)
_U8 = st.integers(1, 255)
_NAME = st.binary(min_size=1, max_size=255)

REQUESTS = st.one_of(
    st.builds(p.RemoveTree, _U64, _NAME, st.booleans(), _U8, st.just(False)),
    st.builds(p.Info, _U64, st.booleans(), st.booleans(), st.booleans()),
    st.builds(
        p.WarmUp,
        st.lists(st.binary(min_size=1, max_size=50).filter(lambda b: b"\n" not in b), max_size=5).map(tuple),
        st.integers(1, 65535),
        st.booleans(),
        st.integers(0, 2),
    ),
    st.builds(p.CloneTree, _U64, _U64, _U64, _NAME, st.integers(0, 65535), st.integers(0, 255), _U8),
    st.builds(p.TreeSum, _U64, st.integers(0, 255), st.integers(0, 255), st.booleans()),
    st.builds(p.Compact, _U64, st.integers(1, 65535)),
)


@given(REQUESTS)
def test_what_is_encoded_is_decoded(request: p.Request) -> None:
    message = p.encode(request)
    head = p.split_head(message)
    assert head is not None and head[1] == len(message) - p.HEAD_BYTES
    assert p.decode(head[0], message[p.HEAD_BYTES :]) == request


@pytest.mark.parametrize(
    "request_, message",
    [
        (p.RemoveTree(1, b"x", True, 7), struct.pack(">IIQB1sBB", 1002, 12, 1, 1, b"x", 1, 7)),
        (p.Info(3, True, False, True), struct.pack(">IIQBBB", 1005, 11, 3, 1, 0, 1)),
        (p.WarmUp((b"/a", b"inode:7"), 50, True, 2), struct.pack(">III10sHBB", 1004, 18, 10, b"/a\ninode:7", 50, 1, 2)),
        (p.CloneTree(5, 1, 2, b"c", 0o22, 2, 4), struct.pack(">IIQQQB1sHBB", 1006, 30, 5, 1, 2, 1, b"c", 0o22, 2, 4)),
        (p.TreeSum(1, 2, 10, False), struct.pack(">IIQBBB", 1007, 11, 1, 2, 10, 0)),
        (p.Compact(9, 10), struct.pack(">IIQH", 1008, 10, 9, 10)),
    ],
)
def test_messages_are_those_of_the_specification(request_: p.Request, message: bytes) -> None:
    assert p.encode(request_) == message


def test_optional_fields_may_be_missing() -> None:
    assert p.decode(1002, struct.pack(">QB1s", 1, 1, b"x")) == p.RemoveTree(1, b"x", False, 50, plain=True)
    assert p.decode(1003, struct.pack(">Q", 3)) == p.Info(3)
    assert p.decode(1005, struct.pack(">QB", 3, 1)) == p.Info(3, True)
    assert p.decode(1004, struct.pack(">I2sHB", 2, b"/a", 9, 0)) == p.WarmUp((b"/a",), 9)
    assert p.decode(1006, struct.pack(">QQQB1sHB", 5, 1, 2, 1, b"c", 0, 0)) == p.CloneTree(5, 1, 2, b"c")
    assert p.decode(1007, struct.pack(">Q", 1)) == p.TreeSum(1)


@given(st.sampled_from([1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009]), st.binary(max_size=64))
def test_anything_else_is_einval(command: int, payload: bytes) -> None:
    try:
        p.decode(command, payload)
    except FsError as e:
        assert e.errno == errno.EINVAL


REPLIES = st.one_of(
    st.builds(p.Progress, _U64, _U64),
    st.builds(p.Data, st.binary(max_size=300)),
    st.builds(p.Ended, st.integers(0, 133)),
)


def _frame(event: p.Event) -> bytes:
    if isinstance(event, p.Progress):
        return p.progress_frame(event.first, event.second)
    return p.data_frame(event.data) if isinstance(event, p.Data) else p.errno_frame(event.errno)


@given(st.lists(REPLIES, max_size=6), st.integers(1, 40))
def test_replies_may_arrive_in_any_pieces(events: list[p.Event], step: int) -> None:
    stream = b"".join(map(_frame, events))
    parser = p.ReplyParser()
    found = [event for at in range(0, len(stream), step) for event in parser.receive(stream[at : at + step])]
    assert found == events


def test_too_many_paths_are_refused() -> None:
    paths = b"\n".join([b"/d"] * (p.MAX_PATHS + 1))
    with pytest.raises(FsError, match="more than 10240 paths"):
        p.decode(p.WARM_UP, struct.pack(">I", len(paths)) + paths + struct.pack(">HB", 1, 0))
    paths = b"\n".join([b"/d"] * p.MAX_PATHS)
    request = p.decode(p.WARM_UP, struct.pack(">I", len(paths)) + paths + struct.pack(">HB", 1, 0))
    assert isinstance(request, p.WarmUp) and len(request.paths) == p.MAX_PATHS


def test_frames_have_the_sizes_that_clients_expect() -> None:
    assert p.progress_frame(3, 4096) == b"\xfe" + (3).to_bytes(8, "big") + (4096).to_bytes(8, "big")
    assert p.data_frame(b"{}") == b"\xff\0\0\0\2{}"
    assert p.errno_frame(0) == b"\0" and p.errno_frame(errno.EEXIST) == bytes((17,))
    assert p.errno_frame(0xFE) == bytes((errno.EIO,))  # would be taken for a progress frame


def test_the_old_form_of_info_is_a_text_or_an_errno() -> None:
    assert p.ReplyParser(legacy=True).receive(p.legacy_text(b" inode: 3\n")) == [p.Data(b" inode: 3\n")]
    assert p.ReplyParser(legacy=True).receive(b"\x16") == [p.Ended(22)]
