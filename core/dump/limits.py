# SPDX-License-Identifier: Apache-2.0
"""What the target database can't hold, told before anything is written, and what `--lossy` makes of it.

Source: capabilities of the stores (core/meta/store.py), metadata-format §1.1, §13 items 46 and 47.
"""

from __future__ import annotations

from typing import Final

import msgspec

from core.dump.problems import Problems
from core.meta.records import Attr
from core.meta.store import Capabilities, RecordStore

_U32: Final = 0xFFFFFFFF


class Limits:
    """Of one target; `Limits(None, …)` only knows the limits of the format itself (checking a file alone)."""

    def __init__(self, store: RecordStore | None, problems: Problems) -> None:
        self.caps: Capabilities = store.caps if store is not None else Capabilities()
        self.engine = store.name if store is not None else "any engine"
        self._problems = problems
        self.any_id = self.caps.max_id >= _U32
        self.any_xattr = self.caps.empty_xattr and not self.caps.text_xattr_names and self.caps.max_xattr >= 65536

    def owner(self, where: str, attr: Attr) -> Attr:
        """The same attributes with ids that the target can hold."""
        most = self.caps.max_id
        if attr.uid <= most and attr.gid <= most:
            return attr
        kind = f"{self.engine} can't hold a user or group id above {most}"
        self._problems.loss(where, kind, f"uid {attr.uid}, gid {attr.gid} become at most {most}")
        return msgspec.structs.replace(attr, uid=min(attr.uid, most), gid=min(attr.gid, most))

    def xattr(self, where: str, name: bytes, value: bytes) -> bool:
        """May it be written? False: it is left out, and that has been said."""
        shown = name.decode("utf-8", "backslashreplace")
        if not value and not self.caps.empty_xattr:
            self._problems.loss(where, f"{self.engine} can't hold an empty extended attribute", shown)
            return False
        if len(value) > self.caps.max_xattr:
            self._problems.loss(
                where, f"{self.engine} can't hold an extended attribute above {self.caps.max_xattr} bytes", shown
            )
            return False
        if self.caps.text_xattr_names and not _is_text(name):
            self._problems.loss(where, f"{self.engine} can't hold an extended attribute whose name is no UTF-8", shown)
            return False
        return True


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
