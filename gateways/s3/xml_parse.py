# SPDX-License-Identifier: Apache-2.0
"""Request bodies in XML: parsed without DTD, entities and external references, within limits of size and depth.

Namespaces are ignored, unknown elements too; everything else that is wrong is 400 `MalformedXML`.
Source: spec s3 §8 (rules, sizes), §19 (security), §9, §11.4, §11.8, §12 (the bodies), §7.6 (ACL).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError

from core.object.api import Buffer
from gateways.s3.errors import S3Error

MAX_BYTES = 1 << 20
MAX_BYTES_LISTS = 2 << 20  # DeleteObjects and CompleteMultipartUpload
MAX_DEPTH = 16
MAX_DELETE = 1000
MAX_PARTS = 10_000


def _malformed(message: str | None = None) -> S3Error:
    return S3Error("MalformedXML", message)


class Node:
    """One element: local name, character data, children, attributes by local name."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.text = ""
        self.children: list[Node] = []

    def all(self, name: str) -> Iterator[Node]:
        return (child for child in self.children if child.name == name)

    def find(self, name: str) -> Node | None:
        """The only child of that name; two of a kind are malformed."""
        found = [child for child in self.children if child.name == name]
        if len(found) > 1:
            raise _malformed(f"The element {name} may occur only once in {self.name}.")
        return found[0] if found else None

    def find_text(self, name: str) -> str:
        """Text of an optional child, "" if it is absent. Keys keep their spaces; strip what isn't a key."""
        child = self.find(name)
        return child.text if child is not None else ""


class _Tree:
    """Target of the parser: builds nodes, stops at the depth limit."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._stack: list[Node] = []
        self._text: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise _malformed(f"Elements may be nested {MAX_DEPTH} levels deep at most.")
        names = {name.rpartition("}")[2]: value for name, value in attributes.items()} if attributes else attributes
        node = Node(tag.rpartition("}")[2], names)
        if self._stack:
            self._stack[-1].children.append(node)
        else:
            self.root = node
        self._stack.append(node)
        self._text.clear()

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, _tag: str) -> None:
        node = self._stack.pop()
        if not node.children and self._text:  # text between children is white space for the eye
            node.text = "".join(self._text)
        self._text.clear()

    def close(self) -> Node | None:
        return self.root


def parse(body: Buffer, *roots: str, limit: int = MAX_BYTES) -> Node:
    """The root element, whose local name must be one of `roots`."""
    if len(body) > limit:
        raise _malformed(f"The XML document is longer than {limit} bytes.")
    if not body:
        raise _malformed("The request body is empty; an XML document is required.")
    parser: Any = DefusedXMLParser(target=_Tree(), forbid_dtd=True, forbid_entities=True, forbid_external=True)
    try:
        parser.feed(bytes(body))
        root = parser.close()
    except (ParseError, DefusedXmlException, ValueError, LookupError) as e:
        raise _malformed() from e
    if not isinstance(root, Node) or root.name not in roots:
        raise _malformed(f"The root element must be {' or '.join(roots)}.")
    return root


def _integer(text: str, name: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise _malformed(f"{name} must be a number.")
    return int(text)


def _boolean(text: str, name: str, default: bool = False) -> bool:
    text = text.strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    if text:
        raise _malformed(f"{name} must be true or false.")
    return default


def plain_etag(text: str) -> str:
    """An ETag without white space and quotes, also if the quotes were escaped twice."""
    return text.strip().replace("&quot;", '"').replace("&#34;", '"').strip('"')


class ObjectToDelete(NamedTuple):
    key: bytes
    version_id: str = ""
    etag: str = ""
    last_modified: str = ""
    size: int | None = None


class DeleteRequest(NamedTuple):
    objects: list[ObjectToDelete]
    quiet: bool


def parse_delete(body: Buffer) -> DeleteRequest:
    """DeleteObjects: 1…1000 keys. Keys are not checked here: each gets its own answer."""
    root = parse(body, "Delete", limit=MAX_BYTES_LISTS)
    objects = []
    for node in root.all("Object"):
        key = version = etag = modified = size = ""
        for child in node.children:
            name = child.name
            if name == "Key":
                if key:
                    raise _malformed("An Object must have one Key.")
                key = child.text
            elif name == "VersionId":
                version = child.text.strip()
            elif name == "ETag":
                etag = plain_etag(child.text)
            elif name == "LastModifiedTime":
                modified = child.text.strip()
            elif name == "Size":
                size = child.text
        if not key:
            raise _malformed("An Object must have a Key.")
        objects.append(ObjectToDelete(key.encode(), version, etag, modified, _integer(size, "Size") if size else None))
    if not 1 <= len(objects) <= MAX_DELETE:
        raise _malformed(f"A Delete must name 1 to {MAX_DELETE} objects.")
    return DeleteRequest(objects, _boolean(root.find_text("Quiet"), "Quiet"))


class CompletedPart(NamedTuple):
    """checksums: algorithm as in headers (`crc32`) -> base64, as the client repeats it."""

    number: int
    etag: str
    checksums: dict[str, str]


def parse_complete(body: Buffer) -> list[CompletedPart]:
    """CompleteMultipartUpload: at least one part, numbers ascending (else 400 `InvalidPartOrder`)."""
    root = parse(body, "CompleteMultipartUpload", "CompleteMultipartUploadResult", limit=MAX_BYTES_LISTS)
    parts: list[CompletedPart] = []
    for node in root.all("Part"):
        number = etag = ""
        checksums = {}
        for child in node.children:
            name = child.name
            if name == "PartNumber":
                number = child.text
            elif name == "ETag":
                etag = plain_etag(child.text)
            elif name.startswith("Checksum") and child.text:
                checksums[name[8:].lower()] = child.text.strip()
        if not number or not etag:
            raise _malformed("A Part must have a PartNumber and an ETag.")
        parts.append(CompletedPart(_integer(number, "PartNumber"), etag, checksums))
    if not 1 <= len(parts) <= MAX_PARTS:
        raise _malformed(f"You must specify 1 to {MAX_PARTS} parts.")
    if parts[0].number < 1:
        raise S3Error("InvalidArgument", "PartNumber must be >= 1.", extra=(("ArgumentName", "PartNumber"),))
    if any(a.number >= b.number for a, b in pairwise(parts)):
        raise S3Error("InvalidPartOrder")
    return parts


def _tags(tag_set: Node) -> list[tuple[str, str]]:
    tags = []
    for node in tag_set.all("Tag"):
        key, value = node.find("Key"), node.find("Value")
        if key is None or value is None:
            raise _malformed("A Tag must have a Key and a Value.")
        tags.append((key.text, value.text))
    return tags


class CreateBucket(NamedTuple):
    location: str = ""
    tags: tuple[tuple[str, str], ...] = ()


def parse_create_bucket(body: Buffer) -> CreateBucket:
    """CreateBucketConfiguration; no body means all defaults."""
    if not body:
        return CreateBucket()
    root = parse(body, "CreateBucketConfiguration")
    tag_set = root.find("Tags")
    tags = tuple(_tags(tag_set)) if tag_set is not None else ()
    return CreateBucket(root.find_text("LocationConstraint").strip(), tags)


def parse_tagging(body: Buffer) -> list[tuple[str, str]]:
    """Pairs of a Tagging document, in order and unchecked: see `tags.check_tags`."""
    tag_set = parse(body, "Tagging").find("TagSet")
    if tag_set is None:
        raise _malformed("A Tagging must have a TagSet.")
    return _tags(tag_set)


class Versioning(NamedTuple):
    status: str  # Enabled or Suspended
    mfa_delete: bool


def parse_versioning(body: Buffer) -> Versioning:
    root = parse(body, "VersioningConfiguration")
    status, mfa = root.find_text("Status").strip(), root.find_text("MfaDelete").strip()
    if status not in ("Enabled", "Suspended") or mfa not in ("", "Enabled", "Disabled"):
        raise _malformed("Status must be Enabled or Suspended, MfaDelete Enabled or Disabled.")
    return Versioning(status, mfa == "Enabled")


OWNERSHIPS = ("BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter")


def parse_ownership_controls(body: Buffer) -> str:
    """The ownership of the only rule."""
    rules = list(parse(body, "OwnershipControls").all("Rule"))
    value = rules[0].find_text("ObjectOwnership").strip() if len(rules) == 1 else ""
    if value not in OWNERSHIPS:
        raise _malformed(f"OwnershipControls must have one Rule with ObjectOwnership {', '.join(OWNERSHIPS)}.")
    return value


def parse_public_access_block(body: Buffer) -> dict[str, bool]:
    """Keyword arguments of `xml.public_access_block`; absent settings are off."""
    root = parse(body, "PublicAccessBlockConfiguration")
    names = {
        "block_public_acls": "BlockPublicAcls",
        "ignore_public_acls": "IgnorePublicAcls",
        "block_public_policy": "BlockPublicPolicy",
        "restrict_public_buckets": "RestrictPublicBuckets",
    }
    return {name: _boolean(root.find_text(element), element) for name, element in names.items()}


class Grant(NamedTuple):
    """kind: CanonicalUser, Group or AmazonCustomerByEmail. grantee: id, URI or address."""

    kind: str
    grantee: str
    permission: str
    display_name: str = ""


PERMISSIONS = ("FULL_CONTROL", "WRITE", "WRITE_ACP", "READ", "READ_ACP")
_GRANTEES = {"CanonicalUser": "ID", "Group": "URI", "AmazonCustomerByEmail": "EmailAddress"}


def parse_access_control_policy(body: Buffer) -> tuple[str, list[Grant]]:
    """Owner id ("" if absent) and grants; anything wrong is 400 `MalformedACLError`."""
    try:
        root = parse(body, "AccessControlPolicy")
        owner, acl = root.find("Owner"), root.find("AccessControlList")
        if acl is None:
            raise _malformed()
        grants = []
        for node in acl.all("Grant"):
            grantee, permission = node.find("Grantee"), node.find_text("Permission").strip()
            kind = grantee.attributes.get("type", "").rpartition(":")[2] if grantee is not None else ""
            if grantee is None or kind not in _GRANTEES or permission not in PERMISSIONS:
                raise _malformed()
            who = grantee.find_text(_GRANTEES[kind]).strip()
            if not who:
                raise _malformed()
            grants.append(Grant(kind, who, permission, grantee.find_text("DisplayName")))
    except S3Error as e:
        raise S3Error("MalformedACLError") from e
    return (owner.find_text("ID").strip() if owner is not None else ""), grants
