# SPDX-License-Identifier: Apache-2.0
"""Dead properties in the extended attribute that JuiceFS's WebDAV server uses. Pure functions; no IO.

A JSON array, one object per property; inner XML as base64. Source: spec webdav §4.2.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from gateways.webdav.xmltext import is_fragment

log = logging.getLogger("sluice.webdav.properties")

X_DEAD: Final = b"webdav-dead-props"

Name = tuple[str, str]  # namespace, local name

#: What may stand as the name of an element; the attribute may hold anything.
_LOCAL: Final = re.compile(r"[^\W\d][\w.\-\u00b7]*")


class Dead(NamedTuple):
    """Value of a property: inner XML that stands by itself, and its language."""

    inner: str
    lang: str = ""


class Unreadable(Exception):
    """The attribute holds something else; it must not be overwritten."""


_encode = msgspec.json.Encoder().encode


def encode(properties: Mapping[Name, Dead]) -> bytes:
    """Sorted, keys exactly as JuiceFS spells them."""
    return _encode(
        [
            {
                "name": {"Space": space, "Local": local},
                "property": {
                    "XMLName": {"Space": space, "Local": local},
                    "Lang": value.lang,
                    "InnerXML": base64.b64encode(value.inner.encode("utf-8", "surrogatepass")).decode(),
                },
            }
            for (space, local), value in sorted(properties.items())
        ]
    )


def decode(raw: bytes | None) -> dict[Name, Dead]:
    """Raises `Unreadable`. `null`, missing inner XML and unknown keys are fine."""
    if not raw:
        return {}
    return dict(_decoded(raw))


@lru_cache(1024)
def _decoded(raw: bytes) -> dict[Name, Dead]:
    try:
        entries: Any = msgspec.json.decode(raw)
        found: dict[Name, Dead] = {}
        for entry in entries or ():
            name, value = entry["name"], entry.get("property") or {}
            inner = base64.b64decode(value.get("InnerXML") or "", validate=True).decode("utf-8", "replace")
            found[str(name.get("Space", "")), str(name["Local"])] = Dead(inner, str(value.get("Lang") or ""))
    except (msgspec.MsgspecError, binascii.Error, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Unreadable(str(error)) from error
    return found


def shown(raw: bytes | None, what: object) -> dict[Name, Dead]:
    """For answers: unreadable is none, and inner XML that isn't any is left out."""
    try:
        found = decode(raw)
    except Unreadable as error:
        log.warning("dead properties of inode %s can't be read and are not shown: %s", what, error)
        return {}
    return {
        name: value
        for name, value in found.items()
        if _LOCAL.fullmatch(name[1]) and (not value.inner or is_fragment(value.inner))
    }
