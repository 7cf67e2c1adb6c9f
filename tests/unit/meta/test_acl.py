# SPDX-License-Identifier: Apache-2.0
"""POSIX ACL rules: stored form, external form, inheritance, who may do what.

Facts: metadata-format §1.12 and §12 (stored form), metadata-semantics §5.6 (predicates, algorithm, external form).
"""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, strategies as st

from core.errors import FsError
from core.meta import acl
from core.meta.acl import UNDEFINED, Rule

PERM = st.integers(0, 7)
NAMED = st.lists(st.tuples(st.integers(0, 2**32 - 2), PERM), max_size=5).map(tuple)
FULL_RULES = st.builds(Rule, owner=PERM, group=PERM, mask=PERM, other=PERM, users=NAMED, groups=NAMED)
STORED_RULES = st.builds(
    Rule, owner=st.integers(0, 0xFFFF), group=st.integers(0, 0xFFFF), mask=st.integers(0, 0xFFFF),
    other=st.integers(0, 0xFFFF), users=NAMED, groups=NAMED,
)  # fmt: skip


def entries(*items: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *item) for item in items)


NOBODY = 0xFFFFFFFF


# -- stored form ----------------------------------------------------------------------------------------------------


def test_published_vector() -> None:
    rule = Rule(6, 4, 6, 0, users=((1001, 6),))
    raw = bytes.fromhex("0006 0004 0006 0000 00000001 000003e9 0006 00000000")
    assert acl.encode(rule) == raw
    assert acl.decode(raw) == rule


@given(STORED_RULES)
def test_stored_rules_round_trip(rule: Rule) -> None:
    assert acl.decode(acl.encode(rule)) == rule


@given(FULL_RULES, st.data())
def test_a_cut_rule_is_damaged(rule: Rule, data: st.DataObject) -> None:
    raw = acl.encode(rule)
    size = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ValueError, match=r"damaged|cut"):
        acl.decode(raw[:size])


# -- predicates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "empty", "minimal"),
    [
        (Rule(), True, True),
        (Rule(owner=7), False, True),
        (Rule(7, 5, UNDEFINED, 0), False, True),
        (Rule(7, 5, 5, 0), False, False),
        (Rule(users=((1, 7),)), False, False),
        (Rule(groups=((1, 7),)), False, False),
    ],
)
def test_empty_and_minimal(rule: Rule, empty: bool, minimal: bool) -> None:
    assert (rule.empty, rule.minimal) == (empty, minimal)


def test_mode_shows_the_mask_where_there_is_one() -> None:
    assert Rule(7, 5, UNDEFINED, 1).mode == 0o751
    assert Rule(7, 5, 6, 1).mode == 0o761


@pytest.mark.parametrize(
    ("rule", "mode", "changed"),
    [
        (Rule(7, 7, UNDEFINED, 7), 0o640, Rule(6, 4, UNDEFINED, 0)),
        (Rule(7, 7, 7, 7, users=((1, 7),)), 0o640, Rule(6, 7, 4, 0, users=((1, 7),))),
    ],
)
def test_chmod_changes_the_mask_of_an_extended_rule(rule: Rule, mode: int, changed: Rule) -> None:
    assert acl.with_mode(rule, mode) == changed
    assert acl.with_mode(rule, mode).mode == mode


# -- external form --------------------------------------------------------------------------------------------------


def test_external_form_lists_entries_in_the_kernels_order() -> None:
    rule = Rule(7, 5, 6, 1, users=((1001, 6), (1002, 4)), groups=((50, 2),))
    assert acl.to_xattr(rule) == entries(
        (0x01, 7, NOBODY), (0x02, 6, 1001), (0x02, 4, 1002), (0x04, 5, NOBODY), (0x08, 2, 50), (0x10, 6, NOBODY),
        (0x20, 1, NOBODY),
    )  # fmt: skip


def test_a_minimal_rule_has_no_mask_entry() -> None:
    assert acl.to_xattr(Rule(6, 4, UNDEFINED, 0)) == entries((1, 6, NOBODY), (4, 4, NOBODY), (0x20, 0, NOBODY))


@given(FULL_RULES)
def test_rules_survive_the_external_form(rule: Rule) -> None:
    assert acl.from_xattr(acl.to_xattr(rule)) == rule


def test_the_order_of_entries_does_not_matter() -> None:
    mixed = entries((0x20, 1, NOBODY), (0x10, 6, NOBODY), (0x02, 6, 9), (4, 5, NOBODY), (1, 7, NOBODY))
    assert acl.from_xattr(mixed) == Rule(7, 5, 6, 1, users=((9, 6),))


def test_no_entries_are_the_empty_rule() -> None:
    assert acl.from_xattr(entries()).empty


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\2\0\0",
        entries(version=1),
        entries(version=3),
        entries((1, 7, NOBODY)) + b"\0",
        entries((1, 7, NOBODY), (1, 7, NOBODY)),
        entries((0x10, 7, NOBODY), (0x10, 7, NOBODY)),
        entries((0x40, 7, NOBODY)),
        entries((0, 7, NOBODY)),
        entries((1, 7, NOBODY), (2, 7, 1000), (4, 7, NOBODY), (0x20, 7, NOBODY)),
        entries((1, 7, NOBODY), (8, 7, 1000), (4, 7, NOBODY), (0x20, 7, NOBODY)),
    ],
    ids=["nothing", "three bytes", "version 1", "version 3", "odd length", "two owners", "two masks", "unknown tag",
         "tag zero", "user without mask", "group without mask"],
)  # fmt: skip
def test_malformed_values_are_refused(raw: bytes) -> None:
    with pytest.raises(FsError) as e:
        acl.from_xattr(raw)
    assert e.value.errno == errno.EINVAL


@given(st.binary(max_size=64))
def test_arbitrary_values_give_a_rule_or_einval(raw: bytes) -> None:
    try:
        acl.from_xattr(raw)
    except FsError as e:
        assert e.errno == errno.EINVAL


# -- inheritance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("default", "requested", "mode", "access"),
    [
        # Minimal: the requested bits cut by the rule's; special bits stay; no access ACL.
        (Rule(7, 5, UNDEFINED, 0), 0o666, 0o640, None),
        (Rule(7, 5, UNDEFINED, 0), 0o6777, 0o6750, None),
        (Rule(7, 7, UNDEFINED, 7), 0o1000, 0o1000, None),
        # Extended: owner, mask and other are cut; group and named entries are kept as they are.
        (Rule(7, 5, 7, 0, users=((9, 7),)), 0o666, 0o660, Rule(6, 5, 6, 0, users=((9, 7),))),
        (Rule(7, 5, 7, 0, users=((9, 7),)), 0o4600, 0o4600, Rule(6, 5, 0, 0, users=((9, 7),))),
        (Rule(7, 7, 3, 7, groups=((5, 6),)), 0o777, 0o737, Rule(7, 7, 3, 7, groups=((5, 6),))),
        (Rule(4, 7, 7, 4), 0o777, 0o474, Rule(4, 7, 7, 4)),
    ],
)
def test_nodes_created_under_a_default_acl(default: Rule, requested: int, mode: int, access: Rule | None) -> None:
    assert acl.inherit(default, requested) == (mode, access)


@given(FULL_RULES, st.integers(0, 0o7777))
def test_nobody_inherits_more_than_was_requested(default: Rule, requested: int) -> None:
    mode, access = acl.inherit(default, requested)
    assert mode & ~requested == 0
    assert mode & 0o7000 == requested & 0o7000
    if access is not None:
        assert access.mode == mode & 0o777


# -- the access algorithm -------------------------------------------------------------------------------------------

OWNER, GROUP = 100, 200
RULE = Rule(6, 4, 6, 1, users=((101, 7), (102, 0), (103, 2)), groups=((201, 7), (202, 2), (203, 0)))


@pytest.mark.parametrize(
    ("uid", "gids", "wanted", "granted"),
    [
        # The owner's bits decide alone; the mask doesn't touch them.
        (OWNER, (), 6, True),
        (OWNER, (), 1, False),
        (OWNER, (201,), 1, False),
        # A named user: its bits under the mask decide alone, groups are not asked.
        (101, (), 6, True),
        (101, (), 1, False),
        (102, (201,), 4, False),
        (103, (201,), 4, False),
        (103, (), 2, True),
        # Groups: one that suffices is enough …
        (300, (GROUP,), 4, True),
        (300, (201,), 6, True),
        (300, (GROUP, 202), 4, True),
        (300, (203, 201), 4, True),
        # … but two are not added up, the mask counts, and a match that doesn't suffice never falls to other.
        (300, (GROUP, 202), 6, False),
        (300, (201,), 1, False),
        (300, (203,), 1, False),
        (300, (GROUP,), 1, False),
        # Nobody matches: other, without the mask.
        (300, (), 1, True),
        (300, (999,), 1, True),
        (300, (), 4, False),
        (300, (), 0, True),
    ],
)
def test_access(uid: int, gids: tuple[int, ...], wanted: int, granted: bool) -> None:
    assert acl.permits(RULE, uid, gids, OWNER, GROUP, wanted) is granted


def test_the_first_of_two_entries_of_a_user_decides() -> None:
    rule = Rule(0, 0, 7, 0, users=((5, 4), (5, 7)))
    assert acl.permits(rule, 5, (), OWNER, GROUP, 4)
    assert not acl.permits(rule, 5, (), OWNER, GROUP, 2)
