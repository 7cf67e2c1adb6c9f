# SPDX-License-Identifier: Apache-2.0
"""Client versions: which clients a volume admits, and which one we say we are.

Pure values; no IO. Source: metadata-format §7.3 (text and ordering of versions), §8 (what a session announces).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

#: What we announce: a client that understands everything JuiceFS 1.4.1 writes. What follows "+" is ignored in
#: comparisons and says whose client it really is.
CLIENT_VERSION: Final = "1.4.1+sluicefs"

#: The lowest client a volume with this feature may admit.
MIN_PLAIN: Final = "1.1.0-A"
MIN_ACL: Final = "1.2.0-A"
MIN_RANGER: Final = "1.3.0-A"
MIN_KERBEROS: Final = "1.4.0-A"
MIN_TIERS: Final = "1.4.0-A"

_TEXT = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([^+]+))?(?:\+.*)?", re.ASCII | re.DOTALL)


class Version(NamedTuple):
    """Compares as the format demands: a tuple whose fourth part sorts "no pre-release" above any."""

    major: int
    minor: int
    patch: int
    final: bool
    pre: bytes


def parse_version(text: str) -> Version | None:
    """None if the text is no version. Missing numbers are 0; the build part is ignored."""
    found = _TEXT.fullmatch(text.strip())
    if not found:
        return None
    major, minor, patch, pre = found.groups()
    return Version(int(major), int(minor or 0), int(patch or 0), pre is None, (pre or "").encode())


def highest(*texts: str) -> str:
    """The greatest of several bounds; an empty or unparsable text is below all others."""
    best, best_version = "", None
    for text in texts:
        version = parse_version(text) if text else None
        if version is not None and (best_version is None or version > best_version):
            best, best_version = text, version
    return best


OURS: Final = parse_version(CLIENT_VERSION)
