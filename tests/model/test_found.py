# SPDX-License-Identifier: Apache-2.0
"""What the model found once, in small, so that it stays found."""

from __future__ import annotations

import errno

import pytest

from core.errors import FsError
from core.meta.namespace import RENAME_EXCHANGE
from core.meta.records import ROOT
from tests.conformance.volume.invariants import check_invariants
from tests.unit.chunk.doubles import FaultyStore
from tests.unit.vfs.volume import make_client, new_volume


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_a_directory_is_not_exchanged_with_something_inside_it(depth: int) -> None:
    """It would contain itself, and no path would lead to it any more."""
    client = await make_client(await new_volume(), FaultyStore())
    meta = client.meta
    top, _ = await meta.mkdir(ROOT, b"top")
    at = top
    for _ in range(depth - 1):
        at, _ = await meta.mkdir(at, b"d")
    await meta.create(at, b"f")
    await meta.mkdir(at, b"e")
    for name in (b"f", b"e"):
        for call in (
            meta.rename(at, name, ROOT, b"top", RENAME_EXCHANGE),
            meta.rename(ROOT, b"top", at, name, RENAME_EXCHANGE),
        ):
            with pytest.raises(FsError) as e:
                await call
            assert e.value.errno in (errno.EINVAL, errno.EPERM)
    assert (await meta.lookup(ROOT, b"top"))[0] == top
    await check_invariants(meta)
    await client.close()
