# SPDX-License-Identifier: Apache-2.0
"""The `If` header: parse and evaluate. No IO; what a URI refers to is told by the caller.

Source: spec webdav §13; RFC 4918 §10.4.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from gateways.webdav.errors import DavError

_TOKEN: Final = re.compile(
    r"""[ \t]*(?:
        (?P<open>\() | (?P<close>\)) | (?P<not>[Nn][Oo][Tt](?=[ \t<\[])) |
        <(?P<uri>[^<>\x00-\x20]*)> | \[(?P<tag>(?:W/)?"[^"\x00-\x1f]*")\]
    )""",
    re.VERBOSE,
)
MAX_CONDITIONS: Final = 1000


class Condition(NamedTuple):
    """One condition of a list. tag: with its quotes, "" for a state token."""

    negated: bool
    token: str
    tag: str


class ConditionList(NamedTuple):
    """All of these hold for the resource. uri: "" for the request's own."""

    uri: str
    conditions: tuple[Condition, ...]


class IfHeader(NamedTuple):
    lists: tuple[ConditionList, ...]

    @property
    def tokens(self) -> list[str]:
        """Every state token that was submitted, wherever it stands."""
        return [c.token for each in self.lists for c in each.conditions if c.token]


def parse(text: str) -> IfHeader:
    """400 for anything that isn't the grammar, and for tagged and untagged lists in one header."""
    lists: list[ConditionList] = []
    uri = ""
    tagged: bool | None = None
    current: list[Condition] | None = None
    negated = False
    waiting = False  # a tag without a list yet
    at = count = 0
    text = text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _bad()
        at = found.end()
        kind = found.lastgroup
        if current is None:
            if kind == "uri":
                if waiting or (lists and tagged is False):
                    raise _bad()
                uri, tagged, waiting = found["uri"], True, True
            elif kind == "open":
                tagged = bool(tagged)
                current, waiting = [], False
            else:
                raise _bad()
        elif kind == "close":
            if not current or negated:
                raise _bad()
            lists.append(ConditionList(uri, tuple(current)))
            current = None
        elif kind == "not":
            if negated:
                raise _bad()
            negated = True
        elif kind in ("uri", "tag"):
            count += 1
            if count > MAX_CONDITIONS:
                raise DavError(400, "The If header holds too many conditions.")
            current.append(Condition(negated, found["uri"] or "", found["tag"] or ""))
            if kind == "uri" and not found["uri"]:
                raise _bad()
            negated = False
        else:
            raise _bad()
    if current is not None or waiting or not lists:
        raise _bad()
    return IfHeader(tuple(lists))


def _bad() -> DavError:
    return DavError(400, "The If header does not follow its grammar.")


class State(NamedTuple):
    """Of one resource: its strong ETag with quotes ("" if there is none), and the tokens of locks that cover it."""

    etag: str
    tokens: frozenset[str]


async def holds(header: IfHeader, state_of: Callable[[str], Awaitable[State]]) -> bool:
    """Is any list true? state_of is asked once per URI."""
    known: dict[str, State] = {}
    for each in header.lists:
        state = known.get(each.uri)
        if state is None:
            state = known[each.uri] = await state_of(each.uri)
        if all(_true(condition, state) != condition.negated for condition in each.conditions):
            return True
    return False


def _true(condition: Condition, state: State) -> bool:
    if condition.tag:
        return condition.tag == state.etag
    return condition.token in state.tokens
