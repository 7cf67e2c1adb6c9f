# SPDX-License-Identifier: Apache-2.0
"""What a first pass has found in a dump file: the scratch tables, the setting, and totals that cost nothing to keep."""

from __future__ import annotations

import json
from typing import Any, Final

from core.dump.limits import Limits
from core.dump.problems import Problems
from core.dump.scratch import Scratch
from core.errors import SluiceError
from core.meta.format import Format
from core.meta.records import ROOT, Attr, encode_attr
from core.meta.store import RecordStore
from core.object.secrets import REMOVED

_SECRETS: Final = {"SecretKey": "secret_key", "SessionToken": "session_token", "EncryptKey": "encrypt_key"}
_MAX_ID: Final = 1 << 62


class Reading:
    """Use as a context manager; the scratch tables vanish at its end."""

    def __init__(self, store: RecordStore | None = None, *, lossy: bool = False) -> None:
        self.problems = Problems(lossy=lossy)
        self.limits = Limits(store, self.problems)
        self.scratch = Scratch(self.problems)
        self.fmt: Format | None = None
        self.stated: dict[str, Any] = {}  # counters as the file has them, for what a recount can't know
        self.top = ROOT  # the inode that becomes the root
        self.used_space = 0
        self.used_inodes = 0
        self.max_inode = ROOT
        self.max_slice = 0
        self.max_trash = 0
        self.max_session = 0
        self.users: dict[int, list[int]] = {}  # uid -> [space, inodes]
        self.groups: dict[int, list[int]] = {}
        self.given: list[tuple[int, int, int, int]] = []  # (kind of quota, owner, new owner, space): clamped ids

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exc: object) -> None:
        self.scratch.__exit__(*exc)

    encode = staticmethod(encode_attr)

    def take_setting(self, value: Any) -> None:
        """A parsed or a stored document."""
        try:
            fmt = Format.parse(value if isinstance(value, bytes) else json.dumps(value))
            fmt.check_client()
        except SluiceError as e:
            self.problems.error("Setting", "the setting can't be used", e)
            return
        self.fmt = fmt

    @property
    def removed(self) -> list[str]:
        """Secrets that the dump doesn't carry."""
        return [name for name, attribute in _SECRETS.items() if getattr(self.fmt, attribute, "") == REMOVED]

    def count_node(self, attr: Attr, space: int, *, owned: bool = True) -> None:
        """Every inode but the root and the root of the trash. `owned`: False for the trash's hourly directories."""
        self.used_space += space
        self.used_inodes += 1
        if not owned:
            return
        # Of every type, as creating and removing one counts (the original's scan leaves out links and devices, and its
        # own numbers drift from that; semantics §3.3, §3.4).
        for owners, ident in ((self.users, attr.uid), (self.groups, attr.gid)):
            used = owners.get(ident)
            if used is None:
                used = owners[ident] = [0, 0]
            used[0] += space
            used[1] += 1

    def at_least(self, name: str, lowest: int) -> int:
        """An id counter: what the file says, unless its records prove more. Ids that were given out and are not in the
        file may still name objects in the bucket, so they aren't given out again."""
        stated = self.stated.get(name)
        return max(lowest, stated) if type(stated) is int and 0 <= stated < _MAX_ID else lowest
