# SPDX-License-Identifier: Apache-2.0
"""Unicode forms of names: with `--normalize nfc` a name that isn't there is looked for, and made, in its NFC form.

Some programs on macOS send names decomposed, others composed; both then mean one file. What exists under exactly the
name that was sent stays reachable. Names that are no UTF-8 are left alone. Source: spec webdav §2.1.
"""

from __future__ import annotations

import unicodedata

from gateways.webdav.export import Export
from gateways.webdav.names import MAX_NAME, Path


def composed(name: bytes) -> bytes:
    """The NFC form; the name itself if it has none."""
    if name.isascii():
        return name
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return name
    found = unicodedata.normalize("NFC", text).encode()
    return found if 0 < len(found) <= MAX_NAME else name  # a few characters grow by composing


async def settled(export: Export, path: Path) -> Path:
    """The path that is meant. No trip for what is in NFC already, which nearly all names are."""
    if all(composed(name) == name for name in path):
        return path
    out: Path = ()
    for name in path:
        form = composed(name)
        kept = form == name or await export.find((*out, name), follow=False) is not None
        out = (*out, name if kept else form)
    return out
