# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that runs tests of the FUSE door through pyfuse3, and skips what pyfuse3 can't do, saying why.

pytest -p tests.gateways.fuse.pyfuse3_backend.suite tests/gateways/fuse/posix
"""

from __future__ import annotations

import re
from typing import Final

import pytest

from gateways.fuse.pyfuse3_backend.limits import MISSING
from tests.gateways.fuse.mounts import Mount

#: Which tests (by their ids, first match counts) need what pyfuse3 lacks.
NEEDS: Final[tuple[tuple[str, str], ...]] = (
    (r"test_locks\.py::.*two mounts", "locks"),
    (r"test_inode_flags\.py::", "ioctl"),
    (r"test_fallocate\.py::test_seek", "lseek"),
    (r"test_fallocate\.py::", "fallocate"),
    (r"test_replaced_elsewhere\.py::.*nameless", "tmpfile"),
    (r"test_setid\.py::.*(fallocate|punch)", "fallocate"),
    (r"test_link_unlink\.py::.*(tmpfile|without_a_name|o_excl_forbids_a_name)", "tmpfile"),
    (r"test_acl\.py::test_(defaults_are_inherited|a_minimal_default_gives_bits_only)", "umask"),
    (r"test_open\.py::test_a_running_program_is_not_written", "truncate"),
    (r"test_acl\.py::test_setgid_is_lost_by_an_owner_outside_the_group", "acl_set_id"),
)


def pytest_configure(config: pytest.Config) -> None:
    plain = Mount.command
    Mount.command = lambda self: [*plain(self), "--fuse-backend", "pyfuse3"]  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for pattern, missing in NEEDS:
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.skip(reason=f"pyfuse3: {MISSING[missing]}"))
                break
