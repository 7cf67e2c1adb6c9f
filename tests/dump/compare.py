# SPDX-License-Identifier: Apache-2.0
"""Do two JSON dumps mean the same? Everything that spec metadata-semantics §15.1 says is in one is compared.

May differ: white space, the order of keys, of sessions, of deleted files and of extended attributes, whether something
empty is written or left out (0, null, [], {}), and how an old dump calls a slice's id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_ACL = ("posix_acl_access", "posix_acl_default")
_ATTR_DEFAULTS = {"flags": 0, "atimensec": 0, "mtimensec": 0, "ctimensec": 0, "rdev": 0, "tier": 0}


def differences(mine: bytes, reference: bytes, *, counters: bool = True, most: int = 20) -> list[str]:
    """What differs, as texts. `counters`: compare them too; a load recounts them."""
    left, right = json.loads(mine), json.loads(reference)
    return list(_cut(_documents(left, right, counters), most))


def _cut(found: Iterator[str], most: int) -> Iterator[str]:
    for _, text in zip(range(most), found, strict=False):
        yield text


def _documents(left: dict[str, Any], right: dict[str, Any], counters: bool) -> Iterator[str]:
    yield from _same("Setting", left.get("Setting"), right.get("Setting"))
    if counters:
        yield from _same("Counters", left.get("Counters"), right.get("Counters"))
        yield from _same("Sustained", _sustained(left), _sustained(right))
    yield from _same("DelFiles", _deleted(left), _deleted(right))
    for name in ("Quotas", "UserQuotas", "GroupQuotas"):
        yield from _same(name, left.get(name) or {}, right.get(name) or {})
    for name in ("FSTree", "Trash"):
        if (name in left) != (name in right):
            yield f"{name}: only in one"
        elif name in left:
            yield from _entries(name, left[name], right[name])


def _same(where: str, left: Any, right: Any) -> Iterator[str]:
    if left != right:
        yield f"{where}: {left!r} instead of {right!r}"


def _sustained(document: dict[str, Any]) -> dict[int, set[int]]:
    return {held["sid"]: set(held["inodes"]) for held in document.get("Sustained") or ()}


def _deleted(document: dict[str, Any]) -> set[tuple[int, int, int]]:
    return {(d["inode"], d["length"], d["expire"]) for d in document.get("DelFiles") or ()}


def _entries(top: str, left: dict[str, Any], right: dict[str, Any]) -> Iterator[str]:
    waiting = [(top, left, right)]
    while waiting:
        where, one, other = waiting.pop()
        a, b = normal(one), normal(other)
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                yield f"{where} {key}: {a.get(key)!r} instead of {b.get(key)!r}"
        mine, theirs = one.get("entries") or {}, other.get("entries") or {}
        yield from (f"{where}/{name}: should not be there" for name in mine.keys() - theirs.keys())
        yield from (f"{where}/{name}: missing" for name in theirs.keys() - mine.keys())
        waiting += [(f"{where}/{name}", mine[name], theirs[name]) for name in mine.keys() & theirs.keys()]


def normal(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry object without its entries, with everything spelled out."""
    found: dict[str, Any] = {"attr": {**_ATTR_DEFAULTS, **entry["attr"]}, "symlink": entry.get("symlink")}
    found["xattrs"] = {x["name"]: x.get("value", "") for x in entry.get("xattrs") or ()}
    for kind in _ACL:
        rule = entry.get(kind)
        found[kind] = rule and {**rule, "users": rule.get("users") or [], "groups": rule.get("groups") or []}
    found["chunks"] = {
        c["index"]: [
            (s.get("id") or s.get("chunkid", 0), s.get("pos", 0), s["size"], s.get("off", 0), s["len"])
            for s in c["slices"]
        ]
        for c in entry.get("chunks") or ()
        if c.get("slices")
    }
    return found


def without(document: bytes, caps: Any) -> bytes:
    """The same dump as a database with these capabilities can hold it (`--lossy`)."""
    parsed = json.loads(document)
    waiting = [parsed["FSTree"], *([parsed["Trash"]] if "Trash" in parsed else [])]
    while waiting:
        entry = waiting.pop()
        attr = entry["attr"]
        attr["uid"], attr["gid"] = min(attr["uid"], caps.max_id), min(attr["gid"], caps.max_id)
        entry["xattrs"] = [x for x in entry.get("xattrs") or () if x.get("value") or caps.empty_xattr]
        waiting += (entry.get("entries") or {}).values()
    return json.dumps(parsed).encode()
