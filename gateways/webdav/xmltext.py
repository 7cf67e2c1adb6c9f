# SPDX-License-Identifier: Apache-2.0
"""XML in and out: a strict parser for request bodies, and a serializer whose output stands by itself.

Requests may hold no DTD, entities or external references, and are bounded in size, depth and number of elements.
What clients gave us is never echoed: it is parsed and written anew. Source: spec webdav §2.4, §4.2, §20.
"""

from __future__ import annotations

from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError, XMLPullParser
from xml.sax.saxutils import escape

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from gateways.webdav.config import MAX_XML_DEPTH, MAX_XML_ELEMENTS
from gateways.webdav.errors import DavError

DAV: Final = "DAV:"
LANG: Final = "{http://www.w3.org/XML/1998/namespace}lang"
_XML_NS: Final = "http://www.w3.org/XML/1998/namespace"


class _Bounded:
    """A tree target that counts (wraps the one of ElementTree)."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._depth = self._elements = 0
        self.data = inner.data
        self.close = inner.close

    def start(self, tag: str, attrs: dict[str, str]) -> Any:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_XML_DEPTH or self._elements > MAX_XML_ELEMENTS:
            raise DavError(400, "The XML document is too deep or has too many elements.")
        return self._inner.start(tag, attrs)

    def end(self, tag: str) -> Any:
        self._depth -= 1
        return self._inner.end(tag)


def parse(body: bytes) -> Element:
    """The root element. 400 for anything that isn't namespace-well-formed XML without DTD, in UTF-8 or UTF-16."""
    from xml.etree.ElementTree import TreeBuilder

    parser = DefusedXMLParser(
        target=_Bounded(TreeBuilder()), forbid_dtd=True, forbid_entities=True, forbid_external=True
    )
    try:
        parser.feed(body)
        root = parser.close()
    except DefusedXmlException:
        raise DavError(400, "The XML document must not have a DTD.") from None
    except (ParseError, ValueError, LookupError) as error:
        raise DavError(400, "The body is no well-formed XML.") from error
    if not isinstance(root, Element):
        raise DavError(400, "The body is no well-formed XML.")
    return root


def split_tag(tag: str) -> tuple[str, str]:
    """{namespace}local to its halves."""
    if tag.startswith("{"):
        space, _, local = tag[1:].partition("}")
        return space, local
    return "", tag


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def _text(text: str | None) -> str:
    return escape(text, {"\r": "&#13;"}) if text else ""


def inner_xml(element: Element) -> str:
    """Content of an element, each top element declaring what it uses; comments and instructions are dropped."""
    parts = [_text(element.text)]
    for child in element:
        if isinstance(child.tag, str):
            _write(parts, child, None)
        parts.append(_text(child.tail))
    return "".join(parts)


def _write(parts: list[str], element: Element, default: str | None) -> None:
    """default: the namespace that unprefixed names have here, None if unknown."""
    space, local = split_tag(element.tag)
    parts.append("<" + local)
    if space != default:
        parts.append(f' xmlns="{_attribute(space)}"')
    for number, (name, value) in enumerate(element.attrib.items()):
        aspace, alocal = split_tag(name)
        if not aspace:
            parts.append(f' {alocal}="{_attribute(value)}"')
        elif aspace == _XML_NS:
            parts.append(f' xml:{alocal}="{_attribute(value)}"')
        else:
            parts.append(f' xmlns:a{number}="{_attribute(aspace)}" a{number}:{alocal}="{_attribute(value)}"')
    inside = [_text(element.text)]
    for child in element:
        if isinstance(child.tag, str):
            _write(inside, child, space)
        inside.append(_text(child.tail))
    text = "".join(inside)
    parts.append(f">{text}</{local}>" if text else "/>")


def is_fragment(text: str) -> bool:
    """Is this inner XML that can be put into an answer as it is?"""
    parser: XMLPullParser[Any] = XMLPullParser(events=())
    try:
        parser.feed("<x>")
        parser.feed(text)
        parser.feed("</x>")
        parser.close()
    except (ParseError, ValueError):
        return False
    return "<!" not in text and "<?" not in text
