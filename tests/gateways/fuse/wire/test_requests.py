# SPDX-License-Identifier: Apache-2.0
"""Requests of the kernel: each opcode, every way to be malformed."""

from __future__ import annotations

import errno
import random
import struct

import pytest
from hypothesis import given, settings, strategies as st

from gateways.fuse.operations import Operations
from gateways.fuse.wire.constants import UNIQUE_RESEND, Opcode
from gateways.fuse.wire.requests import SMALL_WRITE, GroupedCall, ProtocolError, decode
from tests.gateways.fuse.wire.requests import SAMPLES, Sample, pack, request

SESSION = {"init", "interrupt", "destroy", "notify_reply"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.opcode.name)
def test_each_opcode_becomes_a_method_and_its_arguments(sample: Sample) -> None:
    raw = request(sample.opcode, sample.body)
    call, name, args = decode(raw)
    assert (name, args) == (sample.method, sample.args)
    assert call == (10, 5, 1000, 100, 4242, False)


def test_what_lies_behind_a_request_in_the_buffer_does_not_count() -> None:
    for sample in SAMPLES:
        raw = request(sample.opcode, sample.body)
        buffer = memoryview(bytearray(raw + b"\xaa" * 500))
        _, name, args = decode(buffer, len(raw))
        assert (name, args) == (sample.method, sample.args)


def test_every_method_of_operations_has_an_opcode() -> None:
    methods = {name for name in vars(Operations) if not name.startswith("_")} | SESSION
    assert {sample.method for sample in SAMPLES} == methods
    # SETUPMAPPING and REMOVEMAPPING are for shared memory of virtual machines, BMAP for block devices.
    assert set(Opcode) - {sample.opcode for sample in SAMPLES} == {
        Opcode.BMAP, Opcode.SETUPMAPPING, Opcode.REMOVEMAPPING
    }  # fmt: skip


def test_a_request_cut_anywhere_is_a_protocol_error() -> None:
    for sample in SAMPLES:
        whole = request(sample.opcode, sample.body)
        for length in range(len(whole)):
            with pytest.raises(ProtocolError):
                decode(whole[:length])
            cut = struct.pack("=I", length) + whole[4:length]
            try:
                decode(cut, length)  # some stay whole: 7.31 kernels send a shorter INIT, values may be empty
            except ProtocolError as e:
                assert e.errno == errno.EINVAL


def test_an_unknown_opcode_is_enosys_and_names_its_request() -> None:
    for opcode in (0, 7, int(Opcode.BMAP), int(Opcode.SETUPMAPPING), 999, 4096, 1 << 31):
        with pytest.raises(ProtocolError) as raised:
            decode(request(opcode, b"", unique=77))
        assert (raised.value.errno, raised.value.unique) == (errno.ENOSYS, 77)


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.LOOKUP, b"\0"),
        (Opcode.LOOKUP, b"ab"),
        (Opcode.LOOKUP, b"a\0b\0"),
        (Opcode.SYMLINK, b"a\0\0"),
        (Opcode.SYMLINK, b"\0ab\0"),
        (Opcode.RENAME, pack("Q", 1) + b"abc\0"),
        (Opcode.RENAME, pack("Q", 1) + b"a\0b\0c\0"),
        (Opcode.WRITE, pack("QQIIQII", 1, 0, 6, 0, 0, 0, 0) + b"hello"),
        (Opcode.WRITE, pack("QQIIQII", 1, 0, 4, 0, 0, 0, 0) + b"hello"),
        (Opcode.SETXATTR, pack("IIII", 4, 0, 0, 0) + b"a\0abc"),
        (Opcode.SETXATTR, pack("IIII", 1 << 31, 0, 0, 0) + b"a\0abc"),
        (Opcode.BATCH_FORGET, pack("II", 3, 0) + pack("QQQQ", 1, 1, 2, 2)),
        (Opcode.BATCH_FORGET, pack("II", 0xFFFFFFFF, 0)),
        (Opcode.IOCTL, pack("QIIQII", 9, 0, 1, 0, 5, 8) + b"abc"),
    ],
)
def test_what_contradicts_itself_is_einval(opcode: Opcode, body: bytes) -> None:
    with pytest.raises(ProtocolError) as raised:
        decode(request(opcode, body))
    assert (raised.value.errno, raised.value.unique) == (errno.EINVAL, 10)


def test_a_resent_request_has_its_old_id_and_a_mark() -> None:
    call, _, _ = decode(request(Opcode.STATFS, unique=12 | UNIQUE_RESEND))
    assert (call.unique, call.resent) == (12, True)


def test_the_short_setxattr_of_before_7_33() -> None:
    raw = request(Opcode.SETXATTR, pack("II", 3, 2) + b"user.x\0abc")
    assert decode(raw, setxattr_ext=False)[2] == (b"user.x", b"abc", 2, 0)


def test_small_data_of_a_write_is_copied_and_large_data_is_not() -> None:
    for size in (SMALL_WRITE, SMALL_WRITE + 1):
        raw = bytearray(request(Opcode.WRITE, pack("QQIIQII", 1, 0, size, 0, 0, 0, 0) + b"a" * size))
        data = decode(memoryview(raw))[2][2]
        raw[-1:] = b"b"
        assert data[-1:] == (b"a" if size == SMALL_WRITE else b"b")


def _extension(kind: int, body: bytes) -> bytes:
    raw = struct.pack("=II", 8 + len(body), kind) + body
    return raw + bytes(-len(raw) % 8)


def test_extensions_are_no_part_of_the_name() -> None:
    groups = _extension(32, pack("III", 2, 100, 200))
    context = _extension(1, b"security.selinux\0label\0")
    call, name, args = decode(
        request(Opcode.MKDIR, pack("II", 0o755, 0) + b"d\0", extension=context + groups)
    )  # fmt: skip
    assert (name, args) == ("mkdir", (b"d", 0o755, 0))
    assert isinstance(call, GroupedCall)
    assert call.groups == (100, 200)
    assert call == (10, 5, 1000, 100, 4242, False)


@pytest.mark.parametrize(
    "extension", [pack("II", 0, 32), pack("II", 7, 32), pack("II", 24, 32), pack("IIII", 16, 32, 2, 100)]
)
def test_a_broken_extension_is_a_protocol_error(extension: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(request(Opcode.MKDIR, pack("II", 0o755, 0) + b"d\0", extension=extension))


def test_extensions_longer_than_the_request() -> None:
    raw = bytearray(request(Opcode.MKDIR, pack("II", 0o755, 0) + b"d\0"))
    raw[36:38] = b"\xff\xff"
    with pytest.raises(ProtocolError):
        decode(raw)


# -- fuzz ---------------------------------------------------------------------------------------------------------


def _survives(raw: bytes, *, ext: bool = True) -> None:
    try:
        call, name, args = decode(memoryview(raw), setxattr_ext=ext)
    except ProtocolError as e:
        assert 0 < e.errno < 512
    else:
        assert hasattr(Operations, name) or name in SESSION
        assert len(call) == 6
        assert isinstance(args, tuple)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    _survives(raw)


@settings(max_examples=2000, deadline=None)
@given(st.integers(0, 60), st.binary(max_size=200), st.integers(0, 30), st.booleans())
def test_any_body_of_any_opcode_is_decoded_or_refused(opcode: int, body: bytes, extension: int, ext: bool) -> None:
    raw = bytearray(request(opcode, body))
    raw[36:38] = struct.pack("=H", extension)
    _survives(bytes(raw), ext=ext)


def test_changed_requests_are_decoded_or_refused() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(20_000):
        sample = rng.choice(SAMPLES)
        raw = bytearray(request(sample.opcode, sample.body))
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.7:  # else the length is wrong as well
            if rng.random() < 0.5:
                del raw[rng.randrange(40, len(raw) + 1) :]
            else:
                raw += rng.randbytes(rng.randint(0, 40))
            raw[:4] = struct.pack("=I", len(raw))
        _survives(bytes(raw), ext=rng.random() < 0.5)
