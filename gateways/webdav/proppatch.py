# SPDX-License-Identifier: Apache-2.0
"""PROPPATCH: changes judged one by one, applied together or not at all, and answered property by property.

Answered here and not by WsgiDAV: each request is one transaction, and refusals name their precondition.
Source: spec webdav §6; RFC 4918 §9.2, §14.19.
"""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from core.errors import FsError
from gateways.webdav.errors import REASONS, DavError, from_exception
from gateways.webdav.export import Node
from gateways.webdav.gate import Call
from gateways.webdav.properties import live
from gateways.webdav.properties.dead import Name
from gateways.webdav.properties.patch import Patch
from gateways.webdav.propfind import HEAD, TAIL
from gateways.webdav.xmltext import split_tag

_FAILED_DEPENDENCY: Final = DavError(424)


async def proppatch(call: Call, node: Node, document: Element) -> bytes:
    """The multistatus. 400 for another document; failures that aren't a property's fault are raised."""
    if document.tag != "{DAV:}propertyupdate":
        raise DavError(400, "The body must be a DAV: propertyupdate element.")
    export = call.export
    patch = Patch(export.fs, node, caller=export.caller, dead_props=call.config.dead_props)
    outcomes = _judge(patch, document)
    if not any(outcomes.values()):
        failure = await _apply(patch)
        if failure is not None:
            # One transaction, one reason: it is true of each of them.
            outcomes = dict.fromkeys(outcomes, failure)
    href = call.href(call.path, collection=node.is_dir)
    parts = "".join(_propstat(error, names) for error, names in _groups(outcomes))
    return HEAD + f"<D:response><D:href>{escape(href)}</D:href>{parts}</D:response>".encode("utf-8", "replace") + TAIL


def _judge(patch: Patch, document: Element) -> dict[Name, DavError | None]:
    """Every property that is named, in document order, with what is wrong with it."""
    outcomes: dict[Name, DavError | None] = {}
    for block in document:
        if block.tag not in ("{DAV:}set", "{DAV:}remove"):
            continue
        for prop in block:
            for each in prop if prop.tag == "{DAV:}prop" else ():
                name = split_tag(each.tag)
                try:
                    patch.add(each.tag, each if block.tag == "{DAV:}set" else None)
                    outcomes.setdefault(name, None)
                except DavError as error:
                    outcomes[name] = error
    return outcomes


async def _apply(patch: Patch) -> DavError | None:
    try:
        await patch.apply()
    except (DavError, FsError) as error:
        known = from_exception(error, changing=True)
        if known is None or known.status in (500, 503):
            raise
        return known
    return None


def _groups(outcomes: dict[Name, DavError | None]) -> list[tuple[DavError | None, list[Name]]]:
    """Properties by outcome; where one fails, the good ones have failed with it."""
    failed = any(outcomes.values())
    found: dict[tuple[int, str, str], tuple[DavError | None, list[Name]]] = {}
    for name, error in outcomes.items():
        if error is None and failed:
            error = _FAILED_DEPENDENCY
        key = (error.status, error.condition, error.text) if error is not None else (200, "", "")
        found.setdefault(key, (error, []))[1].append(name)
    return list(found.values()) or [(None, [])]


def _propstat(error: DavError | None, names: list[Name]) -> str:
    inner = "".join(live.dead_element(name, None) for name in names)
    status = error.status if error is not None else 200
    text = f"<D:propstat><D:prop>{inner}</D:prop><D:status>HTTP/1.1 {status} {REASONS[status]}</D:status>"
    if error is not None and error.condition:
        text += f"<D:error><D:{error.condition}/></D:error>"
    elif error is not None and error.text:
        text += f"<D:responsedescription>{escape(error.text)}</D:responsedescription>"
    return text + "</D:propstat>"
